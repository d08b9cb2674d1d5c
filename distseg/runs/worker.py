"""A training without Ray: in this process alone, or as one rank of torchrun."""

import os

import torch.distributed as dist

from distseg.config import RunConfig, check_divides
from distseg.errors import ResourceError
from distseg.evaluation import World, torchrun_world
from distseg.runs.finalize import Outcome, finalize_run
from distseg.runs.reporter import NullReporter, RunReporter
from distseg.runs.run import ProgressCallback, Run, load_resume_checkpoint, with_absolute_paths
from distseg.training import check_run, train_run


def train_without_ray(
    config: RunConfig, *, resume: str | None = None, show: ProgressCallback | None = None
) -> Outcome | None:
    """Trains as the only process, or as a rank of torchrun. Returns the outcome on rank 0, None on the others.

    `resume`: the directory of a run to go on with. `show` is called on rank 0 with each record.
    """
    check_divides(config.data.batch_size, [int(os.environ.get("WORLD_SIZE", 1))], config.optim.accumulate_steps)
    config = with_absolute_paths(config)
    manifest = check_run(config)
    world = torchrun_world()
    if config.scaling.gpu and world.device.type != "cuda":
        raise ResourceError("scaling.gpu = True: torch sees no GPU on this machine; give False, or use another machine")
    run = agreed_run(config, resume, world)
    saved = load_resume_checkpoint(run, config, manifest)
    report: RunReporter | NullReporter = NullReporter()
    if world.rank == 0:
        run.open(config, manifest, saved)
        report = RunReporter(config, run, saved, show)
    status = "FAILED"
    try:
        train_run(config, world, report, resume=saved, run_id=run.run_id)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        report.close()
        outcome = finalize_run(run, status) if world.rank == 0 else None
    return outcome


def agreed_run(config: RunConfig, resume: str | None, world: World) -> Run:
    """The run to resume, or a new one. Every rank gets the run of rank 0, whose name holds random letters."""
    run = [Run.resume(resume, config) if resume else Run.new(config)]
    if world.size > 1:
        dist.broadcast_object_list(run, src=0)
    return run[0]
