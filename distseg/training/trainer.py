"""The training loop, free of Ray and MLflow: `train_run` in one process or as one rank of many.

Everything that must be the same for any number of ranks is defined on the global batch: its samples (plan), the loss
(sum over valid pixels of all ranks / their number), batch norm (synchronised), the learning rate (a function of the
step). What is random, dropout too, follows from the seed and the position in the training stream, so a resumed run
needs no generator states.
"""

from typing import Any, Protocol

from distseg import evaluation, metric_names, stopping
from distseg.config import RunConfig
from distseg.data.shards import Manifest
from distseg.evaluation import World
from distseg.training.checkpoint import Checkpoint, check_resumable, code_version, to_cpu
from distseg.training.monitoring import LossMonitor, Throughput
from distseg.training.objective import EvaluationResult, Objective
from distseg.training.optim import learning_rate, set_learning_rate
from distseg.training.process import keep_freed_memory, step_kernels
from distseg.training.segmentation import Segmentation
from distseg.training.style_transfer import StyleTransfer


class Reporter(Protocol):
    """Where a training sends its results. `log` and `pictures` are called on rank 0 only, `save` on every rank."""

    def log(self, step: int, metrics: dict[str, float], worst_condition: str = "") -> None:
        """`worst_condition` is given with an evaluation: the condition that val/mIoU_worst is of."""
        ...

    def pictures(self, step: int, pictures: dict[str, bytes]) -> None:
        """JPEGs of an evaluation by name, on rank 0 only."""
        ...

    def pending_records(self) -> list[dict[str, Any]]:
        """Records that no segment of the journal has yet; they travel in the checkpoint."""
        ...

    def save(self, step: int, checkpoint: Checkpoint | None, metrics: dict[str, float]) -> None:
        """Keeps a checkpoint; it is None on every rank but 0. A barrier where ranks must stay together."""
        ...


def objective_of(config: RunConfig) -> type[Objective]:
    """What the network of a run is trained for."""
    return StyleTransfer if config.model.is_style_network else Segmentation


def check_run(config: RunConfig) -> Manifest:
    """Everything that can be known to fail before a cluster is asked for anything; returns the data's manifest.

    Raises ConfigError, DataError, StorageError or CheckpointError.
    """
    return objective_of(config).check(config)


def train_run(
    config: RunConfig, world: World, reporter: Reporter, *, resume: Checkpoint | None = None, run_id: str = ""
) -> Objective:
    """Trains from step 0, or from `resume`, to optim.max_steps; evaluates and saves on the way and at the end.

    Raises ConfigError, DataError, CheckpointError before the first step if something asked for is not there or `resume`
    is of another run, and TrainingError if the loss, its gradient or the weights become NaN or infinite, of which
    nothing is saved. Returns what has been trained.

    If a rank is asked to end (distseg.stopping), all give up an evaluation, save the newest step, raise StoppedError.
    If the loss of a rank is announced, all save the newest step and go on.
    """
    keep_freed_memory(world.device)
    objective = objective_of(config)(config, world)
    step, max_steps = 0, config.optim.max_steps
    if resume is not None:
        check_resumable(config, objective.manifest, resume)
        objective.restore(resume)
        step = resume.step
        if world.rank == 0:
            reporter.log(step, {metric_names.RESUMED_AT: float(step)})

    def save(evaluated: EvaluationResult | None) -> None:
        saved = _checkpoint(config, objective, step, evaluated, reporter, run_id) if world.rank == 0 else None
        reporter.save(step, saved, evaluated.metrics if evaluated else {})
        losses.is_announced = False

    losses = LossMonitor(world)
    with objective.open_readers(step) as reader:
        throughput = Throughput(reader, config.data.batch_size, step)
        while step < max_steps:
            micro_batches = [next(reader) for _ in range(config.optim.accumulate_steps)]
            lr = learning_rate(step, config.optim)
            set_learning_rate(objective.optimizer, lr, config.optim)
            with step_kernels(objective.precision, world.device):
                parts = objective.train_step(micro_batches, step)
            step += 1
            losses.add(step, parts, objective.update.size, micro_batches)
            if step == 1 or _is_due(step, config.tracking.log_every_steps, max_steps):
                metrics = losses.check() | {metric_names.LEARNING_RATE: lr}
                if world.rank == 0:
                    reporter.log(step, metrics | throughput.rates(step))
            save_now = losses.is_announced or _is_due(step, config.checkpoint.every_steps, max_steps)
            evaluate_now = _is_due(step, config.evaluate.every_steps, max_steps)
            if evaluate_now or save_now or losses.is_stopping:
                losses.check()
                losses.check_states(step, objective.update, micro_batches)
            evaluated = _evaluate(objective, step, reporter, losses) if evaluate_now else None
            if evaluated is not None or save_now or losses.is_stopping:
                save(evaluated)
                throughput.restart(step)
            if losses.is_stopping:
                raise stopping.stopped()
        losses.check()
    was_stopped_there = resume is not None and step == resume.step and not resume.tables
    if was_stopped_there and (evaluated := _evaluate(objective, step, reporter, losses)) is not None:
        save(evaluated)
    if losses.is_stopping:
        raise stopping.stopped()
    return objective


def _evaluate(objective: Objective, step: int, reporter: Reporter, losses: LossMonitor) -> EvaluationResult | None:
    """The reported result; None if there is none, or if the training is asked to end."""
    if losses.is_stopping:
        return None
    try:
        evaluated = objective.evaluate(step)
    except stopping.StoppedError as stop:
        if stop.at_once:
            raise
        losses.is_stopping = True
        return None
    if evaluated is not None and losses.world.rank == 0:
        reporter.log(step, evaluated.metrics, evaluated.worst_condition)
        reporter.pictures(step, evaluation.overlay_pictures(evaluated.tensors))
    return evaluated


def _is_due(step: int, every_steps: int, max_steps: int) -> bool:
    return step == max_steps or (every_steps > 0 and step % every_steps == 0)


def _checkpoint(
    config: RunConfig,
    objective: Objective,
    step: int,
    evaluated: EvaluationResult | None,
    reporter: Reporter,
    run_id: str,
) -> Checkpoint:
    """Everything needed to go on from this step, of which all ranks hold the same."""
    return Checkpoint(
        step=step,
        config=config,
        label_space=objective.manifest.label_space,
        optimizer=to_cpu(objective.optimizer.state_dict()),
        manifest_digest=objective.manifest.digest,
        run_id=run_id,
        metrics=evaluated.metrics if evaluated else {},
        tables=evaluated.tables if evaluated else {},
        evaluation=evaluated.tensors if evaluated else {},
        records=reporter.pending_records(),
        code_version=code_version(),
        **objective.checkpoint_content(),
    )
