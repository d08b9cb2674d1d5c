"""Accidents to disks, S3 and MLflow, and what people do to jobs."""

import time
from collections.abc import Callable

from distseg import storage
from distseg.training import checkpoint
from tests.chaos.accidents.accident import LATER, Accidents
from tests.chaos.accidents.bench import full
from tests.chaos.accidents.training import Training
from tests.conftest import Service
from tests.recorded import only_run

MINUTE_S = 60.0

ACCIDENTS = Accidents()
accident = ACCIDENTS.add


# ---- disks


@accident("the disk for temporary files is full while ten steps are done", variables={"TMPDIR": "{TEMPORARY}"})
def temporary_full(it: Training) -> str:
    with full(it.bench.small_temporary):
        it.wait_for_step(LATER)
    return "checkpoints are written to their place directly, records kept in memory"


@accident("the disk of checkpoints and journal, shared by all hosts, is full", {"checkpoint.uri": "{SHARED}/runs"})
def disk_full(it: Training) -> str:
    with full(it.bench.shared):
        it.fails("the disk is full")
    it.resume()
    return "exit 1, one line; goes on with `--resume` once there is room"


# ---- S3


@accident("S3 is down for a minute")
def s3_down(it: Training) -> str:
    it.bench.s3.call("stop")
    time.sleep(MINUTE_S)
    it.bench.s3.call("start")
    it.goes_on_by_itself()
    return "waits; goes on by itself"


@accident("the key for S3 is withdrawn")
def key_withdrawn(it: Training) -> str:
    with it.bench.key_withdrawn():
        it.fails("does not know the key id|access denied")
    it.resume()
    return "exit 1, one line that names the key; goes on with `--resume` once there is one"


@accident("the bucket of checkpoints becomes read-only")
def bucket_read_only(it: Training) -> str:
    with it.bench.forbidden(it.bench.bucket.removeprefix("s3://"), "PutObject", "DeleteObject"):
        it.fails("access denied")
    it.resume()
    return "exit 1, one line; goes on with `--resume` once it may write"


@accident("the newest checkpoint is damaged while the job is stopped")
def checkpoint_damaged(it: Training) -> str:
    it.is_stopped()
    newest = checkpoint.found_in(it.run_uri)[0]
    weights = storage.join(newest.uri, checkpoint.WEIGHTS_FILE)
    content = bytearray(storage.read_bytes(weights))
    content[len(content) // 2] ^= 1
    storage.write_bytes(weights, bytes(content))
    it.resume()
    it.wait_for("passed over: .* is damaged")
    return "`--resume` names it and goes on from the one before"


# ---- MLflow


@accident("MLflow gets SIGKILL and is started again ten steps later")
def mlflow_killed(it: Training) -> str:
    return _away_for_ten_steps(it, it.bench.kill_mlflow, it.bench.mlflow)


@accident("PostgreSQL gets SIGKILL and is started again ten steps later")
def postgres_killed(it: Training) -> str:
    return _away_for_ten_steps(it, it.bench.kill_postgres, it.bench.postgres)


def _away_for_ten_steps(it: Training, kill: Callable[[], None], server: Service) -> str:
    kill()
    it.wait_for_step(LATER)
    server.call("start")
    return _all_is_sent(it)


def _all_is_sent(it: Training) -> str:
    ended = it.ends()
    if "not sent" in ended.out:
        it.sync()
        return "trains on; the rest is sent by `sync`"
    return "trains on; all is sent"


@accident("MLflow's artifact store refuses everything until the end")
def artifacts_refused(it: Training) -> str:
    with it.bench.forbidden("mlflow", "PutObject", "GetObject"):
        ended = it.ends()
    assert "not sent" in ended.out, ended.out
    it.sync()
    recorded = only_run(it.config.tracking.uri, it.config.tracking.experiment)
    assert "report/index.html" in recorded.artifacts("report")
    return "trains on; pictures and report are sent by `sync`"


# ---- jobs


@accident("the job is stopped (Ctrl-C) and resumed with one worker")
def stopped_and_resumed(it: Training) -> str:
    it.is_stopped()
    it.resume("--scaling.num_workers", "1")
    return "exit 130; goes on with one worker"


@accident("a second job is submitted for the same run")
def two_jobs(it: Training) -> str:
    it.resume()
    it.fails("is training it; wait for its end or stop it")
    it.jobs.pop()  # it did nothing; what counts is the first one
    return "the second one is refused, exit 1, one line that names the first"
