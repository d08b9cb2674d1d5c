"""Puts a command on a Ray cluster, follows its output, and ends with the job's true outcome.

    python -m cluster.submit [--address URL] [--submission-id X] [--working-dir DIR] [--env NAME[=VALUE] …] -- COMMAND …

Exit status: 0 only if the job succeeded; if it failed, its own exit code where Ray knows it, else 1; 130 if it was
stopped. Bad arguments and a cluster that cannot be used: 2 and 1, with one line. Ctrl-C stops the job too: first
SIGINT, so that training ends in a usable state, SIGKILL after `STOP_WAIT_S`. A broken log stream is taken up where it
broke; a cluster that is silent for `PATIENCE_S` is given up, the job left alone.
Environment variables travel only if named, and their values are never printed; whoever may read the cluster's job API
can see them there.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO, TypeVar, cast

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

REQUEST_S = 30.0  # one answer from the cluster
UPLOAD_S = 600.0  # the working directory, which Ray limits to 500 MiB
AGENTS_S, RETRIED_S = 120.0, 1.0  # a cluster that has just come up takes jobs only once the nodes' agents are up
NO_AGENT = "No available agent"  # says Ray then
POLL_S = 5.0
PATIENCE_S = 300.0
PAUSE_S = 1.0  # before asking or listening again
STOP_WAIT_S = 30  # Ray's own 3 s are too short for a checkpoint
INTERRUPTED = 130
ON_EXCLUDED = "ray._private.runtime_env.working_dir"  # Ray's logger; it warns that .git and .venv do not travel

_T = TypeVar("_T")


class SubmitError(Exception):
    """One line for a person."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    logging.disable(logging.INFO)  # Ray's client narrates its uploads and sockets
    logging.getLogger(ON_EXCLUDED).setLevel(logging.ERROR)
    try:
        client = connect(options.address)
        job_id = send(
            client,
            options.address,
            options.command,
            working_dir=options.working_dir,
            env=options.env,
            submission_id=options.submission_id,
        )
        job = Job(client, job_id, sys.stdout)
        print(f"job {job.id} at {options.address}: {shlex.join(options.command)}", file=sys.stderr)
        try:
            details = job.follow()
        except KeyboardInterrupt:
            print(f"Ctrl-C: stopping job {job.id}; once more to leave it alone", file=sys.stderr)
            job.stop()
            details = job.follow()
    except SubmitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Ctrl-C: not following any more; a job that was submitted may be running", file=sys.stderr)
        return INTERRUPTED
    print(f"job {job.id} {_summary(details)}", file=sys.stderr)
    return exit_status(details)


def exit_status(details: JobDetails) -> int:
    """What a shell would see if the job had run in the foreground."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        return INTERRUPTED
    code = details.driver_exit_code or 1
    return 128 - code if code < 0 else min(code, 255)  # Popen's -9 is the shell's 137


def _summary(details: JobDetails) -> str:
    if details.status != JobStatus.FAILED:
        return details.status.lower()
    if details.driver_exit_code:
        return f"failed with exit code {details.driver_exit_code}"
    return f"failed: {_last_line(details.message or '')}"


def _last_line(text: str) -> str:
    """Ray answers with whole tracebacks, whose last line of words says it."""
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]
    return lines[-1] if lines else "no reason given"


# ---- arguments


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.submit", description="Runs a command as a Ray job and ends with its exit status."
    )
    parser.add_argument(
        "--address", default=default_address(), help="of the cluster's dashboard (default: %(default)s)"
    )
    parser.add_argument("--submission-id", help="the job's name; the default is made up by Ray")
    parser.add_argument("--working-dir", default=".", help="sent to the cluster and used there (default: %(default)s)")
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a variable for the job; without a value, that of this shell. May be repeated",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND …")
    options = parser.parse_args(arguments)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("no command; write it after --")
    if not options.address.startswith(("http://", "https://")):
        parser.error(f"--address {options.address}: must begin with http:// or https://")
    if not Path(options.working_dir).is_dir():
        parser.error(f"--working-dir {options.working_dir}: no such directory")
    try:
        options.env = job_environment(options.env, os.environ)
    except ValueError as error:
        parser.error(str(error))
    return options


def default_address() -> str:
    candidates = (os.environ.get("RAY_API_SERVER_ADDRESS"), os.environ.get("RAY_ADDRESS"))
    return next((a for a in candidates if a and a.startswith("http")), "http://127.0.0.1:8265")


def job_environment(wanted: Sequence[str], environment: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """['A=1', 'B'] -> {'A': '1', 'B': value here}. Raises ValueError for a B that is not set."""
    found = {}
    for item in wanted:
        name, has_value, value = item.partition("=")
        if not name.isidentifier():
            raise ValueError("--env: must be NAME or NAME=VALUE")  # the item may be a misplaced secret
        if not has_value and name not in environment:
            raise ValueError(f"--env {name}: not set in this shell; set it, or write {name}=VALUE")
        found[name] = value if has_value else environment[name]
    return found


# ---- the cluster


def code_version(working_dir: str) -> dict[str, str]:
    """For the job, which gets no .git: the commit that its runs are recorded with. Nothing outside a repository."""
    try:
        described = subprocess.run(
            ["git", "-C", working_dir, "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"DISTSEG_CODE_VERSION": described.stdout.strip()}


def connect(address: str) -> JobSubmissionClient:
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # which Ray would otherwise prefer to its argument
    return _ask(address, REQUEST_S, lambda: JobSubmissionClient(address))


def send(
    client: JobSubmissionClient,
    address: str,
    command: Sequence[str],
    *,
    working_dir: str,
    env: Mapping[str, str],
    submission_id: str | None = None,
) -> str:
    """Puts the command on the cluster, with the working directory; returns the job's id. Raises SubmitError."""
    # The supervisor of the job reads the first two: SIGINT is what Ray Train aborts gracefully on.
    stopping = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
    variables = {**stopping, **code_version(working_dir), **env}
    end_s = time.monotonic() + AGENTS_S

    def submit() -> str:
        while True:
            try:
                return client.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=submission_id,
                    runtime_env={"working_dir": working_dir, "env_vars": dict(variables)},
                )
            except RuntimeError as error:
                if NO_AGENT not in str(error) or time.monotonic() > end_s:
                    raise
            time.sleep(RETRIED_S)

    return _ask(address, UPLOAD_S, submit)


