"""One rank of a training, as a worker of Ray Train: what it runs, and where it reports to."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import CheckpointUploadMode

from distseg import stopping, storage
from distseg.config import RunConfig, from_dict
from distseg.errors import StorageError
from distseg.evaluation import World
from distseg.metric_names import MIOU, is_of_evaluation
from distseg.orchestration import compat, remote_files, watcher
from distseg.orchestration.metrics import Exporter
from distseg.runs import NoLogs, NullReporter, Run, RunReporter
from distseg.training import checkpoint, train_run
from distseg.training.checkpoint import Checkpoint

log = logging.getLogger(__name__)

NO_SCORE = -1.0  # the val/mIoU of a checkpoint without an evaluation; Ray Train complains of each that has none


def train_rank(options: Mapping[str, Any]) -> None:
    """Trains as one rank of the group. `options`: the configuration and the run as dictionaries, and the channel.

    If the driver wants it to end it returns, as if it had finished: Ray Train then waits for the last checkpoint.
    """
    config, run, channel = from_dict(options["config"]), Run(**options["run"]), options["channel"]
    world = _world(config)
    logging.getLogger().setLevel(logging.WARNING)  # Ray sets it to INFO, and its own lines and boto3's come with it
    with contextlib.ExitStack() as opened:
        opened.enter_context(watcher.hearing(channel, world.rank))
        compat.let_upload_again()
        if world.rank == 0:
            watcher.send_started(channel)
        saved = agreed_checkpoint(run.uri, world)
        report: NullReporter | RunReporter = _RayNullReporter(config.checkpoint.best_by)
        if world.rank == 0:
            exporter = opened.enter_context(contextlib.closing(Exporter(config, run.name)))

            def show(step: int, metrics: Mapping[str, float], worst_condition: str) -> None:
                watcher.send_progress(channel, step, metrics, worst_condition)
                exporter.log(step, metrics, worst_condition)

            logs = watcher.LogsToDriver(channel) if run.is_tracked else NoLogs()
            report = _RayReporter(config, run, saved, show, logs)
        opened.enter_context(contextlib.closing(report))
        try:
            train_run(config, world, report, resume=saved, run_id=run.run_id)
        except stopping.StoppedError:
            watcher.send_stopped(channel)


def _world(config: RunConfig) -> World:
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(config.scaling.cpus_per_worker)
    return World(context.get_world_rank(), context.get_world_size(), device)


def agreed_checkpoint(run_uri: str, world: World) -> Checkpoint | None:
    """The newest undamaged checkpoint, the same on all ranks: rank 0 chooses, the others read its choice."""
    chosen = checkpoint.newest(run_uri) if world.rank == 0 else None
    uris = [chosen[0] if chosen else None]
    if world.size > 1:
        dist.broadcast_object_list(uris, src=0)
    if chosen is not None:
        return chosen[1]
    return checkpoint.read(uris[0]) if uris[0] else None


def _reported(step: int, metrics: Mapping[str, float], best_by: str) -> dict[str, Any]:
    """What Ray Train gets with a checkpoint: the step and all metrics of its evaluation.

    It keeps checkpoints by one of them; a search judges its trials by any.
    """
    evaluated = {name: value for name, value in metrics.items() if is_of_evaluation(name)}
    return {"step": step, MIOU: NO_SCORE, best_by: NO_SCORE} | evaluated


class _RayReporter(RunReporter):
    """Rank 0: Ray Train uploads its checkpoints beside the training, and prunes them."""

    def save(self, step: int, saved: Checkpoint | None, metrics: dict[str, float]) -> None:
        assert saved is not None
        name = checkpoint.new_name(step)
        mode = CheckpointUploadMode.ASYNC
        upload: Callable[[ray.train.Checkpoint, str], ray.train.Checkpoint] | None = self._upload
        try:
            folder = str(storage.new_scratch_folder())  # Ray Train removes it after the upload
            checkpoint.write(folder, saved)
        except StorageError as error:  # no room there need not mean that there is none where it belongs
            log.warning("%s; the checkpoint is written to its place directly, while training waits", error)
            mode, upload = CheckpointUploadMode.NO_UPLOAD, None
            folder = storage.join(self.run.uri, name)
            self.run.write_again_if_removed(self.config)
            checkpoint.write(folder, saved)
        ray.train.report(
            _reported(step, metrics, self.config.checkpoint.best_by),
            checkpoint=ray.train.Checkpoint(folder),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=mode,
            checkpoint_upload_fn=upload,
        )
        self.journal.upload()

    def _upload(self, saved: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        """Weights first: Ray Train's own upload may begin with the file that marks a checkpoint as whole."""
        target = storage.join(self.run.uri, name)
        self.run.write_again_if_removed(self.config)
        with saved.as_directory() as folder:
            checkpoint.upload(Path(folder), target)
        return ray.train.Checkpoint(remote_files.path_in(target), remote_files.file_system(target))


class _RayNullReporter(NullReporter):
    """The other ranks: they report too, since `ray.train.report` waits for every rank."""

    def __init__(self, best_by: str) -> None:
        self.best_by = best_by

    def save(self, step: int, saved: Checkpoint | None, metrics: dict[str, float]) -> None:
        ray.train.report(_reported(step, metrics, self.best_by), checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
