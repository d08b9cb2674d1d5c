"""What a user reads when Ray ends a training."""

import contextlib
import json
import os
import platform
import resource
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import ray.train
from ray._private.utils import check_version_info

from distseg.config import DataConfig, RunConfig, ScalingConfig
from distseg.errors import ConfigError, DistsegError, ResourceError, TrainingError
from distseg.orchestration import cluster, compat, environment, trainer
from distseg.orchestration.cluster import check_resources, job_id
from distseg.orchestration.failures import error_of
from distseg.orchestration.remote_files import forget_if_broken
from distseg.orchestration.trainer import LeanTorchTrainer
from distseg.training.checkpoint import META_FILE

KILLED = """4 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: af94)
was 22.47GB used / 23.54GB limit (0.954368)
Refer to the documentation on how to address the out of memory issue: https://docs.example.com/debug-memory.html."""


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (ray.train.ControllerError(RuntimeError(KILLED)), ResourceError, "22.47GB of 23.54GB in use"),
        (ray.train.WorkerGroupError("", {1: RuntimeError(KILLED)}), ResourceError, "lower data.batch_size"),
        (ray.train.WorkerGroupError("", {1: RuntimeError("x\nlast")}), TrainingError, "worker 1 failed .*: last$"),
        (ray.train.ControllerError(RuntimeError("x\nlast")), TrainingError, "training failed: last$"),
        (
            ray.train.ControllerError(RuntimeError("Path not found: (<pyarrow._fs.LocalFileSystem at 0x7>, /a/run/c)")),
            TrainingError,
            "^/a/run/c was removed while the run was training; if it has saved since, go on with: .* --resume /a/run$",
        ),
        (
            ray.train.ControllerError(RuntimeError("Failed to open local file '/a/run/x'. Detail: No such file or di")),
            TrainingError,
            "^/a/run/x was removed while",
        ),
    ],
)
def test_one_line_says_why(failure: ray.train.TrainingFailedError, kind: type[DistsegError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        raise error_of(failure)
    assert "\n" not in str(caught.value)


def test_a_changing_number_of_workers_needs_checkpoints() -> None:
    config = RunConfig(scaling=ScalingConfig(num_workers=2, min_workers=1))
    with pytest.raises(ConfigError, match=r"scaling.min_workers = 1: .*; give checkpoint.every_steps"):
        check_resources(config)


@pytest.mark.parametrize(
    ("settings", "stays"),
    [
        ({}, True),
        ({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}, False),  # others are to join it
        ({"GLOO_SOCKET_IFNAME": "eth0"}, False),
    ],
)
def test_a_cluster_that_is_started_here_stays_on_loopback_unless_the_user_wants_more(
    settings: dict[str, str], stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", True)
    for name in environment.LOOPBACK:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    cluster._stay_on_loopback()
    assert (not stays) == ray._private.ray_constants.ENABLE_RAY_CLUSTER
    assert (os.environ.get("GLOO_SOCKET_IFNAME") == "lo") == stays


@pytest.fixture
def asked_of_ray(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The addresses that `ray.init` is called with; it begins nothing."""
    addresses: list[str | None] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **_: addresses.append(address))
    monkeypatch.setattr(environment, "set_defaults", lambda _: None)
    monkeypatch.setattr(cluster, "_stay_on_loopback", lambda: addresses.append("loopback"))
    monkeypatch.setattr(compat, "starts_a_cluster", "local".__eq__)  # others may have one on this machine
    return addresses


def test_a_cluster_that_died_here_is_not_waited_for(
    asked_of_ray: list[str | None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray notes the address of each `ray start`, and joins it although a kill or a power cut has ended that cluster."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(compat, "last_address", lambda: address)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        cluster.join("runs/x")
    assert asked_of_ray == [None] and not caplog.messages  # it is alive: Ray finds it
    cluster.join("runs/x")
    assert asked_of_ray == [None, "loopback", "local"]
    (message,) = caplog.messages
    assert f"{address}, does not answer (Connection refused): a new one is started" in message
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ResourceError, match=rf"^RAY_ADDRESS = {address}: no Ray cluster answers there"):
        cluster.join("runs/x")


@pytest.mark.parametrize("has_gpu", [False, True])
def test_workers_on_cpus_have_one_arena_of_memory(
    has_gpu: bool, asked_of_ray: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str] = {}
    monkeypatch.setattr(environment, "set_defaults", given.update)
    monkeypatch.setattr(cluster, "_has_gpu", lambda: has_gpu)
    monkeypatch.setattr(cluster, "_address", lambda: "local")
    cluster.join("runs/x")
    assert asked_of_ray[-1] == "local"
    assert given["GLIBC_TUNABLES"].endswith(":glibc.malloc.arena_max=1") != has_gpu


def test_a_ray_that_is_started_here_has_no_dashboard(
    asked_of_ray: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    started_with: list[bool] = []
    monkeypatch.setattr(ray, "init", lambda _, **options: started_with.append(options["include_dashboard"]))
    monkeypatch.setattr(cluster, "_address", lambda: "local")
    cluster.join("runs/x")
    assert started_with == [False]


@pytest.mark.parametrize(
    ("user", "of_user", "of_group", "says"),
    [
        (1000, 60, -1, r"^this process may have 60 processes and threads, Ray needs .* \(ulimit -u\), join a cluster"),
        (1000, -1, 100, r"^this process may have 100 processes .* raise the limit \(that of its container\)"),
        (1000, 4096, 4096, ""),
        (0, 60, -1, ""),  # root's is not enforced
    ],
)
def test_too_few_processes_for_a_cluster_are_said_before_it_is_started(
    user: int, of_user: int, of_group: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: user)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (of_user, of_user))
    monkeypatch.setattr(cluster, "_group_limit", lambda: of_group)
    with pytest.raises(ResourceError, match=says) if says else contextlib.nullcontext():
        cluster._check_number_of_processes()


def test_the_control_groups_limit_of_processes_is_found() -> None:
    """Whatever this machine has: a number, or none."""
    assert cluster._group_limit() >= -1


def test_a_cluster_with_another_version_of_ray_is_one_line_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray.init` ends by the check that is called here; only the cluster is made up."""
    about_cluster = {"ray_version": "2.9.3", "python_version": "3.9.7"}

    def join(*_: object, **__: object) -> None:
        check_version_info(about_cluster, "node 192.0.2.7", raise_on_mismatch=True)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", join)
    monkeypatch.setattr(cluster, "check_address", lambda address: None)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    both = f"has Ray 2.9.3 and Python 3.9.7, this program Ray {ray.__version__} and Python {platform.python_version()}:"
    with pytest.raises(ResourceError, match=rf"^the Ray cluster at 192.0.2.1:6379 {both} install .*") as caught:
        cluster.join("runs/x")
    assert "\n" not in str(caught.value)


def test_the_token_that_ray_writes_is_for_its_user_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cluster._tighten_token()  # there is none
    (tmp_path / ".ray").mkdir()
    token = tmp_path / ".ray" / "auth_token"
    token.write_text("secret")
    token.chmod(0o644)
    cluster._tighten_token()
    assert token.stat().st_mode & 0o777 == 0o600


MANY = 1000


@pytest.mark.parametrize(
    ("machines", "gpu", "num_workers", "refused"),
    [
        ([({"CPU": 8}, 4)], False, 8, ""),
        ([({"CPU": 8}, 4)], True, 8, "its autoscaler can bring up machines for 0; lower scaling.num_workers"),
        ([({"CPU": 8}, -1), ({"CPU": 8, "GPU": 4}, 1)], True, 8, "can bring up machines for 4;"),
        ([({"CPU": 8, "GPU": 4}, 2)], True, 8, ""),
        ([({"CPU": 2, "GPU": 8}, 3)], True, 8, "can bring up machines for 3;"),  # a GPU without a CPU is of no use
        ([({"CPU": 3}, 4)], False, 8, "can bring up machines for 4;"),  # a worker is not spread over two machines
        ([({"CPU": 4, "GPU": 1}, -1)], True, MANY, ""),
        ([({"CPU": 8, "GPU": 8}, 0)], True, 8, "can bring up machines for 0;"),
        (None, True, 8, r"\(1 machines, 2 CPUs, 0 GPUs\) can hold 0 workers of 2 CPU and 1 GPU each; lower"),
    ],
)
def test_what_an_autoscaler_may_bring_up_counts_and_nothing_else(
    machines: list[tuple[dict[str, int], int]] | None,
    gpu: bool,
    num_workers: int,
    refused: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _cluster_of(machines, monkeypatch)
    scaling = ScalingConfig(num_workers=num_workers, gpu=gpu, cpus_per_worker=2)
    config = RunConfig(scaling=scaling, data=DataConfig(batch_size=num_workers))
    if not refused:
        check_resources(config)
        return
    with pytest.raises(ResourceError, match=rf"scaling.num_workers = {num_workers}: .*{refused}"):
        check_resources(config)


def test_machines_of_which_the_autoscaler_tells_nothing_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _cluster_of([({}, 4)], monkeypatch)
    check_resources(RunConfig(scaling=ScalingConfig(num_workers=8, gpu=True)))
    assert "the autoscaler does not tell what its machines have: they are waited for" in caplog.text


def _cluster_of(machines: list[tuple[dict[str, int], int]] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One machine with two CPUs, and what its autoscaler reports, as Ray's state holds it."""
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    groups = [SimpleNamespace(resources=resources, max_count=count) for resources, count in machines or ()]
    reported = None if machines is None else SimpleNamespace(node_group_configs=groups)
    monkeypatch.setattr("ray._private.state.state.get_cluster_config", lambda: reported)


def test_a_submitted_job_is_named_as_ray_job_list_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"runtime_env": {}, "metadata": {"job_submission_id": "raysubmit_abc"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(known))
    assert job_id() == "raysubmit_abc"


@pytest.mark.parametrize(
    ("noted", "is_kept"),
    [
        ({"ray_version": ray.__version__, "checkpoint_results": ["there"]}, True),
        ({"ray_version": ray.__version__, "checkpoint_results": ["there", "deleted"]}, False),
        ({"ray_version": "2.1", "checkpoint_results": ["there"]}, False),
        ({"ray_version": ray.__version__}, False),
    ],
)
def test_what_ray_noted_of_checkpoints_that_are_gone_does_not_stop_a_resumed_run(
    noted: dict[str, object], is_kept: bool, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / META_FILE).touch()
    snapshot = tmp_path / compat.checkpoint_snapshot_name()
    if isinstance(names := noted.get("checkpoint_results"), list):
        noted = {**noted, "checkpoint_results": [{"checkpoint_dir_name": name} for name in names]}
    snapshot.write_text(json.dumps({"pending_training_results": [], **noted}))
    forget_if_broken(str(tmp_path))
    assert snapshot.exists() == is_kept
    forget_if_broken(str(tmp_path / "there"))  # a run that Ray did not train


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray copies settings of its own
def test_a_training_starts_no_helper_of_rays_that_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(
        *, started: bool = False, actor: bool = False, trial: bool = False, here: bool = True, tells: bool = True
    ) -> set[str]:
        monkeypatch.setattr(compat, "started_this_cluster", lambda: started)
        monkeypatch.setattr(trainer, "controls_here", lambda: here)
        monkeypatch.setattr(trainer, "_is_actor", lambda: actor)
        monkeypatch.setattr(compat, "tells_places", lambda: tells)
        made = LeanTorchTrainer(lambda: None)
        made.search_frees_place = trial
        return {type(callback).__name__ for callback in made._create_default_callbacks()}

    kept = of(here=False)  # the controller is an actor, whose place nobody else frees
    assert kept >= {"BackendSetupCallback", "PlacementGroupCleanerCallback"} and "DatasetsCallback" not in kept
    assert of(actor=True) == of(actor=True, trial=True, tells=False) == of(trial=True, here=False) == kept
    freed = kept - {"PlacementGroupCleanerCallback"}
    assert of() == of(actor=True, trial=True) == of(started=True, here=False) == freed
