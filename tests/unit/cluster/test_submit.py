"""The client's side of a job: arguments, exit statuses, log streams that break. Real clusters: tests/integration."""

import io
import logging
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from ray._private.runtime_env import working_dir
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient, JobType

from cluster import submit


def details(status: str, code: int | None = None, message: str | None = None) -> JobDetails:
    return JobDetails(
        type=JobType.SUBMISSION, entrypoint="x", status=JobStatus(status), driver_exit_code=code, message=message
    )


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("SUCCEEDED", None, 0),
        ("FAILED", 3, 3),
        ("FAILED", 2, 2),
        ("FAILED", None, 1),
        ("FAILED", 0, 1),
        ("FAILED", -9, 137),
        ("FAILED", 256, 255),
        ("STOPPED", None, 130),
        ("STOPPED", 0, 130),
    ],
)
def test_exit_status(status: str, code: int | None, expected: int) -> None:
    assert submit.exit_status(details(status, code)) == expected


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (details("SUCCEEDED", 0), "succeeded"),
        (details("STOPPED"), "stopped"),
        (details("FAILED", 3, "long\nlog"), "failed with exit code 3"),
        (details("FAILED", None, "Traceback\n  at x\nValueError: no node\n.\n"), "failed: ValueError: no node"),
        (details("FAILED"), "failed: no reason given"),
    ],
)
def test_summary(job: JobDetails, expected: str) -> None:
    assert submit._summary(job) == expected


