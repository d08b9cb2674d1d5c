"""TODO distseg.orchestration."""

from typing import TYPE_CHECKING

from distseg.lazy import on_first_use

if TYPE_CHECKING:
    from distseg.orchestration.cluster import capacity, check_resources, job_id, join
    from distseg.orchestration.ray_train import NO_SCORE, forget_checkpoints, train
    from distseg.orchestration.tasks import in_ray_tasks

__all__ = ["NO_SCORE", "capacity", "check_resources", "forget_checkpoints", "in_ray_tasks", "job_id", "join", "train"]

__getattr__ = on_first_use(
    __name__,
    {
        "distseg.orchestration.cluster": ("capacity", "check_resources", "job_id", "join"),
        "distseg.orchestration.ray_train": ("NO_SCORE", "forget_checkpoints", "train"),
        "distseg.orchestration.tasks": ("in_ray_tasks",),
    },
)
