"""The accidents. Each is one function: it waits until the training is under way, lets it happen, mends what a person
would have to mend, and asserts what the user was told. It returns what happened, for the table.

What the training came to is compared by `try_accident`, not here.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from distseg import storage
from distseg.training import checkpoint
from tests import programs
from tests.chaos.accidents.bench import EVALUATED_EVERY, HOSTS, SAVED_EVERY, Bench, full, out_of_memory
from tests.chaos.accidents.training import Result, Row, Training, compared
from tests.recorded import only_run

HIT = 2 * SAVED_EVERY + SAVED_EVERY // 2  # the step at which most of them happen
LATER = HIT + SAVED_EVERY
MINUTE_S, NOTICE_S, SHORT_CUT_S, LONG_CUT_S = 60.0, 20.0, 2.0, 30.0
AGAIN = "starting again from the newest checkpoint"
ON_ONE = f"{AGAIN} with 1 workers instead of 2"

Act = Callable[[Training], str]
Around = Callable[[Bench], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class Accident:
    name: str
    fault: str  # for the table
    act: Act
    changes: Mapping[str, object]  # of the configuration
    variables: Mapping[str, str]  # of the job
    around: Around  # what is there while the job runs


ACCIDENTS: dict[str, Accident] = {}


def accident(
    fault: str,
    changes: Mapping[str, object] | None = None,
    variables: Mapping[str, str] | None = None,
    around: Around = lambda _: contextlib.nullcontext(),
) -> Callable[[Act], Act]:
    """In the values, {SHARED} and {TEMPORARY} stand for the bench's two small disks."""

    def register(act: Act) -> Act:
        ACCIDENTS[act.__name__] = Accident(act.__name__, fault, act, changes or {}, variables or {}, around)
        return act

    return register


def undisturbed(bench: Bench) -> Result:
    """What all are compared with."""
    with contextlib.closing(Training(bench, "undisturbed", {}, {})) as training:
        return training.result()


def try_accident(bench: Bench, name: str, expected: Result) -> Row:
    """Raises AssertionError if it was not survived; then the bench is made whole again."""
    it = ACCIDENTS[name]
    places = {"SHARED": str(bench.shared), "TEMPORARY": str(bench.small_temporary)}
    changes = {n: value.format(**places) if isinstance(value, str) else value for n, value in it.changes.items()}
    variables = {n: value.format(**places) for n, value in it.variables.items()}
    try:
        with it.around(bench), contextlib.closing(Training(bench, name, changes, variables)) as training:
            happened = it.act(training)
            return compared(it.fault, happened, training.result(), expected)
    except Exception:
        bench.mend()
        raise


# ---- processes and hosts


@accident("a worker's process gets SIGKILL")
def worker_killed(it: Training) -> str:
    it.wait_for_step(HIT)
    it.strikes()
    os.kill(it.worker_pid(1), signal.SIGKILL)
    it.wait_for(AGAIN)
    return "both workers begin again from the newest checkpoint"


@accident("a worker's process runs out of memory (the kernel's OOM killer)")
def memory_exhausted(it: Training) -> str:
    it.wait_for_step(HIT)
    it.strikes()
    with out_of_memory(it.worker_pid(1)):
        it.wait_for(AGAIN)
    return "both workers begin again from the newest checkpoint"


@accident("a worker's process stands still for a minute (SIGSTOP, SIGCONT)")
def worker_suspended(it: Training) -> str:
    it.wait_for_step(HIT)
    pid = it.worker_pid(1)
    it.strikes()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(MINUTE_S)
    os.kill(pid, signal.SIGCONT)
    it.ends()
    assert not it.seen(AGAIN)
    return "the other one waits; goes on by itself"


@accident("the host of rank 1 gets SIGKILL")
def host_killed(it: Training) -> str:
    return _host_dies(it, 1, "kill")


@accident("the host of rank 0 gets SIGKILL, its journal is gone with it")
def host_of_rank_0_killed(it: Training) -> str:
    return _host_dies(it, 0, "kill")


@accident("Ray on the host of rank 1 gets SIGTERM")
def host_stopped(it: Training) -> str:
    return _host_dies(it, 1, "stop")


