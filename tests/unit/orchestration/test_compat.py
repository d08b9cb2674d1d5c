"""Private names of Ray: the tested version has them all, and a version without one loses that and nothing else."""

import json
import os
import queue
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from types import ModuleType
from types import SimpleNamespace as Made
from typing import Any

import pytest
import ray.train

from distseg.orchestration import compat, trainer
from tests.conftest import REPOSITORY

CONTROLLER: Any = type("Controller", (), {"worker_group_cls": dict})()
LOOKED_UP: dict[str, Callable[[], object]] = {
    "_global_node": compat.started_this_cluster,
    "canonicalize_bootstrap_address": lambda: compat.starts_a_cluster(""),
    "read_ray_address": compat.last_address,
    "ENABLE_RAY_CLUSTER": compat.listen_on_loopback,
    "stdout_deduplicator": compat.leave_out_last_words,
    "state": compat.autoscaler_machines,
    "RAY_JOB_CONFIG_JSON_ENV_VAR": compat.submitted_job_id,
    "CHECKPOINT_MANAGER_SNAPSHOT_FILENAME": compat.checkpoint_snapshot_name,
    "get_train_context": compat.preemption_deadline_ms,
    "WorkerGroupCallback": compat.worker_group_callback,
    "FixedScalingPolicy": compat.fixed_scaling_policy,
    "TrainController": compat.train_controller,
    "PlacementGroupTableData": compat.tells_places,
    "WorkerGroup": lambda: compat.worker_group(CONTROLLER),
    "PreemptionWatcher": lambda: trainer.hear_notices_here(Made(_worker_group_callbacks_to_propagate=[])),
}
MODULES = (
    "ray._private.worker",
    "ray._private.state",
    "ray._private.runtime_env.constants",
    "ray.core.generated.gcs_pb2",
    "ray.train.v2._internal.constants",
    "ray.train.v2._internal.execution.callback",
    "ray.train.v2._internal.execution.context",
    "ray.train.v2._internal.execution.controller",
    "ray.train.v2._internal.execution.preemption",
    "ray.train.v2._internal.execution.scaling_policy",
    "ray.train.v2._internal.execution.worker_group",
)
MODULES_OF_RAY_ITSELF = (  # which it imports again and again
    "ray._private.services",
    "ray._private.utils",
    "ray._private.ray_constants",
    "ray._private.ray_logging",
)


@pytest.fixture(autouse=True)
def each_is_told_anew() -> Iterator[None]:
    compat.warn_once.cache_clear()
    yield
    compat.warn_once.cache_clear()


