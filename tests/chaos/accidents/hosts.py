"""Accidents to processes, hosts and their cables."""

import os
import signal
import time

from tests.chaos.accidents.accident import LATER, Accidents
from tests.chaos.accidents.bench import HOSTS, out_of_memory
from tests.chaos.accidents.training import AGAIN, ON_ONE, Training

MINUTE_S, NOTICE_S, SHORT_CUT_S, LONG_CUT_S = 60.0, 20.0, 2.0, 30.0

ACCIDENTS = Accidents()
accident = ACCIDENTS.add


# ---- processes


@accident("a worker's process gets SIGKILL")
def worker_killed(it: Training) -> str:
    os.kill(it.worker_pid(1), signal.SIGKILL)
    it.wait_for(AGAIN)
    return "both workers begin again from the newest checkpoint"


@accident("a worker's process runs out of memory (the kernel's OOM killer)")
def memory_exhausted(it: Training) -> str:
    with out_of_memory(it.worker_pid(1)):
        it.wait_for(AGAIN)
    return "both workers begin again from the newest checkpoint"


@accident("a worker's process stands still for a minute (SIGSTOP, SIGCONT)")
def worker_suspended(it: Training) -> str:
    pid = it.worker_pid(1)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(MINUTE_S)
    os.kill(pid, signal.SIGCONT)
    it.goes_on_by_itself()
    return "the other one waits; goes on by itself"


# ---- hosts


@accident("the host of rank 1 gets SIGKILL")
def host_killed(it: Training) -> str:
    return _host_dies(it, 1, "kill")


@accident("the host of rank 0 gets SIGKILL, its journal is gone with it")
def host_of_rank_0_killed(it: Training) -> str:
    return _host_dies(it, 0, "kill")


@accident("Ray on the host of rank 1 gets SIGTERM")
def host_stopped(it: Training) -> str:
    return _host_dies(it, 1, "stop")


def _host_dies(it: Training, rank: int, how: str) -> str:
    host = it.host_of_rank(rank)
    it.bench.host(how, host)
    it.wait_for(ON_ONE)
    it.ends()
    it.bench.host("start", host)
    return "goes on with the other worker"


@accident(
    "the host of rank 1 is announced to be taken away (`ray drain-node`), and is three steps after it was heard",
    {"checkpoint.every_steps": 0},  # evaluations save, too
    step=2,  # the programs that tell Ray take as long as many steps
)
def host_drained(it: Training) -> str:
    host = it.host_of_rank(1)
    it.bench.drain(host, NOTICE_S)
    it.wait_for(r"(?s)a machine is to be taken away [^\n]*: the newest step is saved(.*\nstep \d+/){3}")
    it.bench.host("kill", host)
    it.wait_for(ON_ONE)
    it.ends()
    it.bench.host("start", host)
    return "saves at once; goes on with the other worker"


@accident("the head gets SIGKILL")
def head_killed(it: Training) -> str:
    it.bench.host("kill", *HOSTS)  # the workers would wait for it for a minute
    it.jobs[-1].kill_all()
    time.sleep(1.0)
    it.bench.host("start", *HOSTS)
    it.resume()
    return "the job is gone; once Ray is started again, a new job goes on with `--resume`"


# ---- cables


@accident("the cable of a worker is out for 2 s")
def worker_cut_short(it: Training) -> str:
    it.bench.unplug(it.host_of_rank(1), SHORT_CUT_S)
    it.goes_on_by_itself()
    return "goes on by itself"


@accident("the cable of the head is out for 2 s")
def head_cut_short(it: Training) -> str:
    it.bench.unplug("0", SHORT_CUT_S)
    it.goes_on_by_itself()
    return "goes on by itself"


@accident("the cable of a worker is out for 30 s")
def worker_cut(it: Training) -> str:
    host = it.host_of_rank(1)
    it.bench.unplug(host, LONG_CUT_S)
    it.wait_for(ON_ONE)
    it.ends()
    it.bench.join_again(host)
    return "goes on with the other worker"


@accident("the cable of the head is out for 30 s")
def head_cut(it: Training) -> str:
    it.bench.unplug("0", LONG_CUT_S)
    it.bench.join_again("1", "2")
    it.wait_for(AGAIN)
    return "both hosts give up their Ray; once it is started there again, the same job goes on"


@accident("a host's link is limited to 20 Mbit/s while ten steps are done (tc tbf)")
def link_slow(it: Training) -> str:
    host = it.host_of_rank(1)
    it.bench.slow_link(host, "20mbit")
    it.wait_for_step(LATER)
    it.bench.full_speed(host)
    it.goes_on_by_itself()
    return "goes on, slower"