def _ask(address: str, timeout_s: float, question: Callable[[], _T]) -> _T:
    """The cluster's answer; raises SubmitError in one line."""
    try:
        return within(timeout_s, question)
    except AuthenticationError as error:
        wrong = "refuses this token" if "invalid" in str(error).lower() else "asks for a token"
        raise SubmitError(
            f"{address} {wrong}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        ) from error
    except OSError as error:  # requests' and Ray's ConnectionErrors, and TimeoutError, are OSErrors
        raise SubmitError(f"cannot reach a Ray cluster at {address}; is it up, is --address right?") from error
    except (RuntimeError, ValueError) as error:
        raise SubmitError(f"{address}: {_last_line(str(error))}") from error


def within(timeout_s: float, call: Callable[[], _T]) -> _T:
    """`call()`, given up after a time. Ray's client sets no timeouts: behind a cut cable it would wait for ever."""
    answer: queue.Queue[tuple[_T | None, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            answer.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            answer.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = answer.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return cast(_T, result)


# ---- the job


class Job:
    """A submitted job and how much of its output has been printed."""

    def __init__(self, client: JobSubmissionClient, job_id: str, out: TextIO) -> None:
        self.id = job_id
        self._client = client
        self._out = out
        self._num_printed = 0  # characters

    def follow(self) -> JobDetails:
        """Prints the output as it comes; returns once the job has ended."""
        while True:
            self._print_stream()
            details = self._details()
            if details.status.is_terminal():
                with contextlib.suppress(RuntimeError, OSError):  # what a broken stream left out; the outcome is known
                    self._print(within(REQUEST_S, lambda: self._client.get_job_logs(self.id)), 0)
                return details
            time.sleep(PAUSE_S)

    def stop(self) -> None:
        try:
            within(REQUEST_S, lambda: self._client.stop_job(self.id))
        except (RuntimeError, OSError) as error:
            raise SubmitError(f"job {self.id} cannot be stopped and may be running; ray job stop {self.id}") from error

    def _print(self, text: str, position: int) -> None:
        """Prints what is new of `text`, which begins `position` characters into the output."""
        self._out.write(text[max(0, self._num_printed - position) :])
        self._out.flush()
        self._num_printed = max(self._num_printed, position + len(text))

    def _print_stream(self) -> None:
        """Prints from one log stream, which begins with the job's first line, until it ends, breaks or says nothing."""
        chunks: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._tail, args=(chunks,), daemon=True).start()
        position = 0
        while True:
            try:
                chunk = chunks.get(timeout=POLL_S)
            except queue.Empty:  # a silent job, or a dead connection that nobody has noticed
                if self._details().status.is_terminal():
                    return
                continue
            if chunk is None:
                return
            self._print(chunk, position)
            position += len(chunk)

    def _tail(self, chunks: queue.Queue[str | None]) -> None:
        async def pump() -> None:
            async for chunk in self._client.tail_job_logs(self.id):
                chunks.put(chunk)

        # However the stream ends, the status tells whether the job has.
        with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):
            asyncio.run(pump())
        chunks.put(None)

    def _details(self) -> JobDetails:
        """The job's state, asked for until the cluster answers."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return within(REQUEST_S, lambda: self._client.get_job_info(self.id))
            except (RuntimeError, OSError) as error:
                if time.monotonic() > end:
                    silence = f"the cluster has been silent for {PATIENCE_S:.0f} s"
                    raise SubmitError(f"{silence}; job {self.id} may be running") from error
                time.sleep(PAUSE_S)


if __name__ == "__main__":
    sys.exit(main())
