"""What a program does not load before it needs it, and how it ends."""

import subprocess
import sys
from pathlib import Path

import pytest


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("program", ["train", "pack", "study"])
def test_what_packs_and_lists_is_there_without_torch(program: str) -> None:
    ended = python(f"import sys, distseg.{program}; print({{'torch', 'ray', 'mlflow'}} & sys.modules.keys())")
    assert (ended.stdout, ended.stderr) == ("set()\n", "")


def test_recipes_are_listed_without_torch() -> None:
    ended = python("import sys; from distseg import train; train.main(['--list']); print('torch' in sys.modules)")
    lines = ended.stdout.splitlines()
    assert (lines[0].split()[0], lines[-1], ended.stderr) == ("town", "False", "")


def test_a_worker_of_ray_does_without_mlflow_which_its_driver_has(tmp_path: Path) -> None:
    ended = python(
        "import sys, distseg.orchestration.worker\n"
        "from distseg.config import CheckpointConfig, RunConfig, TrackingConfig\n"
        "from distseg.runs import NoLogs, Run, RunReporter\n"
        f"places = CheckpointConfig(uri={str(tmp_path)!r}), TrackingConfig(uri='http://127.0.0.1:1')\n"
        "config = RunConfig(checkpoint=places[0], tracking=places[1])\n"
        "report = RunReporter(config, Run.new(config), None, logs=NoLogs())\n"
        "report.log(1, {'train/loss': 1.0})\n"
        "report.close()\n"
        "print('mlflow' in sys.modules)\n"
    )
    assert (ended.stdout, ended.stderr) == ("False\n", "")
    assert '"train/loss": 1.0' in next(tmp_path.rglob("*.jsonl")).read_text()


def test_a_network_is_checked_without_torchs_compiler() -> None:
    ended = python(
        "import sys, torch\n"
        "from distseg.config import model_config\n"
        "from distseg.models import build_model\n"
        "with torch.device('meta'):\n"
        "    build_model(model_config(backbone='resnet18'), 13)\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    assert (ended.stdout, ended.stderr) == ("False\n", "")


@pytest.mark.parametrize("is_profiled", [False, True])
def test_a_program_ends_with_its_code_and_all_that_was_to_be_done_then(is_profiled: bool) -> None:
    ended = python(
        "import atexit, sys\n"
        "from distseg import cli\n"
        "atexit.register(print, 'and done')\n"
        f"sys.setprofile((lambda *_: None) if {is_profiled} else None)\n"
        "cli.run(lambda arguments: print('3 it is', end=' ') or 3)\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "3 it is and done\n", "")


def test_a_thread_is_waited_for() -> None:
    ended = python(
        "import threading, time\n"
        "from distseg import cli\n"
        "threading.Thread(target=lambda: (time.sleep(0.3), print('the thread, too'))).start()\n"
        "cli.run(lambda arguments: 0)\n"
    )
    assert (ended.returncode, ended.stdout) == (0, "the thread, too\n")
