"""A refusal says what is missing or wrong, by what MLflow's client has sent; no value is told."""

from pathlib import Path

import pytest

from distseg.tracking import environment

USER, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"
CASES = {
    "nothing": ({}, False, f"refuses (401): set {USER} and {PASSWORD}, or {TOKEN}"),
    "no password": ({USER: "me"}, False, f"refuses (401): set {PASSWORD}, too"),
    "no user": ({PASSWORD: "hunter2"}, False, f"refuses (401): set {USER}, too"),
    "both": ({USER: "me", PASSWORD: "hunter2"}, True, f"this user and password (401): correct {USER} and {PASSWORD}"),
    "a token": ({TOKEN: "hunter2"}, False, f"this token (401): correct {TOKEN}, or set {USER} and {PASSWORD}"),
    "a file": ({}, True, f"correct ~/.mlflow/credentials, or set {USER} and {PASSWORD}"),
}


@pytest.mark.parametrize(("given", "has_file", "expected"), CASES.values(), ids=CASES)
def test_what_to_set(
    given: dict[str, str], has_file: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (USER, PASSWORD, TOKEN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if has_file:
        (tmp_path / ".mlflow").mkdir()
        (tmp_path / ".mlflow/credentials").touch()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    said = environment.refused_credentials()
    assert said.endswith(expected)
    assert "hunter2" not in said
