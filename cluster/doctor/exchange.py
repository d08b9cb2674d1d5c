"""An all-reduce over all workers, as each step of a training does it: does it work, and how fast is it?"""

import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from statistics import median

from cluster.doctor.findings import Finding, failed, ok

NAME = "all-reduce"
NUM_BYTES = 64 << 20  # gradients of 17 million parameters in fp32
NUM_TIMES = 3
TIMEOUT_S = 60.0
REMEDY = (
    "set GLOO_SOCKET_IFNAME, and NCCL_SOCKET_IFNAME for GPUs, where Ray is started, to the interface of the cluster's "
    "network, and open all ports between its machines"
)


@dataclass(frozen=True)
class Member:
    """One of `world` processes; rank 0 listens at host:port."""

    rank: int
    world: int
    host: str
    port: int
    gpu: bool


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def seconds_of_all_reduce(member: Member, num_bytes: int = NUM_BYTES) -> float:
    """Of one, the median of a few. Raises RuntimeError if it fails, or if the sum is not the sum."""
    import torch
    import torch.distributed as dist

    dist.init_process_group(
        "nccl" if member.gpu else "gloo",
        init_method=f"tcp://{member.host}:{member.port}",
        rank=member.rank,
        world_size=member.world,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    try:
        device = torch.device("cuda" if member.gpu else "cpu")
        times_s = []
        for _ in range(NUM_TIMES + 1):  # the first opens the connections
            values = torch.full((num_bytes // 4,), float(member.rank + 1), device=device)
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(values)
            total = float(values[-1].item())  # also waits for the GPU
            times_s.append(time.perf_counter() - began)
            if total != member.world * (member.world + 1) / 2:
                raise RuntimeError(f"the sum over {member.world} workers is wrong: {total}")
        return median(times_s[1:])
    finally:
        dist.destroy_process_group()


def bandwidth(seconds: float, world: int, num_bytes: int = NUM_BYTES) -> float:
    """Bytes per second that each worker sends; a ring sends 2 (n - 1) / n times the data (NCCL's 'bus bandwidth')."""
    return 2 * (world - 1) / world * num_bytes / seconds


def verdict(seconds: float, world: int, num_machines: int, *, gpu: bool, min_mb_s: float) -> Finding:
    mb_s = bandwidth(seconds, world) / 1e6
    by = "NCCL" if gpu else "gloo"
    seen = (
        f"workers: {world}, machines: {num_machines}; {NUM_BYTES >> 20} MiB by {by} in {seconds * 1e3:.0f} ms, "
        f"{mb_s:.0f} MB/s"
    )
    if mb_s >= min_mb_s:
        return ok(NAME, seen)
    return failed(
        NAME, seen, f"below --min-bandwidth {min_mb_s:.0f} MB/s, gradients would wait for the network; {REMEDY}"
    )
