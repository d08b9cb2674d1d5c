"""The doctor's job: `python -m cluster.doctor.nodes OPTIONS`, put on the cluster by `python -m cluster.doctor`.

It places a small actor on every node, which needs no CPU and so runs beside whatever else does. Its last line of output
is `MARK` and, as JSON, a `Report`. Nothing that a node does may hold up the rest: each answer is waited for at most
`ANSWER_S`.
"""

import argparse
import contextlib
import json
import logging
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.doctor import exchange
from cluster.doctor.findings import Finding, failed, machines, redacted_here, skipped
from cluster.doctor.machine import Facts, facts
from cluster.doctor.places import DEADLINE_S, Places, check_places
from distseg import storage
from distseg.errors import DistsegError, masked

MARK = "cluster.doctor:"
ANSWER_S = 150.0  # a node may import torch for the first time, and its stores may be tried in vain
NUM_CLOCK_READINGS = 5


@dataclass
class Report:
    """What the nodes say. `head` names the machine of the job; clocks are compared with its clock."""

    head: str = ""
    nodes: list[Facts] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def report_of(text: str) -> Report | None:
    """From the output of the job; None if it did not come to its end."""
    lines = [line for line in text.splitlines() if line.startswith(MARK)]
    if not lines:
        return None
    found = json.loads(lines[-1].removeprefix(MARK))
    findings = [Finding(**{**each, "where": tuple(each["where"])}) for each in found["findings"]]
    return Report(found["head"], [Facts(**each) for each in found["nodes"]], findings)


