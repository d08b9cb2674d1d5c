"""Trainings and other work on a Ray cluster. Only this package and `distseg.search` import ray.

In: a `RunConfig`. Out: an `Outcome` of `distseg.runs`, with checkpoints below `<checkpoint.uri>/<run name>`.

    join(uri)                  connects this process to a cluster, or starts one here
    check_resources(config)    whether the cluster can ever hold the workers
    capacity(config)           how many such trainings it can hold at a time
    prepare_search()           the environment that Ray Tune is to have in this process
    places_come_free()         while a search runs: the place of a dead trial's workers is free again
    controls_here()            whether `train` calls its callbacks in this process
    train(config)              one training over the cluster's workers
    forget_checkpoints(uri)    before a stopped run's checkpoints are replaced by others
    in_ray_tasks(uri)          a `Runner` that does packing and restyling as tasks of Ray
    file_system(uri)           a place in an object store as Ray Train is given it; `path_in(uri)` names it there
    job_id()                   the name of this process in the cluster
    NO_SCORE                   val/mIoU in what `train`'s callbacks hear of a checkpoint without an evaluation

Raises ResourceError if no cluster answers or it can never hold what is asked, TrainingError if workers are lost for
good, ConfigError for a field that does not fit the cluster, and whatever the training itself raises.

Every private name of Ray is in compat.py, every environment variable that is set for Ray in environment.py.
"""

from typing import TYPE_CHECKING

from distseg.lazy import on_first_use

if TYPE_CHECKING:
    from distseg.orchestration.cluster import capacity, check_resources, job_id, join, places_come_free
    from distseg.orchestration.driver import train
    from distseg.orchestration.environment import prepare_search
    from distseg.orchestration.remote_files import file_system, forget_checkpoints, path_in
    from distseg.orchestration.tasks import in_ray_tasks
    from distseg.orchestration.trainer import controls_here
    from distseg.orchestration.worker import NO_SCORE

__all__ = [
    "NO_SCORE",
    "capacity",
    "check_resources",
    "controls_here",
    "file_system",
    "forget_checkpoints",
    "in_ray_tasks",
    "job_id",
    "join",
    "path_in",
    "places_come_free",
    "prepare_search",
    "train",
]

__getattr__ = on_first_use(
    __name__,
    {
        "distseg.orchestration.cluster": ("capacity", "check_resources", "job_id", "join", "places_come_free"),
        "distseg.orchestration.driver": ("train",),
        "distseg.orchestration.environment": ("prepare_search",),
        "distseg.orchestration.remote_files": ("file_system", "forget_checkpoints", "path_in"),
        "distseg.orchestration.tasks": ("in_ray_tasks",),
        "distseg.orchestration.trainer": ("controls_here",),
        "distseg.orchestration.worker": ("NO_SCORE",),
    },
)
