"""Arguments of programs that do many independent tasks: where the tasks run."""

from dataclasses import dataclass, field

from distseg.data import Runner, in_processes, num_cores
from distseg.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Where tasks run: in processes of this machine, or in Ray tasks."""

    num_processes: int = field(default_factory=num_cores)
    """Processes on this machine. The result does not depend on their number."""
    ray: bool = False
    """Run Ray tasks on the cluster of RAY_ADDRESS instead. All its machines must reach the data."""

    def __post_init__(self) -> None:
        if self.num_processes < 1:
            raise ConfigError(f"--num_processes = {self.num_processes}: must be at least 1")

    def runner(self, out_uri: str) -> Runner:
        if not self.ray:
            return in_processes(self.num_processes)
        from distseg.orchestration import in_ray_tasks  # here, since importing Ray takes a second

        return in_ray_tasks(out_uri)