@accident(
    "the host of rank 1 is announced to be taken away (`ray drain-node`), and is three steps after it was heard",
    {"checkpoint.every_steps": 0},  # evaluations save, too
)
def host_drained(it: Training) -> str:
    it.wait_for_step(EVALUATED_EVERY)
    host = it.host_of_rank(1)
    it.strikes()
    it.bench.drain(host, NOTICE_S)
    it.wait_for(r"(?s)a machine is to be taken away [^\n]*: the newest step is saved(.*\nstep \d+/){3}")
    it.bench.host("kill", host)
    it.wait_for(ON_ONE)
    it.ends()
    it.bench.host("start", host)
    return "saves at once; goes on with the other worker"


def _host_dies(it: Training, rank: int, how: str) -> str:
    it.wait_for_step(HIT)
    host = it.host_of_rank(rank)
    it.strikes()
    it.bench.host(how, host)
    it.wait_for(ON_ONE)
    it.ends()
    it.bench.host("start", host)
    return "goes on with the other worker"


@accident("the cable of a worker is out for 2 s")
def worker_cut_short(it: Training) -> str:
    return _cable_out_for_a_moment(it, it_is_head=False)


@accident("the cable of the head is out for 2 s")
def head_cut_short(it: Training) -> str:
    return _cable_out_for_a_moment(it, it_is_head=True)


def _cable_out_for_a_moment(it: Training, *, it_is_head: bool) -> str:
    it.wait_for_step(HIT)
    host = "0" if it_is_head else it.host_of_rank(1)
    it.strikes()
    it.bench.host("cut", host)
    time.sleep(SHORT_CUT_S)
    it.bench.host("heal", host)
    it.ends()
    assert not it.seen(AGAIN)
    return "goes on by itself"


@accident("the cable of a worker is out for 30 s")
def worker_cut(it: Training) -> str:
    it.wait_for_step(HIT)
    host = it.host_of_rank(1)
    it.strikes()
    it.bench.host("cut", host)
    time.sleep(LONG_CUT_S)
    it.bench.host("heal", host)
    it.wait_for(ON_ONE)
    it.ends()
    it.bench.join_again(host)
    return "goes on with the other worker"


@accident("the cable of the head is out for 30 s")
def head_cut(it: Training) -> str:
    it.wait_for_step(HIT)
    it.strikes()
    it.bench.host("cut", "0")
    time.sleep(LONG_CUT_S)
    it.bench.host("heal", "0")
    it.bench.join_again("1", "2")
    it.wait_for(AGAIN)
    return "both hosts give up their Ray; once it is started there again, the same job goes on"


@accident("the head gets SIGKILL")
def head_killed(it: Training) -> str:
    it.wait_for_step(HIT)
    it.strikes()
    it.bench.host("kill", *HOSTS)  # the workers would wait for it for a minute
    it.jobs[-1].kill_all()
    time.sleep(1.0)
    it.bench.host("start", *HOSTS)
    it.resume()
    return "the job is gone; once Ray is started again, a new job goes on with `--resume`"


# ---- disks and stores


@accident("the disk for temporary files is full while ten steps are done", variables={"TMPDIR": "{TEMPORARY}"})
def temporary_full(it: Training) -> str:
    it.wait_for_step(HIT)
    it.strikes()
    with full(it.bench.small_temporary):
        it.wait_for_step(LATER)
    return "checkpoints are written to their place directly, records kept in memory"


@accident("the disk of checkpoints and journal, shared by all hosts, is full", {"checkpoint.uri": "{SHARED}/runs"})
def disk_full(it: Training) -> str:
    it.wait_for_step(HIT)
    it.strikes()
    with full(it.bench.shared):
        it.fails("the disk is full")
    it.resume()
    return "exit 1, one line; goes on with `--resume` once there is room"


@accident("S3 is down for a minute")
def s3_down(it: Training) -> str:
    it.wait_for_step(HIT)
    it.strikes()
    it.bench.s3.call("stop")
    time.sleep(MINUTE_S)
    it.bench.s3.call("start")
    it.ends()
    assert not it.seen(AGAIN)
    return "waits; goes on by itself"


@accident("the key for S3 is withdrawn")
def key_withdrawn(it: Training) -> str:
    it.wait_for_step(HIT)
    it.strikes()
    it.bench.s3_key("rm")
    try:
        it.fails("does not know the key id|access denied")
    finally:
        it.bench.s3_key("create")
    it.resume()
    return "exit 1, one line that names the key; goes on with `--resume` once there is one"


