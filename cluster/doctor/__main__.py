"""python -m cluster.doctor [--address http://HEAD:8265] [--env NAME[=VALUE] …] [--data URI] [--checkpoint URI]
                         [--tracking URI] [--experiment NAME] [--gpu] [--min-bandwidth MB/S]
                         [--min-disk GIB] [--working-dir DIR] [--json]

Looks for what is misconfigured, from this machine and, as a job, from every node of the cluster. It writes small files
below --checkpoint and a run to MLflow, and deletes both. Exit status: 0 if no check failed, 1 if one did, 2 for bad
arguments. No line holds a secret.
"""

import argparse
import email.utils
import io
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import requests
from ray.job_submission import JobSubmissionClient

from cluster import submit
from cluster.doctor import nodes, verdicts
from cluster.doctor.findings import FAILED, HERE, Finding, failed, line, merged, ok, redacted_here, skipped
from cluster.doctor.machine import facts
from cluster.doctor.places import Places, check_places
from cluster.doctor.upload import check_working_dir
from distseg import storage, tracking
from distseg.config import TrackingConfig
from distseg.errors import DistsegError

JOB_S = 600.0  # several times what the nodes are given
CLUSTER = "cluster"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    logging.disable(logging.WARNING)  # of clients that try again; the checks say what came of it
    try:
        findings = redacted_here(examine(options), options.env)
    except KeyboardInterrupt:
        print("Ctrl-C: the doctor's job may be running; it ends by itself", file=sys.stderr)
        return submit.INTERRUPTED
    failures = sum(finding.status == FAILED for finding in findings)
    if options.json:
        print(json.dumps({"ok": not failures, "checks": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print(*map(line, findings), sep="\n")
        print(f"{len(findings)} checks, {failures} failed")
    return 1 if failures else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.doctor", description="Looks for what is misconfigured, here and on every node."
    )
    add = parser.add_argument
    add("--address", default=submit.default_address(), help="of the cluster's dashboard (default: %(default)s)")
    add("--working-dir", default=".", help="sent to the cluster with each job (default: %(default)s)")
    add("--env", action="append", default=[], metavar="NAME[=VALUE]", help="as for cluster.submit. May be repeated")
    add("--data", default="", metavar="URI", help="data.uri of the training")
    add("--checkpoint", default="", metavar="URI", help="its checkpoint.uri; small files are written there and deleted")
    add("--tracking", default="", metavar="URI", help="its MLflow server (default: MLFLOW_TRACKING_URI)")
    add("--experiment", default=TrackingConfig().experiment, help="its experiment (default: %(default)s)")
    add("--gpu", action="store_true", help="it is to run on GPUs: there must be some")
    add("--min-bandwidth", type=float, default=20.0, metavar="MB/S", help="of an all-reduce (default: %(default)s)")
    add(
        "--min-disk",
        type=float,
        default=verdicts.MIN_DISK_GIB,
        metavar="GIB",
        help="free on each machine for shards, which are kept there, and for Ray (default: %(default)s)",
    )
    add("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    if not options.address.startswith(("http://", "https://")):
        parser.error(f"--address {options.address}: must begin with http:// or https://")
    if not Path(options.working_dir).is_dir():
        parser.error(f"--working-dir {options.working_dir}: no such directory")
    try:
        options.env = submit.job_environment(options.env, os.environ)
        if options.tracking or os.environ.get("MLFLOW_TRACKING_URI"):
            options.tracking = tracking.checked_uri("--tracking", options.tracking)
        for name in ("data", "checkpoint"):
            setattr(options, name, storage.absolute(getattr(options, name)) if getattr(options, name) else "")
    except (ValueError, DistsegError) as error:
        parser.error(str(error))
    return options


def examine(options: argparse.Namespace) -> list[Finding]:
    """All checks, those of this machine first."""
    here = facts(HERE)
    places = Places(options.data, options.checkpoint, options.tracking, options.experiment)
    from_here = check_places(places, HERE)
    found = [check_working_dir(Path(options.working_dir), HERE)]
    try:
        client = submit.connect(options.address)
        ahead_s = clock_ahead_s(options.address)
        report = run_job(client, options)
    except submit.SubmitError as error:
        seen, _, remedy = str(error).partition("; ")
        return [failed(CLUSTER, seen, remedy), *found, *from_here, skipped("nodes", "no job could be run there")]
    here = replace(here, clock_s=ahead_s)
    found.insert(0, ok(CLUSTER, f"{options.address}: machines: {len(report.nodes)}"))
    found += verdicts.verdicts(here, report.nodes, gpu=options.gpu, min_disk_gib=options.min_disk)
    if len(report.nodes) > 1 and tracking.is_local_file(options.tracking):
        found.append(failed("MLflow, shared", "a SQLite file is of one machine", "give the URL of an MLflow server"))
    return found + merged([*from_here, *(with_hint(each, from_here, options.env) for each in report.findings)])


def with_hint(finding: Finding, from_here: Sequence[Finding], env: dict[str, str]) -> Finding:
    """Says which variables are not passed on, where a place can be used from here and not from a node."""
    works_here = any(each.name == finding.name and each.status != FAILED for each in from_here)
    missing = [n for n in sorted(os.environ) if n.startswith(("AWS_", "MLFLOW_")) and n not in env]
    if finding.status != FAILED or not works_here or not missing:
        return finding
    hint = f"it works here, so try {' '.join(f'--env {name}' for name in missing)}"
    return replace(finding, remedy=f"{finding.remedy}; {hint}" if finding.remedy else hint)


def clock_ahead_s(address: str) -> float:
    """How far this machine's clock is ahead of the head's, to a second: its answers are dated. 0 if they are not."""
    try:
        before = time.time()
        dated = requests.head(address, timeout=10, allow_redirects=False).headers.get("Date", "")
        return (before + time.time()) / 2 - (email.utils.parsedate_to_datetime(dated).timestamp() + 0.5)
    except (requests.RequestException, ValueError, TypeError):
        return 0.0


def run_job(client: JobSubmissionClient, options: argparse.Namespace) -> nodes.Report:
    """The report of the nodes. Raises SubmitError."""
    wanted = {name: getattr(options, name) for name in ("data", "checkpoint", "tracking", "experiment")}
    command = [
        "python",
        "-m",
        "cluster.doctor.nodes",
        *(f"--{name}={value}" for name, value in wanted.items() if value),
    ]
    command += [f"--min-bandwidth={options.min_bandwidth}", *(["--gpu"] if options.gpu else [])]
    job_id = submit.send(client, options.address, command, working_dir=options.working_dir, env=options.env)
    output = io.StringIO()
    job = submit.Job(client, job_id, output)
    try:
        details = submit.within(JOB_S, job.follow)
    except TimeoutError:
        job.stop()
        raise submit.SubmitError(f"the doctor's job {job_id} did not end in {JOB_S:.0f} s; see ray job logs") from None
    report = nodes.report_of(output.getvalue())
    if report is None:
        said = [text for text in output.getvalue().splitlines() if text.strip()]
        why = said[-1] if said else details.message or "no output"
        raise submit.SubmitError(
            f"the doctor's job ended with {submit.exit_status(details)}: {why[:300]}; on the head, `python` must have "
            "Ray and distseg's dependencies: pip install -c constraints.txt ."
        )
    return report


if __name__ == "__main__":
    sys.exit(main())
