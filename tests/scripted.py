"""A run without a network, for tests of what happens to its metrics, files and status.

What it logs and saves is a pure function of the step. Each step logs four metrics; every tenth step, and the last, is
evaluated and saved.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from distseg import tracking
from distseg.config import (
    CheckpointConfig,
    DataConfig,
    OptimConfig,
    RunConfig,
    TrackingConfig,
    from_dict,
    model_config,
)
from distseg.data.shards.manifest import load_manifest
from distseg.runs.finalize import Outcome, finalize_run
from distseg.runs.reporter import RunReporter
from distseg.runs.run import Run
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint
from tests.recorded import Recorded
from tests.unit.reviews import LABELS, example

SAVED_EVERY = 10
EXPERIMENT = "scripted"
OF_CONFIG = {"config/environment.json", "config/resolved.json"}
ARTIFACTS = OF_CONFIG | {
    "plots/condition_by_class.png",
    "plots/condition_miou.png",
    "plots/confusion_matrix.png",
    "plots/curves.png",
    "report/index.html",
    "report/model_card.md",
    "tables/conditions.json",
    "tables/images.json",
}


@dataclass
class Held:
    """Seconds that a training waited for its records."""

    opening: float = 0.0
    steps: float = 0.0
    closing: float = 0.0


@dataclass(frozen=True)
class Ended:
    outcome: Outcome
    held_s: Held = field(default_factory=Held)

    @property
    def run_uri(self) -> str:
        return self.outcome.run_uri


def config_of(
    runs_uri: str, tracking_uri: str, data_uri: str, max_steps: int = 30, experiment: str = EXPERIMENT
) -> RunConfig:
    """`data_uri`: of any data set with splits train and val; it is named in the run, and not read."""
    return RunConfig(
        name="scripted",
        model=model_config(backbone="resnet18"),
        optim=OptimConfig(max_steps=max_steps),
        data=DataConfig(uri=data_uri),
        checkpoint=CheckpointConfig(uri=runs_uri),
        tracking=TrackingConfig(uri=tracking_uri, experiment=experiment, log_every_steps=1, log_model=False),
    )


def step_metrics(step: int) -> dict[str, float]:
    return {"train/loss": 1 / step, "train/lr": 0.1, "train/images_per_s": 9.0, "train/data_wait_fraction": 0.0}


def evaluation(step: int) -> dict[str, float]:
    return {"val/mIoU": step / 100, "val/mIoU_worst": step / 200}


def train(
    config: RunConfig,
    *,
    resume: str | None = None,
    before_step: Callable[[int], None] = lambda step: None,
    is_drawn: bool = True,
) -> Ended:
    """As `train_without_ray`. A KeyboardInterrupt from `before_step` ends it. Without `is_drawn` it has no report."""
    held_s, manifest = Held(), load_manifest(config.data.uri)
    run = Run.resume(resume, config) if resume else Run.new(config)
    found = checkpoint.newest(run.uri) if resume else None
    saved = found[1] if found else None
    start_s = time.perf_counter()
    run.open(config, manifest, saved)
    report = RunReporter(config, run, saved)
    held_s.opening = time.perf_counter() - start_s
    status = "KILLED"
    try:
        if saved:
            report.log(saved.step, {"train/resumed_at": float(saved.step)})
        for step in range(saved.step + 1 if saved else 1, config.optim.max_steps + 1):
            before_step(step)
            start_s = time.perf_counter()
            report.log(step, step_metrics(step))
            if step % SAVED_EVERY == 0 or step == config.optim.max_steps:
                report.log(step, evaluation(step))
                report.save(step, snapshot(config, step, report, is_drawn), evaluation(step))
            held_s.steps += time.perf_counter() - start_s
        status = "FINISHED"
    except KeyboardInterrupt:
        pass
    start_s = time.perf_counter()
    report.close()
    outcome = finalize_run(run, status)
    held_s.closing = time.perf_counter() - start_s
    return Ended(outcome, held_s)


def snapshot(config: RunConfig, step: int, report: RunReporter, is_drawn: bool) -> Checkpoint:
    shown = example()
    return Checkpoint(
        step=step,
        config=config,
        label_space=LABELS,
        model={"weight": torch.full((1,), float(step))},
        optimizer={},
        manifest_digest=load_manifest(config.data.uri).digest,
        metrics=evaluation(step),
        tables=shown.table if is_drawn else {},
        evaluation={"images": vars(shown.images), "matrix_KK": shown.matrix_KK} if is_drawn else {},
        records=report.pending_records(),
    )


def stop_at(stop: int) -> Callable[[int], None]:
    """Ctrl-C before a step."""

    def before_step(step: int) -> None:
        if step == stop:
            raise KeyboardInterrupt

    return before_step


def lost_and_doubled(recorded: Recorded, num_steps: int) -> tuple[int, int]:
    """Values of metrics that a run of so many steps has measured and MLflow lacks, or has more than once."""
    last = [step for step in range(1, num_steps + 1) if step % SAVED_EVERY == 0 or step == num_steps]
    expected = {(name, step) for step in range(1, num_steps + 1) for name in step_metrics(step)}
    expected |= {(name, step) for step in last for name in evaluation(step)}
    names = {name for name, _ in expected}
    found = [(name, step) for name in names for step in recorded.steps(name)]
    return len(expected - set(found)), len(found) - len(expected & set(found))


def main() -> None:
    """python -m tests.scripted CONFIG.json STEP [RUN_URI]: is killed by SIGKILL before that step."""

    def before_step(step: int) -> None:
        if step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

    config = from_dict(json.loads(Path(sys.argv[1]).read_text()))
    train(config, resume=sys.argv[3] if len(sys.argv) > 3 else None, before_step=before_step, is_drawn=False)


def all_artifacts(recorded: Recorded) -> set[str]:
    folders = {name.partition("/")[0] for name in ARTIFACTS}
    return {path for folder in folders for path in recorded.artifacts(folder)}


def journal_steps(run_uri: str) -> list[int]:
    return [r["step"] for r in tracking.read_journal(run_uri) if "train/loss" in r["metrics"]]


if __name__ == "__main__":
    main()