@accident("the bucket of checkpoints becomes read-only")
def bucket_read_only(it: Training) -> str:
    bucket = it.bench.bucket.removeprefix("s3://")
    it.wait_for_step(HIT)
    it.strikes()
    it.bench.forbid(bucket, "PutObject", "DeleteObject")
    try:
        it.fails("access denied")
    finally:
        it.bench.forbid(bucket)
    it.resume()
    return "exit 1, one line; goes on with `--resume` once it may write"


@accident("the newest checkpoint is damaged while the job is stopped")
def checkpoint_damaged(it: Training) -> str:
    it.wait_for_step(HIT)
    it.strikes()
    programs.interrupt(it.jobs[-1])
    assert it.jobs[-1].wait().code == 130
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
    it.wait_for_step(HIT)
    it.strikes()
    it.bench.kill_mlflow()
    it.wait_for_step(LATER)
    it.bench.mlflow.call("start")
    return _all_is_sent(it)


@accident("PostgreSQL gets SIGKILL and is started again ten steps later")
def postgres_killed(it: Training) -> str:
    it.wait_for_step(HIT)
    it.strikes()
    it.bench.kill_postgres()
    it.wait_for_step(LATER)
    it.bench.postgres.call("start")
    return _all_is_sent(it)


def _all_is_sent(it: Training) -> str:
    ended = it.ends()
    if "not sent" in ended.out:
        it.sync()
        return "trains on; the rest is sent by `sync`"
    return "trains on; all is sent"


@accident("MLflow's artifact store refuses everything until the end")
def artifacts_refused(it: Training) -> str:
    it.wait_for_step(HIT)
    it.strikes()
    it.bench.forbid("mlflow", "PutObject", "GetObject")
    try:
        ended = it.ends()
    finally:
        it.bench.forbid("mlflow")
    assert "not sent" in ended.out, ended.out
    it.sync()
    recorded = only_run(it.config.tracking.uri, it.config.tracking.experiment)
    assert "report/index.html" in recorded.artifacts("report")
    return "trains on; pictures and report are sent by `sync`"


# ---- links and clocks


@accident("a host's link is limited to 20 Mbit/s while ten steps are done (tc tbf)")
def link_slow(it: Training) -> str:
    it.wait_for_step(HIT)
    host = it.host_of_rank(1)
    it.strikes()
    it.bench.slow_link(host, "20mbit")
    it.wait_for_step(LATER)
    it.bench.full_speed(host)
    it.ends()
    assert not it.seen(AGAIN)
    return "goes on, slower"


@contextlib.contextmanager
def own_clocks(bench: Bench) -> Iterator[None]:
    try:
        for host in HOSTS[1:]:
            bench.start_with_own_clock(host)
        yield
    finally:
        for host in HOSTS[1:]:
            bench.host("stop", host)
            bench.host("start", host)


@accident("the clock of a worker's host is set five minutes ahead", around=own_clocks)
def clock_minutes_ahead(it: Training) -> str:
    it.wait_for_step(HIT)
    host = it.host_of_rank(1)
    it.strikes()
    it.bench.set_clock(host, 5 * 60)
    it.ends()
    assert not it.seen(AGAIN)
    return "nothing"


@accident("the clock of a worker's host is set an hour ahead", around=own_clocks)
def clock_an_hour_ahead(it: Training) -> str:
    it.wait_for_step(HIT)
    host = it.host_of_rank(1)
    it.strikes()
    it.bench.set_clock(host, 60 * 60)
    it.fails("the clocks of this machine and .* differ")
    it.bench.set_clock(host, 0)
    it.resume()
    return "S3 refuses it: exit 1, one line that names the clocks; goes on with `--resume` once it is right"


# ---- jobs


@accident("the job is stopped (Ctrl-C) and resumed with one worker")
def stopped_and_resumed(it: Training) -> str:
    it.wait_for_step(HIT)
    it.strikes()
    programs.interrupt(it.jobs[-1])
    assert it.jobs[-1].wait().code == 130
    it.resume("--scaling.num_workers", "1")
    return "exit 130; goes on with one worker"


@accident("a second job is submitted for the same run")
def two_jobs(it: Training) -> str:
    it.wait_for_step(HIT)
    it.strikes()
    it.resume()
    it.fails("is training it; wait for its end or stop it")
    it.jobs.pop()  # it did nothing; what counts is the first one
    return "the second one is refused, exit 1, one line that names the first"
