"""No error repeats a password that a user put into an address."""

import logging

import pytest

from distseg import storage
from distseg.errors import StorageError, first_line, masked
from distseg.terminal import VisibleFormatter


@pytest.mark.parametrize(
    "text",
    [
        "Invalid endpoint: http://user:hunter2@s3.example",
        "Failed to connect to proxy URL: 'https://user:hunter2@proxy:3128'",
        "could not connect (postgresql://user:hunter2@db/mlflow)",
        "two: http://a:hunter2@b, http://c:hunter2@d/x@y",
    ],
)
def test_what_libraries_quote_is_masked(text: str) -> None:
    assert "hunter2" not in masked(text)
    assert "hunter2" not in first_line(ValueError(text))
    assert masked("me@example.org at s3://bucket/a@b") == "me@example.org at s3://bucket/a@b"


def test_a_place_in_s3_with_credentials_is_refused_and_not_repeated() -> None:
    for call in (storage.absolute, storage.exists, storage.is_remote):
        with pytest.raises(StorageError, match="carries a user or password") as caught:
            call("s3://AKIA:hunter2@bucket/x")
        assert "hunter2" not in str(caught.value)
        assert "AKIA" not in str(caught.value)


def test_an_endpoint_with_credentials_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:99999")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(StorageError) as caught:
        storage.exists("s3://bucket/x", deadline_s=0.1)
    assert "hunter2" not in str(caught.value)


def test_a_log_record_repeats_no_password() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "retry of %s", ("http://me:hunter2@h/x",), None)
    assert VisibleFormatter("%(message)s").format(record) == "retry of http://h/x"
