"""A training without Ray: in this process alone, or as one rank of torchrun."""

import contextlib
from dataclasses import replace

import torch
import torch.distributed as dist

from distseg import stopping
from distseg.config import RunConfig, ScalingConfig, check_divides
from distseg.data.shards import Manifest
from distseg.errors import DistsegError, ResourceError
from distseg.evaluation import World, torchrun_world, world_size
from distseg.runs.finalize import Outcome, end_run, stop_notice
from distseg.runs.lease import TRAINS_IT, taken
from distseg.runs.reporter import NullReporter, RunReporter
from distseg.runs.run import ProgressCallback, Run, load_resume_checkpoint, with_absolute_paths
from distseg.training import check_run, train_run
from distseg.training.checkpoint import Checkpoint

_OPENING = "OPENING"  # a status within this module: an error then leaves nothing to end


def train_without_ray(
    config: RunConfig, *, resume: str | None = None, show: ProgressCallback | None = None
) -> Outcome | None:
    """Trains as the only process, or as a rank of torchrun. Returns the outcome on rank 0, None on the others.

    `resume`: the directory of a run to go on with. `show` is called on rank 0 with each record.
    """
    check_divides(config.data.batch_size, [world_size()], config.optim.accumulate_steps)
    config = with_absolute_paths(config)
    with stopping.handled():
        manifest = check_run(config)
        world = torchrun_world()
        if config.scaling.gpu and world.device.type != "cuda":
            raise ResourceError(
                "scaling.gpu = True: torch sees no GPU on this machine; give False, or use another machine"
            )
        config = replace(config, scaling=_scaling_of(world, config.scaling))
        run = agreed_run(config, resume, world)
        with contextlib.ExitStack() as locked:
            _take_together(locked, run, world)
            saved = load_resume_checkpoint(run, config, manifest)
            return _train(config, run, manifest, saved, world, show)


def _scaling_of(world: World, scaling: ScalingConfig) -> ScalingConfig:
    """What torchrun gave, whatever was asked for: the run's report says what it cost by this."""
    is_gpu = world.device.type == "cuda"
    threads = scaling.cpus_per_worker if is_gpu else torch.get_num_threads()
    return replace(scaling, num_workers=world.size, min_workers=None, gpu=is_gpu, cpus_per_worker=threads)


def _take_together(locked: contextlib.ExitStack, run: Run, world: World) -> None:
    """Rank 0 takes the run's lock until `locked` is closed; if it cannot, every rank raises why."""
    problem: DistsegError | None = None
    if world.rank == 0:
        try:
            locked.enter_context(taken(run.uri, TRAINS_IT))
        except DistsegError as error:
            problem = error
    problem = world.gather(problem)[0]
    if problem is not None:
        raise problem


def _train(
    config: RunConfig,
    run: Run,
    manifest: Manifest,
    saved: Checkpoint | None,
    world: World,
    show: ProgressCallback | None,
) -> Outcome | None:
    report: RunReporter | NullReporter = NullReporter()
    outcome, stop = None, None
    status = ""  # rank 0 has not begun the run, or this is another rank
    try:
        with stopping.gently(stop_notice(run) if world.rank == 0 else ""):
            if world.rank == 0:
                status = _OPENING
                run.open(config, manifest, saved)
                status = "FAILED"
                report = RunReporter(config, run, saved, show)
            train_run(config, world, report, resume=saved, run_id=run.run_id)
            status = status and "FINISHED"
    except stopping.StoppedError as error:
        stop = error
        if status and status != "FINISHED":
            status = "KILLED"
        raise
    finally:
        if status not in ("", _OPENING):
            outcome = end_run(run, status, report.close, at_once=stop is not None and stop.at_once)
        if world.size > 1 and stop is not None and not stop.at_once:
            # torchrun kills the other ranks as soon as one has ended: here rank 0, which is still closing the run.
            with contextlib.suppress(RuntimeError):
                dist.barrier()
    return outcome


def agreed_run(config: RunConfig, resume: str | None, world: World) -> Run:
    """The run to resume, or a new one. Every rank gets the run of rank 0, whose name holds random letters."""
    run = [Run.resume(resume, config) if resume else Run.new(config)]
    if world.size > 1:
        dist.broadcast_object_list(run, src=0)
    return run[0]
