"""A host of the cluster dies for good: the job goes on with the worker that is left; no step is lost or double."""

from dataclasses import replace
from pathlib import Path

import pytest

from distseg import storage
from distseg.config import CheckpointConfig, RunConfig, ScalingConfig
from distseg.training import checkpoint
from tests import programs, ranks
from tests.chaos.conftest import NIGHTLY_ON_HOSTS, SAVED_EVERY, write_config
from tests.conftest import REPOSITORY, make_bucket, run_script, use_environment
from tests.recorded import assert_each_once, only_run

pytestmark = NIGHTLY_ON_HOSTS

KILLED_AT, NUM_STEPS = SAVED_EVERY + 5, 4 * SAVED_EVERY
SOON = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "8"}  # the lost worker is waited for


def test_a_job_goes_on_with_one_worker_when_the_host_of_the_other_dies(
    config: RunConfig,
    data_uri: str,
    ray_hosts: dict[str, str],
    hosts_s3_server: dict[str, str],
    hosts_mlflow_server: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(
        config,
        model=replace(config.model, dropout=0.0),
        optim=replace(config.optim, max_steps=NUM_STEPS),
        precision="fp64",  # so that one rank and two agree
    )
    alone = replace(config, scaling=ScalingConfig(), checkpoint=CheckpointConfig())
    undisturbed = ranks.train(alone, 1, folder=tmp_path / "undisturbed")

    use_environment(hosts_s3_server | hosts_mlflow_server, monkeypatch)
    bucket = make_bucket()
    for file in storage.list_files(data_uri):
        storage.upload(file.uri, file.uri.replace(data_uri, f"{bucket}/toy"))
    config = replace(
        config,
        data=replace(config.data, uri=f"{bucket}/toy"),
        scaling=ScalingConfig(num_workers=2, min_workers=1),
        checkpoint=replace(config.checkpoint, uri=f"{bucket}/runs"),
        tracking=replace(config.tracking, uri=hosts_mlflow_server["MLFLOW_TRACKING_URI"], experiment="host-killed"),
    )
    named = [f"--env={name}" for name in (*hosts_s3_server, *hosts_mlflow_server, *SOON)]
    job = ("python", "-m", "distseg.train", "--config", write_config(config, tmp_path))
    arguments = ("cluster.submit", "--working-dir", str(REPOSITORY), *named, "--", *job)
    environment = programs.plain_environment() | ray_hosts | hosts_s3_server | hosts_mlflow_server | SOON
    try:
        with programs.start(tmp_path / "submit", environment, *arguments) as submitted:
            submitted.wait_for_step(KILLED_AT)
            run_script("cluster/local_hosts.sh", "kill", "1", env=ray_hosts)
            submitted.wait_for("starting again from the newest checkpoint with 1 workers instead of 2")
            ended = submitted.wait()
    finally:
        run_script("cluster/local_hosts.sh", "start", "1", env=ray_hosts)
    assert ended.code == 0, ended.out + ended.err
    recorded = only_run(config.tracking.uri, "host-killed")
    assert_each_once(recorded, NUM_STEPS)
    (resumed_at,) = recorded.values("train/resumed_at")
    assert resumed_at in range(SAVED_EVERY, NUM_STEPS, SAVED_EVERY)  # how far it gets while a host dies differs
    losses = [undisturbed[step]["train/loss"] for step in range(1, NUM_STEPS + 1)]
    assert recorded.values("train/loss") == pytest.approx(losses, rel=1e-5)
    found = checkpoint.newest(ended.printed("run"))
    assert found is not None and found[1].step == NUM_STEPS