def test_job_environment() -> None:
    here = {"A": "from here", "B": "unasked"}
    assert submit.job_environment(["A", "C=x=y", "D="], here) == {"A": "from here", "C": "x=y", "D": ""}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--env", "NOT_SET_HERE", "--", "x"], "--env NOT_SET_HERE: not set in this shell"),
        (["--env", "sec-ret", "--", "x"], "--env: must be NAME or NAME=VALUE"),
        (["--address", "head:8265", "--", "x"], "--address head:8265: must begin with http://"),
        (["--working-dir", "/no/such", "--", "x"], "--working-dir /no/such: no such directory"),
        ([], "no command; write it after --"),
        (["--"], "no command; write it after --"),
    ],
)
def test_bad_arguments(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        submit.main(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert expected in error
    assert "sec-ret" not in error


def test_a_job_knows_the_commit_of_its_working_directory(tmp_path: Path) -> None:
    assert submit.code_version(str(tmp_path)) == {}
    author = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    (version,) = submit.code_version(str(tmp_path)).values()
    assert re.fullmatch("[0-9a-f]{12}", version)


def test_the_address_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert submit._parse(["x"]).address == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://b:8265")
    assert submit._parse(["x"]).address == "http://b:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://a:8265")
    assert submit._parse(["x"]).address == "http://a:8265"
    assert submit._parse(["--address", "http://c", "x"]).address == "http://c"


def test_the_command_may_have_options_of_its_own() -> None:
    assert submit._parse(["--", "python", "-m", "x", "--env", "y"]).command == ["python", "-m", "x", "--env", "y"]


def test_an_unreachable_cluster(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere:1")
    assert submit.main(["--address", "http://127.0.0.1:1", "--", "x"]) == 1
    assert capsys.readouterr().err == (
        "error: cannot reach a Ray cluster at http://127.0.0.1:1; is it up, is --address right?\n"
    )


def test_ray_does_not_warn_that_git_does_not_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    warns: list[bool] = []

    def connect(_: str) -> JobSubmissionClient:
        warns.append(working_dir.default_logger.isEnabledFor(logging.WARNING))
        raise submit.SubmitError("not asked")

    monkeypatch.setattr(submit, "connect", connect)
    level = working_dir.default_logger.level
    try:
        assert submit.main(["--", "true"]) != 0
    finally:
        working_dir.default_logger.setLevel(level)
    assert warns == [False]


def test_a_cluster_that_has_just_come_up_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "RETRIED_S", 0.0)
    no_agent = RuntimeError(f"status code 500: {submit.NO_AGENT} to submit job")
    answers: Iterator[RuntimeError | str] = iter([no_agent, "job-1", RuntimeError("no space")])

    class Client:
        def submit_job(self, **_: Any) -> str:
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

    client = cast(JobSubmissionClient, Client())
    assert submit.send(client, "http://x", ["true"], working_dir=".", env={}) == "job-1"
    with pytest.raises(submit.SubmitError, match="no space"):
        submit.send(client, "http://x", ["true"], working_dir=".", env={})


def test_a_silent_call_is_given_up() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        submit.within(0.1, lambda: time.sleep(3))
    assert time.monotonic() - began < 2
    assert submit.within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        submit.within(5, lambda: 1 // 0)


class ScriptedClient:
    """Plays a job: each log stream is a list of chunks and how it ends; a state is given out per question."""

    def __init__(self, streams: Sequence[Sequence[str | type[Exception]]], states: Sequence[Any], log: str) -> None:
        self.streams, self.states, self.log = list(streams), list(states), log
        self.stopped = False

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for item in self.streams.pop(0):
            if not isinstance(item, str):
                raise item
            yield item

    def get_job_info(self, job_id: str) -> JobDetails:
        state = self.states.pop(0)
        if isinstance(state, Exception):
            raise state
        return cast(JobDetails, state)

    def get_job_logs(self, job_id: str) -> str:
        return self.log

    def stop_job(self, job_id: str) -> bool:
        self.stopped = True
        return True


def followed(client: ScriptedClient) -> tuple[str, JobDetails]:
    out = io.StringIO()
    job = submit.Job(cast(JobSubmissionClient, client), "j", out)
    ended = job.follow()
    return out.getvalue(), ended


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "PAUSE_S", 0.01)


def test_output_is_printed_once_although_the_stream_breaks() -> None:
    client = ScriptedClient(
        streams=[["one\n", "two\n", RuntimeError], [OSError], ["one\ntwo\nth", "ree\n", RuntimeError]],
        states=[details("RUNNING"), ConnectionError("gone"), details("RUNNING"), details("FAILED", 3)],
        log="one\ntwo\nthree\nfour\n",
    )
    assert followed(client) == ("one\ntwo\nthree\nfour\n", details("FAILED", 3))


def test_a_silent_stream_ends_with_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(ScriptedClient):
        async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
            import asyncio

            yield "one\n"
            await asyncio.sleep(3)

    monkeypatch.setattr(submit, "POLL_S", 0.05)
    states = [details("RUNNING"), details("RUNNING"), details("SUCCEEDED", 0), details("SUCCEEDED", 0)]
    assert followed(Silent([], states, "one\ntwo\n")) == ("one\ntwo\n", details("SUCCEEDED", 0))


def test_a_cluster_that_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "PATIENCE_S", 0.0)
    with pytest.raises(submit.SubmitError, match="silent for 0 s; job j may be running"):
        followed(ScriptedClient([[]], [ConnectionError("gone")] * 100, ""))


def test_ctrl_c_stops_the_job_and_prints_its_last_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = ScriptedClient([["one\n"], ["one\n", "bye\n"]], [KeyboardInterrupt(), details("STOPPED")], "one\nbye\n")

    def interrupted(job_id: str, original: Any = client.get_job_info) -> JobDetails:
        if client.states and isinstance(client.states[0], KeyboardInterrupt):
            raise client.states.pop(0)
        return cast(JobDetails, original(job_id))

    monkeypatch.setattr(client, "get_job_info", interrupted)
    monkeypatch.setattr(submit, "connect", lambda address: client)
    monkeypatch.setattr(submit, "send", lambda *_, **__: "j")
    assert submit.main(["--", "x"]) == 130
    printed = capsys.readouterr()
    assert printed.out == "one\nbye\n"
    assert "stopping job j" in printed.err
    assert client.stopped
