"""What the machines have -> results: do they agree, and is it enough? Nothing is asked here, so nothing can fail."""

from collections.abc import Sequence

from cluster.doctor.findings import Finding, failed, machines, merged, ok, skipped
from cluster.doctor.machine import Facts

MAX_SKEW_S = 5.0  # S3 refuses requests from 15 minutes; times of metrics and of logs mislead from seconds
MAX_SKEW_HERE_S = 60.0  # this machine only submits; its clock is compared by an answer's date, in whole seconds
MIN_DISK_GIB = 10.0  # data.cache_bytes (8 GiB), and what Ray keeps
MIN_SHM_FREE = 64 << 20  # what NCCL and gloo take
SHM = "shared memory"  # /dev/shm
INSTALL = "install the same versions everywhere: pip install -c constraints.txt ."


def verdicts(here: Facts, nodes: Sequence[Facts], *, gpu: bool, min_disk_gib: float = MIN_DISK_GIB) -> list[Finding]:
    """`gpu`: the training is to run on GPUs. `min_disk_gib`: free in each machine's folder for temporary files."""
    checks = [check_workers(nodes), *(check_version(name, here, nodes) for name in here.versions)]
    checks += merged(check_gpus(node, gpu=gpu) for node in nodes)
    if gpu and not any(node.gpus for node in nodes):
        checks.append(failed("GPUs", "no machine of the cluster has one", "leave out --gpu, or add machines with GPUs"))
    checks += merged(check_clock(node) for node in nodes)
    checks += merged(check_clock(here, MAX_SKEW_HERE_S, "clock, here") for _ in nodes[:1])
    checks += merged(check_disk(node, min_disk_gib) for node in nodes)
    checks += merged(check_shm(node) for node in nodes)
    return checks


def check_workers(nodes: Sequence[Facts]) -> Finding:
    """Machines for work, beside a head that takes none. There need be none: an autoscaler starts them for a job."""
    working = [node.where for node in nodes if node.ray_cpus]
    if working:
        return ok("workers", f"CPUs for work: {sum(node.ray_cpus for node in nodes)}", *working)
    return skipped("workers", "none has joined, so no worker was looked at; `ray list nodes` has them once they have")


def check_version(name: str, here: Facts, nodes: Sequence[Facts]) -> Finding:
    """All nodes must be alike. Here the last part of Python's version, and torch's build, may differ."""
    everywhere = {node.where: node.versions.get(name, "none") for node in nodes}
    mine = here.versions[name]
    others = set(everywhere.values())
    agrees = len(others) <= 1 and all(_essential(name, other) == _essential(name, mine) for other in others)
    if agrees:
        shown = next(iter(others), mine)
        return ok(name, shown if shown == mine else f"{shown}; {mine} here", here.where, *everywhere)
    groups = {v: [place for place, version in everywhere.items() if version == v] for v in sorted(others)}
    seen = "; ".join([f"{mine} here", *(f"{version} on {machines(places)}" for version, places in groups.items())])
    remedy = f"{INSTALL}; jobs bring distseg's code in --working-dir" if name == "distseg" else INSTALL
    return failed(name, seen, remedy)


def _essential(name: str, version: str) -> str:
    if name == "python":
        return version.rpartition(".")[0]
    return version.partition("+")[0] if name == "torch" else version


def check_gpus(node: Facts, *, gpu: bool) -> Finding:
    """Whether torch sees the GPUs that Ray counts."""
    if len(node.gpus) == node.ray_gpus:
        kinds = ", ".join(f"{node.gpus.count(kind)} x {kind}" for kind in dict.fromkeys(node.gpus))
        return ok("GPUs", kinds or "none", node.where)
    seen = f"Ray counts {node.ray_gpus}, torch sees {len(node.gpus)}"
    if len(node.gpus) > node.ray_gpus:
        remedy = f"start Ray there with --num-gpus {len(node.gpus)}, or hide the others by CUDA_VISIBLE_DEVICES"
    elif not node.cuda:
        remedy = "this torch is a build for CPUs; install one for CUDA"
    else:
        remedy = f"look at nvidia-smi: the driver must be one for CUDA {node.cuda}, containers need --gpus all"
    return failed("GPUs", seen, remedy, node.where)


def check_clock(machine: Facts, limit_s: float = MAX_SKEW_S, name: str = "clocks") -> Finding:
    ahead = machine.clock_s
    if abs(ahead) <= limit_s:
        return ok(name, f"within {limit_s:.0f} s of the head's", machine.where)
    seen = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the head's"
    return failed(name, seen, "run an NTP service there (chrony, systemd-timesyncd)", machine.where)


def check_disk(node: Facts, min_gib: float) -> Finding:
    if node.disk_free >= min_gib * 2**30:
        return ok("disk", f"at least {min_gib:g} GiB free in {node.temp_dir}", node.where)
    seen = f"{node.disk_free / 2**30:.1f} GiB free in {node.temp_dir}, {min_gib:g} are needed"
    remedy = "free some, set TMPDIR, or lower data.cache_bytes and give --min-disk as much as it needs"
    return failed("disk", seen, remedy, node.where)


def check_shm(node: Facts) -> Finding:
    size, store = node.shm_size, node.ray_store
    if size >= store and node.shm_free >= MIN_SHM_FREE:
        return ok(SHM, "Ray's object store fits in", node.where)
    seen = f"{size >> 20} MiB in all, {node.shm_free >> 20} free; Ray's object store wants {store >> 20}"
    remedy = "containers: --shm-size, Kubernetes: an emptyDir of medium Memory; or ray start --object-store-memory"
    return failed(SHM, seen, remedy, node.where)
