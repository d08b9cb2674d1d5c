"""A driver trains with new workers, with those of the time before, after one of them was killed, and with fewer.

What a training comes to does not depend on whose workers it has.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distseg.config import OptimConfig, RunConfig
from tests import programs
from tests.chaos.conftest import write_config

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]

DRIVER = """
import json, os, signal, sys, time
from dataclasses import replace
from pathlib import Path

import psutil
import ray

from distseg import orchestration
from distseg.config import from_dict
from distseg.orchestration.kept_workers import shelf

config = from_dict(json.loads(Path(sys.argv[1]).read_text()))

def train(config=config):
    warned = len(Path("err").read_text())
    outcome = orchestration.train(config, hands_workers_on=True)
    pids = [] if shelf._kept is None else sorted(worker.metadata.pid for worker in shelf._kept.workers)
    said = Path("err").read_text()[warned:]
    return {"scores": outcome.tables, "pids": pids, "restarts": said.count("starting again")}

ended = {"first": train(), "second": train()}
os.kill(ended["second"]["pids"][0], signal.SIGKILL)
ended["third"] = train()
alone = replace(config, scaling=replace(config.scaling, num_workers=1))
ended |= {"alone": train(alone), "alone again": train(alone)}
Path("ended.json").write_text(json.dumps(ended))
pids = [pid for training in ended.values() for pid in training["pids"]]
while ray.available_resources().get("CPU", 0.0) < 2 or any(psutil.pid_exists(pid) for pid in pids):
    time.sleep(0.1)  # nobody wants the last ones
"""


def test_the_next_training_has_the_workers_and_comes_to_the_same(
    ray_cluster: dict[str, str], config: RunConfig, tmp_path: Path
) -> None:
    config = replace(config, optim=OptimConfig(lr=0.01, head_lr_scale=1.0, max_steps=6))
    (tmp_path / "trains_again.py").write_text(DRIVER)
    ended = programs.run(tmp_path, ray_cluster, "trains_again", write_config(config, tmp_path))
    assert ended.code == 0, ended.err
    told = json.loads((tmp_path / "ended.json").read_text())
    first, second, third, alone, again = told.values()
    assert len(first["pids"]) == 2 and second["pids"] == first["pids"]
    assert len(third["pids"]) == 2 and not set(third["pids"]) & set(second["pids"])
    assert len(alone["pids"]) == 1 and again["pids"] == alone["pids"] != third["pids"][:1]
    assert [training["restarts"] for training in told.values()] == [0, 0, 0, 0, 0]
    assert alone["scores"] == again["scores"]
    assert first["scores"] == second["scores"] == third["scores"]
