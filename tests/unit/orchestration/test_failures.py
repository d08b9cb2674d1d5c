"""What is said of a failure. Whether Ray is still there is asked of its ports."""

import socket
import threading

import pytest

from distseg.orchestration import failures
from tests.conftest import free_port


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "LOOKED_AFTER_EVERY_S", 0.01)
    monkeypatch.setattr(failures, "GONE_AFTER_S", 0.05)


def test_of_a_long_message_its_last_line_is_said_without_what_indents_it() -> None:
    lost = "The actor died because its node has died.\n\tthe actor's node was terminated unexpectedly\n"
    assert failures.last_line(RuntimeError(lost)) == "the actor's node was terminated unexpectedly"
    assert failures.last_line(RuntimeError()) == "RuntimeError"


def test_what_refuses_connections_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        watched = {"alive": listening.getsockname(), "gone": ("127.0.0.1", free_port())}
        assert failures.wait_until_gone(watched, {}, threading.Event()) == "gone"


def test_what_may_be_started_again_is_given_more_time() -> None:
    watched = {"head": ("127.0.0.1", free_port()), "raylet": ("127.0.0.1", free_port())}
    assert failures.wait_until_gone(watched, {"head": 1000.0}, threading.Event()) == "raylet"


def test_what_listens_but_does_not_answer_is_not_gone() -> None:
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=1) as stuck:
        threading.Timer(0.5, done.set).start()
        assert failures.wait_until_gone({"busy": stuck.getsockname()}, {}, done) == ""