class Probe:
    """On one node."""

    def facts(self, where: str, resources: dict[str, float]) -> Facts:
        return facts(
            where,
            ray_gpus=int(resources.get("GPU", 0)),
            ray_cpus=int(resources.get("CPU", 0)),
            ray_store=int(resources.get("object_store_memory", 0)),
        )

    def check_places(self, places: Places, where: str, shared: str) -> list[Finding]:
        return redacted_here(check_places(places, where, shared))

    def clock_s(self) -> float:
        return time.time()

    def address(self) -> tuple[str, int]:
        """Where others reach this process, if it listens there."""
        return ray.util.get_node_ip_address(), exchange.free_port()

    def all_reduce(self, member: exchange.Member) -> float:
        return exchange.seconds_of_all_reduce(member)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    ray.init(logging_level=logging.WARNING, log_to_driver=False)
    report = examine(options)
    report.findings = redacted_here(report.findings)
    print(MARK + json.dumps(asdict(report)), flush=True)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cluster.doctor.nodes")
    for name in ("data", "checkpoint", "tracking", "experiment"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--min-bandwidth", type=float, default=0.0)
    return parser.parse_args(arguments)


def examine(options: argparse.Namespace) -> Report:
    """All that needs the cluster. The probes are asked together, so the slowest node decides how long it takes."""
    places = Places(options.data, options.checkpoint, options.tracking, options.experiment)
    alive = {name_of(node): node for node in ray.nodes() if node["Alive"]}
    own = ray.get_runtime_context().get_node_id()
    head = next((name for name, node in alive.items() if node["NodeID"] == own), "")
    probes = {name: _place(node["NodeID"]) for name, node in alive.items()}
    asked = {name: probes[name].facts.remote(name, node["Resources"]) for name, node in alive.items()}
    known, silent = _answers(asked)
    found = Report(head, findings=[_silent(name, why) for name, why in silent.items()])
    found.nodes = [Facts(**{**asdict(each), "clock_s": _ahead_s(probes[name])}) for name, each in known.items()]
    with _shared_file(places.checkpoint) as shared:
        asked = {name: probes[name].check_places.remote(places, name, shared) for name in known}
        checked, silent = _answers(asked)
    found.findings += [finding for findings in checked.values() for finding in findings]
    found.findings += [_silent(name, why) for name, why in silent.items()]
    found.findings.append(_exchange(found.nodes, alive, probes, options))
    return found


def name_of(node: dict[str, Any]) -> str:
    """Its address; nodes of one machine share it, so with the beginning of its id."""
    return f"{node['NodeManagerAddress']}/{node['NodeID'][:4]}"


def _place(node_id: str, **resources: float) -> Any:
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(Probe).options(scheduling_strategy=there, num_cpus=0, **resources).remote()


def _answers(asked: dict[str, Any], patience_s: float = ANSWER_S) -> tuple[dict[str, Any], dict[str, str]]:
    """What each has answered, and why the others have not."""
    answers, silent = {}, {}
    end_s = time.monotonic() + patience_s
    for name, reference in asked.items():
        try:
            answers[name] = ray.get(reference, timeout=max(0.0, end_s - time.monotonic()))
        except GetTimeoutError:
            silent[name] = f"no answer within {patience_s:.0f} s"
        except RayError as error:
            silent[name] = _last_line(error)
    return answers, silent


def _last_line(error: Exception) -> str:
    """A RayError quotes the traceback of the other process, whose last line says it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return masked(lines[-1])[:300] if lines else type(error).__name__


def _silent(name: str, why: str) -> Finding:
    return failed("node", why, "look at Ray's logs there (/tmp/ray/session_latest/logs), or take it away", name)


def _ahead_s(probe: Any) -> float:
    """How far the node's clock is ahead of this one, from the quickest of a few answers."""
    readings = []
    with contextlib.suppress(RayError):
        for _ in range(NUM_CLOCK_READINGS):
            before = time.time()
            there = ray.get(probe.clock_s.remote(), timeout=10.0)
            after = time.time()
            readings.append((after - before, there - (before + after) / 2))
    return min(readings)[1] if readings else 0.0


@contextlib.contextmanager
def _shared_file(folder: str) -> Iterator[str]:
    """Writes a file to the place for checkpoints; yields its URI, empty if there is no such place. Removes it."""
    uri = storage.join(folder, f".distseg-doctor-{uuid.uuid4().hex[:12]}") if folder else ""
    try:
        if uri:
            storage.write_bytes(uri, b"", deadline_s=DEADLINE_S)
    except DistsegError:  # the checks of the place itself say so
        uri = ""
    try:
        yield uri
    finally:
        if uri:
            with contextlib.suppress(DistsegError):
                storage.delete(uri, deadline_s=DEADLINE_S)


# ---- the all-reduce


def _exchange(
    nodes: Sequence[Facts], alive: dict[str, Any], probes: dict[str, Any], options: argparse.Namespace
) -> Finding:
    """Between one worker for each GPU, or for each machine that has CPUs for work; two on a single machine."""
    num_gpus = sum(node.ray_gpus for node in nodes)
    gpu = num_gpus > 0
    free = int(ray.available_resources().get("GPU", 0))
    if free < num_gpus:  # a worker for each would wait until it is
        return skipped(
            exchange.NAME,
            f"{num_gpus - free} of {num_gpus} GPUs are in use by other jobs; ask again when they are free",
        )
    workers: list[tuple[str, Any]] = []
    for node in nodes:
        node_id = alive[node.where]["NodeID"]
        if gpu:
            workers += [(node.where, _place(node_id, num_gpus=1)) for _ in range(node.ray_gpus)]
        elif node.ray_cpus:
            workers.append((node.where, probes[node.where]))
    if len(workers) == 1 and not gpu and sum(node.ray_cpus for node in nodes) > 1:
        where = workers[0][0]
        workers.append((where, _place(alive[where]["NodeID"])))
    if len(workers) < 2:
        return skipped(exchange.NAME, f"workers on the whole cluster: {len(workers)}; nothing to exchange")
    world, places = len(workers), [where for where, _ in workers]
    try:
        host, port = ray.get(workers[0][1].address.remote(), timeout=ANSWER_S)
        asked = {
            f"rank {rank} on {where}": probe.all_reduce.remote(exchange.Member(rank, world, host, port, gpu))
            for rank, (where, probe) in enumerate(workers)
        }
        seconds, silent = _answers(asked, exchange.TIMEOUT_S * 2)
    except (RayError, OSError) as error:
        seconds, silent = {}, {f"rank 0 on {places[0]}": _last_line(error)}
    if silent:
        name, why = next(iter(silent.items()))
        among = f"workers: {world}, on {machines(list(dict.fromkeys(places)))}"
        return failed(exchange.NAME, f"{among}: {name}: {why}", exchange.REMEDY)
    num_machines = len(dict.fromkeys(places))
    return exchange.verdict(max(seconds.values()), world, num_machines, gpu=gpu, min_mb_s=options.min_bandwidth)


if __name__ == "__main__":
    sys.exit(main())