def test_the_lock_has_the_tested_version() -> None:
    locked = re.search(r"^ray==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert locked and locked[1] == compat.TESTED


@pytest.mark.skipif(metadata.version("ray") != compat.TESTED, reason="another version may lack some")
def test_the_tested_version_has_every_name(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("ray._private.state.state.get_cluster_config", lambda: None)  # no cluster
    monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr(
        "ray._private.services.find_gcs_addresses", set
    )  # other tests may have clusters on this machine
    for look_up in LOOKED_UP.values():
        look_up()
    assert caplog.messages == []


def test_a_notice_reaches_all_workers_by_a_thread_of_the_controllers(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train.v2._internal.callbacks.preemption_callback import PreemptionCallback

    class Worker:
        def __init__(self, rank: int, node_id: str, heard: "queue.SimpleQueue[tuple[int, Any]]") -> None:
            self.distributed_context, self.metadata = Made(world_rank=rank), Made(node_id=node_id)
            self.actor = Made(mark_preempt=Made(remote=lambda info: heard.put((rank, info))))

    def group_of(*node_ids: str) -> Any:
        return Made(get_workers=lambda: [Worker(rank, node_id, heard) for rank, node_id in enumerate(node_ids)])

    heard: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    draining = {"b": 7000}
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.01")
    monkeypatch.setattr("ray._private.state.state.get_draining_nodes", lambda: draining)
    monkeypatch.setattr(ray, "nodes", list)
    callback: Any = PreemptionCallback()
    other = ray.train.UserCallback()
    trainer.hear_notices_here(Made(_worker_group_callbacks_to_propagate=[other, callback]))

    callback.after_worker_group_start(group_of("a", "b"))
    told = dict(heard.get(timeout=60) for _ in range(2))
    assert [info.deadline_ms for info in told.values()] == [7000, 7000] and set(told) == {0, 1}
    assert told[0].preempted_node_to_ranks == {"b": [1]}
    first: Any = callback._watcher
    callback.after_worker_group_start(group_of("a"))
    assert first._stop_event.is_set() and not callback._watcher._stop_event.is_set()
    second: Any = callback._watcher
    callback.before_worker_group_shutdown(group_of("a"))
    assert second._stop_event.is_set() and callback._watcher is None
    second._monitor_thread.join(60)
    assert heard.empty()  # the second group is not where a machine will go away


def test_a_controller_with_other_names_keeps_rays_own_process_and_one_line_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        trainer.hear_notices_here(Made())
    (message,) = caplog.messages
    assert "_worker_group_callbacks_to_propagate" in message and message.endswith("starts one process more")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("ray.train.v2._internal.execution.worker_group.WorkerGroup", "_create_workers"),
        ("ray.train.v2._internal.execution.context.TrainContext", "checkpoint_upload_threadpool"),
    ],
)
def test_workers_whose_inside_has_other_names_begin_anew(
    owner: str, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(f"{owner}.{name}")
    assert compat.worker_group(CONTROLLER) is compat.worker_group(CONTROLLER) is None
    (message,) = caplog.messages
    assert f"{owner.rpartition('.')[2]}.{name} (" in message and message.endswith("starts its workers anew")


@pytest.mark.parametrize("name", LOOKED_UP)
@pytest.mark.parametrize("is_module_there", [True, False])
def test_a_missing_name_is_told_once_and_done_without(
    name: str, is_module_there: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in (*MODULES, *MODULES_OF_RAY_ITSELF):  # sys.modules[…] = None makes `import` raise ImportError
        monkeypatch.setitem(sys.modules, module, ModuleType(module) if is_module_there else None)
    first, second = LOOKED_UP[name](), LOOKED_UP[name]()
    assert first == second == WITHOUT[name]
    (message,) = caplog.messages
    assert message.startswith(f"Ray {ray.__version__} has no ray.") and f".{name} (tested: Ray " in message


WITHOUT = {
    "_global_node": False,
    "canonicalize_bootstrap_address": False,
    "read_ray_address": "",
    "ENABLE_RAY_CLUSTER": None,
    "stdout_deduplicator": None,
    "state": None,
    "RAY_JOB_CONFIG_JSON_ENV_VAR": "",
    "CHECKPOINT_MANAGER_SNAPSHOT_FILENAME": "checkpoint_manager_snapshot.json",
    "get_train_context": None,
    "WorkerGroupCallback": ray.train.UserCallback,
    "FixedScalingPolicy": None,
    "TrainController": None,
    "PlacementGroupTableData": False,
    "PreemptionWatcher": None,
    "WorkerGroup": None,
}


def test_the_log_of_a_dead_raylet_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Ray's thread prints what the cluster tells this process."""
    from ray._private import ray_logging, worker

    monkeypatch.setattr(ray_logging.stdout_deduplicator, "skip_re", None)
    said = ["Raylet is terminated. Termination is unexpected. Last 20 lines:\n    *** SIGABRT", "something else"]

    def print_all() -> str:
        for line in said:
            worker.print_to_stdstream({"lines": [line], "pid": "raylet", "is_err": False}, ignore_prefix=False)
        return capsys.readouterr().out

    assert "SIGABRT" in print_all()
    ray_logging.stdout_deduplicator.flush()
    compat.leave_out_last_words()
    assert "SIGABRT" not in (shown := print_all()) and "something else" in shown


def test_a_submitted_job_is_known_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compat.submitted_job_id() == ""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "mine"}}))
    assert compat.submitted_job_id() == "mine"


WITHOUT_PRIVATE_NAMES = """
import logging, sys
logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
import ray.train.torch
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.config import RunConfig, ScalingConfig
for name in MODULES:
    sys.modules[name] = None
from distseg.orchestration import driver, failures, trainer
callback = failures.GroupCallback(channel=None)
made = trainer.LeanTorchTrainer(
    driver.train_rank, scaling_config=ScalingConfig(num_workers=1), run_config=RunConfig(callbacks=[callback])
)
kept = []
trainer.TorchTrainer._initialize_and_run_controller = lambda self, **options: kept.append(options["scaling_policy"])
made._initialize_and_run_controller(scaling_policy=FixedScalingPolicy(made.scaling_config))
print(type(kept[0]).__name__, [type(c).__name__ for c in made._create_default_callbacks()])
"""


def test_without_any_private_name_a_trainer_is_made_with_rays_own_helpers() -> None:
    code = WITHOUT_PRIVATE_NAMES.replace("MODULES", repr(MODULES))
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=os.environ, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("FixedScalingPolicy ") and "PlacementGroupCleanerCallback" in ended.stdout
    told = [line for line in ended.stderr.splitlines() if line.startswith("distseg.orchestration.compat:")]
    assert len(told) == 4, (
        ended.stderr
    )  # the base of GroupCallback, the policy, the controller, who started the cluster
