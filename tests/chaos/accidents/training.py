"""One training to disturb, and what it came to beside the same one undisturbed."""

import contextlib
import itertools
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from distseg.runs import find_run_in
from distseg.training import checkpoint
from tests import programs
from tests.chaos.accidents.bench import BATCH, NUM_STEPS, Bench, with_changes
from tests.chaos.conftest import write_config
from tests.recorded import Recorded, only_run

SAME_LOSS, SAME_WEIGHTS = 2e-5, 1e-6  # relative; losses are logged with six digits
AGAIN = "starting again from the newest checkpoint"
ON_ONE = f"{AGAIN} with 1 workers instead of 2"
_LOSS = "train/loss"
_ONCE_PER_RESUMPTION = "train/resumed_at"


class Training:
    """A job, and after it those that resume its run. Nothing of them outlives `close`."""

    def __init__(self, bench: Bench, name: str, changes: dict[str, object], variables: dict[str, str]) -> None:
        self.bench, self.name, self.variables = bench, name, variables
        self.config = with_changes(bench.config(name), changes)
        self.folder = bench.folder / name
        self.struck_s: float | None = None  # when it was disturbed first, since the epoch
        self.jobs: list[programs.Program] = []
        self._running = contextlib.ExitStack()
        self.folder.mkdir(parents=True)
        self._submit("--config", write_config(self.config, self.folder))

    def _submit(self, *arguments: str) -> None:
        folder = self.folder / f"job{len(self.jobs) + 1}"
        self.jobs.append(self._running.enter_context(self.bench.submit(folder, self.variables, *arguments)))

    def close(self) -> None:
        self._running.close()

    # ---- for an accident

    def wait_for_step(self, step: int) -> None:
        self.jobs[-1].wait_for_step(step)

    def wait_for(self, pattern: str) -> None:
        self.jobs[-1].wait_for(pattern)

    def strikes(self) -> None:
        """To be called just before the accident happens."""
        self.struck_s = time.time()

    def fails(self, pattern: str) -> None:
        """Waits for the job's end with exit code 1 and one line of error that matches."""
        ended = self.jobs[-1].wait()
        said = ended.out + ended.err
        assert ended.code == 1, said
        errors = [line for line in said.splitlines() if line.startswith("error:")]
        assert len(errors) == 1 and re.search(pattern, errors[0]), said
        assert "Traceback" not in said, said

    def is_stopped(self) -> None:
        """By Ctrl-C."""
        programs.interrupt(self.jobs[-1])
        assert self.jobs[-1].wait().code == 130

    def resume(self, *arguments: str) -> None:
        """By a new job."""
        self._submit("--resume", self.run_uri, *arguments)

    def ends(self) -> programs.Ended:
        """Waits for the end of the newest job, which must be a good one."""
        ended = self.jobs[-1].wait()
        assert ended.code == 0, ended.out + ended.err
        return ended

    def goes_on_by_itself(self) -> None:
        """Waits for its end; its workers may not have been started again."""
        self.ends()
        assert not re.search(AGAIN, self.jobs[-1].out)

    def sync(self) -> None:
        """`python -m distseg.sync RUN`."""
        ended = programs.run(self.folder / "sync", self.bench.environment, "distseg.sync", self.run_uri)
        assert ended.code == 0, ended.out + ended.err

    @property
    def run_uri(self) -> str:
        """There is one run below `checkpoint.uri`."""
        found = find_run_in(self.config.checkpoint.uri)
        assert found is not None
        return found

    def worker_pid(self, rank: int) -> int:
        return self.bench.worker_pids(self.run_uri.rpartition("/")[2])[rank]

    def host_of_rank(self, rank: int) -> str:
        return self.bench.host_of(self.worker_pid(rank))

    # ---- what it came to

    def result(self) -> "Result":
        self.ends()
        recorded = only_run(self.config.tracking.uri, self.config.tracking.experiment)
        assert recorded.run.info.status == "FINISHED", recorded.run.info.status
        found = checkpoint.newest(self.run_uri)
        assert found is not None and found[1].step == NUM_STEPS
        names = [name for name in recorded.run.data.metrics if name != _ONCE_PER_RESUMPTION]
        rows = Counter((name, step) for name in names for step in recorded.steps(name))
        printed = Counter(int(step) for job in self.jobs for step in re.findall(r"(?m)^step (\d+)/\d+  loss", job.out))
        return Result(
            losses=dict(zip(recorded.steps(_LOSS), recorded.values(_LOSS), strict=True)),
            weights=found[1].model,
            rows=rows,
            num_redone=sum(count - 1 for count in printed.values()),
            still_s=_longest_stop_s(recorded, self.struck_s),
            resumed_at=[int(step) for step in recorded.values(_ONCE_PER_RESUMPTION)],
        )


def _longest_stop_s(recorded: Recorded, struck_s: float | None) -> float:
    """The longest time from one new step to the next, after the accident or in all; steps done again do not count."""
    times_s = recorded.times_s(_LOSS)
    begin_s = struck_s or times_s[0]
    waits = [after - max(before, begin_s) for before, after in itertools.pairwise(times_s) if after > begin_s]
    return max(waits, default=0.0)


@dataclass(frozen=True)
class Result:
    losses: dict[int, float]  # by step
    weights: dict[str, Tensor]
    rows: Counter[tuple[str, int]]  # (metric, step): how often MLflow has it
    num_redone: int
    still_s: float
    resumed_at: list[int] = field(default_factory=list)


class Row(NamedTuple):
    """Of the table in docs/operations.md."""

    fault: str
    happened: str
    seconds: float
    num_redone: int
    num_lost: int  # samples
    num_doubled: int
    rows_lost: int
    rows_doubled: int

    @property
    def is_sound(self) -> bool:
        return not any((self.num_lost, self.num_doubled, self.rows_lost, self.rows_doubled))


def compared(fault: str, happened: str, result: Result, undisturbed: Result) -> Row:
    """A step's samples are lost if its loss is not there or is another one, and doubled if it is there twice."""
    times = Counter({step: count for (name, step), count in result.rows.items() if name == _LOSS})
    other = [
        step
        for step, loss in undisturbed.losses.items()
        if abs(result.losses.get(step, float("inf")) - loss) > SAME_LOSS * abs(loss)
    ]
    _assert_same_weights(result.weights, undisturbed.weights)
    return Row(
        fault,
        happened,
        result.still_s,
        result.num_redone,
        num_lost=BATCH * len(other),
        num_doubled=BATCH * sum(count - 1 for count in times.values()),
        rows_lost=len(undisturbed.rows.keys() - result.rows.keys()),
        rows_doubled=sum(count - 1 for count in result.rows.values()),
    )


def _assert_same_weights(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        difference = (tensor - theirs[name]).abs().max() if tensor.numel() else torch.zeros(())
        assert difference <= SAME_WEIGHTS * theirs[name].abs().max().clamp(min=1.0), f"{name} differs by {difference}"


def as_table(rows: list[Row]) -> str:
    """Markdown."""
    titles = ("fault", "what happened", "seconds to the next step", "steps redone")
    counted = ("samples lost, doubled", "metric rows lost, doubled")
    lines = [f"| {' | '.join(titles + counted)} |", "|---" * len(titles + counted) + "|"]
    for row in rows:
        numbers = f"{row.num_lost}, {row.num_doubled} | {row.rows_lost}, {row.rows_doubled}"
        lines.append(f"| {row.fault} | {row.happened} | {row.seconds:.1f} | {row.num_redone} | {numbers} |")
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write(path: Path | None, rows: list[Row]) -> None:
    if path is not None:
        path.write_text(as_table(rows))
