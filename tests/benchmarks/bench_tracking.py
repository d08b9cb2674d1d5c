"""What recording costs a training while the MLflow server is up: its share of the time of a step.

    python -m tests.benchmarks.bench_tracking [--quick] [--steps 60] [--log_every 10]

One rank trains the embedded default on a small town; a real MLflow server on SQLite runs beside it. Counted is what the
training process itself spends: the time that the training waits for `log`, and the processor time of the threads that
send, from the tenth step to the last, without evaluations. Prints one JSON line; the limit of the design is 0.01.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from distseg.config import CheckpointConfig, RunConfig, TrackingConfig, recipes
from distseg.data.datasets import town
from distseg.data.shards import pack
from distseg.evaluation import World
from distseg.runs.finalize import finalize_run
from distseg.runs.reporter import RunReporter
from distseg.runs.run import Run
from distseg.training import check_run, train_run
from tests.benchmarks.cases import Line

LIMIT = 0.01
FIRST_STEP = 10


class Timed(RunReporter):
    waited_s = 0.0
    began: tuple[float, float, float] | None = None  # wall, waited, the threads' processor time
    ended = (0.0, 0.0, 0.0)

    def log(self, step: int, metrics: dict[str, float], worst_condition: str = "") -> None:
        start_s = time.perf_counter()
        super().log(step, metrics, worst_condition)
        self.waited_s += time.perf_counter() - start_s
        if "train/loss" in metrics and step >= FIRST_STEP:
            self.ended = (time.perf_counter(), self.waited_s, sending_s())
            self.began = self.began or self.ended

    def share(self) -> float:
        assert self.began is not None
        wall_s, waited_s, sent_s = (end - begin for begin, end in zip(self.began, self.ended, strict=True))
        return (waited_s + sent_s) / wall_s


def sending_s() -> float:
    """Processor time of the threads that send to MLflow."""
    ours = {thread.native_id for thread in threading.enumerate() if thread.name.startswith("mlflow-")}
    return float(sum(t.user_time + t.system_time for t in psutil.Process().threads() if t.id in ours))


def measure(config: RunConfig) -> float:
    manifest = check_run(config)
    run = Run.new(config)
    run.open(config, manifest, None)
    report = Timed(config, run, None)
    train_run(config, World(0, 1), report, resume=None, run_id=run.run_id)
    report.close()
    finalize_run(run, "FINISHED")
    return report.share()


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Its address, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder)]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), *stores]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as out:
        server = subprocess.Popen(command, env=os.environ | quiet, stdout=out, stderr=out, process_group=0)
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="60, with --quick 20")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--log_every", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        frames = {"train": 72, "val": 9}
        splits = {split: town.samples(split, num_frames=num) for split, num in frames.items()}
        pack(splits, town.LABELS, f"{folder}/town", dataset="town")
        with mlflow_server(Path(folder)) as uri:
            base = recipes.town()
            config = replace(
                base,
                optim=replace(base.optim, max_steps=arguments.steps or (20 if arguments.quick else 60), warmup_steps=1),
                data=replace(base.data, uri=f"{folder}/town"),
                evaluate=replace(base.evaluate, every_steps=0),
                checkpoint=CheckpointConfig(uri=f"{folder}/runs"),
                tracking=TrackingConfig(uri=uri, log_every_steps=arguments.log_every, log_model=False),
            )
            share = measure(config)
    case = f"tracking/log_every_{arguments.log_every}_steps"
    Line(case=case, ours=share, unit="of a step", limit=LIMIT, bound="ours at most").print()


if __name__ == "__main__":
    main()
