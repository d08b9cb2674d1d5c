"""What Ray costs around a training: its steps, its start, its checkpoints, and the trials of a search.

    python -m tests.benchmarks.bench_orchestration [--quick] [--cases step checkpoint start trial]

All by the programs, on packed frames of `town`, with the network of `make train`: a narrow PSPNet-18 on two threads.
`step`: milliseconds of a step in a worker of the Ray that the training starts, against those of the same training
without Ray, as under torchrun, turn by turn. `checkpoint`: what one adds to the steps beside it, as a share of a
hundred steps, in a Ray worker. `start`: seconds from the command to the end of the first step, with a Ray that is
started for it (`fresh`), and on a cluster that is there (`warm`). `trial`: seconds between the last step of a trial
and the first of the next, in a search on two CPUs, of which each trial takes both: it has an evaluation of 18 frames,
a checkpoint, new workers and a first step. `trial_of_six_steps`: the same with its six steps, of which the first are
slow where something else is still starting. Times are those that runs record of their steps. Prints one JSON line per
case; the limits are the design's.
"""

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests import programs
from tests.benchmarks.cases import Line, run_cases
from tests.conftest import free_port

FIRST_STEP = 20  # of those that are timed
CHECKPOINT_EVERY = 10


def packed(folder: Path) -> None:
    options = ("town", "--out", "town", "--train", "160", "--val", "18", "--num_processes", "2")
    ended = programs.run(folder, programs.plain_environment(), "distseg.pack", *options)
    assert ended.code == 0, ended.err


def without_ray() -> dict[str, str]:
    port = str(free_port())
    return programs.alone() | {"OMP_NUM_THREADS": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def trained(folder: Path, environment: Mapping[str, str], num_steps: int, *more: str) -> dict[int, float]:
    """When each logged step of a training ended, in seconds."""
    fields = ("--data.uri", "town", "--optim.max_steps", str(num_steps), "--optim.warmup_steps", "1")
    ended = programs.run(folder, environment, "distseg.train", "town", *fields, *more)
    assert ended.code == 0, ended.err
    return step_times_s(Path(ended.printed("run")))


def step_times_s(run: Path) -> dict[int, float]:
    lines = [line for path in (run / "journal").glob("*.jsonl") for line in path.read_text().splitlines()]
    records = [json.loads(line) for line in lines]
    return {each["step"]: each["time_ms"] / 1000 for each in records if "train/loss" in each["metrics"]}


def step(quick: bool) -> Iterator[Line]:
    num_steps, rounds = (60, 2) if quick else (120, 4)
    ms: dict[str, list[float]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as name, programs.own_environment() as own_ray:
        packed(folder := Path(name))
        for turn in range(rounds):
            contestants = {"ours": own_ray, "peer": without_ray()}
            for who in sorted(contestants, reverse=bool(turn % 2)):
                times_s = trained(folder, contestants[who], num_steps)
                ms[who].append(1000 * (times_s[num_steps] - times_s[FIRST_STEP]) / (num_steps - FIRST_STEP))
    yield Line.of_laps("orchestration/step", ms["ours"], ms["peer"], "ms", limit=1.03)


def checkpoint(quick: bool) -> Iterator[Line]:
    num_steps = 80 if quick else 160
    with tempfile.TemporaryDirectory() as name, programs.ray_cluster(2) as cluster:
        packed(folder := Path(name))
        every = ("--tracking.log_every_steps", "1", "--checkpoint.every_steps", str(CHECKPOINT_EVERY))
        times_s = trained(folder, cluster, num_steps, *every)
    lasted_s = {k: times_s[k] - times_s[k - 1] for k in range(FIRST_STEP, num_steps)}
    before, after, other = (
        statistics.median(s for k, s in lasted_s.items() if k % CHECKPOINT_EVERY in those)
        for those in ({0}, {1}, range(2, CHECKPOINT_EVERY))
    )
    share = (before + after - 2 * other) / (100 * other)
    yield Line(case="orchestration/checkpoint", ours=share, unit="of 100 steps", limit=0.01, bound="ours at most")


def start(quick: bool) -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as name:
        packed(folder := Path(name))

        def first_step_s(environment: Mapping[str, str]) -> float:
            began_s = time.time()
            return trained(folder, environment, 2)[1] - began_s

        def laps_s(environment: Mapping[str, str]) -> list[float]:
            if not quick:
                first_step_s(environment)  # reads what is on disk, and compiles Python
            return [first_step_s(environment) for _ in range(1 if quick else 3)]

        with programs.own_environment() as fresh:
            line = statistics.median(laps_s(fresh))
            yield Line(case="orchestration/start_fresh", ours=line, unit="s", limit=15.0, bound="ours at most")
        with programs.ray_cluster(2) as warm:
            line = statistics.median(laps_s(warm))
            yield Line(case="orchestration/start_warm", ours=line, unit="s", limit=15.0, bound="ours at most")


def trial(quick: bool) -> Iterator[Line]:
    num_trials = 3 if quick else 6
    with tempfile.TemporaryDirectory() as name, programs.ray_cluster(2) as cluster:
        packed(folder := Path(name))
        search = ("--num_trials", str(num_trials), "--algorithm", "random", "--scheduler", "none", "--recipe", "town")
        fields = ("--data.uri", "town", "--optim.max_steps", "6", "--optim.warmup_steps", "1")
        places = ("--checkpoint.uri", "searches", "--tracking.log_every_steps", "1")
        ended = programs.run(folder, cluster, "distseg.tune", "optim", *search, *fields, *places)
        assert ended.code == 0, ended.err
        trials = [step_times_s(journal.parent) for journal in (folder / "searches").glob("**/journal")]
    steps_s = sorted((min(times_s.values()), max(times_s.values())) for times_s in trials if times_s)
    assert len(steps_s) == num_trials, f"{len(steps_s)} trials of {num_trials} have steps"
    between_s = statistics.median(after[0] - before[1] for before, after in itertools.pairwise(steps_s))
    yield Line(case="orchestration/trial", ours=between_s, unit="s", limit=5.0, bound="ours at most")
    whole_s = statistics.median(after[0] - before[0] for before, after in itertools.pairwise(steps_s))
    yield Line(case="orchestration/trial_of_six_steps", ours=whole_s, unit="s")


CASES = {"step": step, "checkpoint": checkpoint, "start": start, "trial": trial}

if __name__ == "__main__":
    run_cases(__doc__, CASES)
