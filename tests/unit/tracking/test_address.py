"""tracking.uri as people write it: what is meant is taken, the rest is refused in one line, and no password is kept."""

from pathlib import Path

import pytest

from distseg.errors import ConfigError
from distseg.tracking.address import tracking_address, without_password
from distseg.tracking.client import checked_uri


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("https://mlflow.example.org/base/", "https://mlflow.example.org/base"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("localhost:5000/", "http://localhost:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        (" mlflow.example.org:80 ", "http://mlflow.example.org:80"),
        ("http://h:5000/#/experiments/3/runs/abc?workflowType=machine_learning", "http://h:5000"),
        ("localhost:5000/#/experiments/1", "http://localhost:5000"),
        ("postgresql://db/mlflow", "postgresql://db/mlflow"),
        ("mysql+pymysql://db/mlflow", "mysql+pymysql://db/mlflow"),
        ("off", "off"),
    ],
)
def test_what_is_meant_is_taken(given: str, meant: str) -> None:
    assert tracking_address("tracking.uri", given) == meant


def test_a_sqlite_file_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a@b").mkdir()
    for given in ("sqlite:///runs.db", "runs.db", "./runs.db", f"sqlite:///{tmp_path}/runs.db"):
        assert tracking_address("--uri", given) == f"sqlite:///{tmp_path}/runs.db"
    assert tracking_address("--uri", "sqlite:///runs.db?timeout=5") == f"sqlite:///{tmp_path}/runs.db?timeout=5"
    assert tracking_address("--uri", "sqlite:///a@b/runs.db") == f"sqlite:///{tmp_path}/a@b/runs.db"
    assert list(tmp_path.iterdir()) == [tmp_path / "a@b"], "nothing is created"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("file:///tmp/mlruns", "MLflow keeps no runs in plain directories any more; give an MLflow server as http://"),
        ("./mlruns", "plain directories"),
        ("/data/mlruns", "plain directories"),
        ("localhost", "plain directories"),
        ("databricks", "not sent to Databricks"),
        ("databricks://profile", "not sent to Databricks"),
        ("databricks-uc", "not sent to Databricks"),
        ("s3://bucket/mlflow", "'s3' is no kind of MLflow server"),
        ("ftp://host", "'ftp' is no kind"),
        ("http://", "names no host"),
        ("http://host:port", "names no host"),
        ("http://host:99999", "names no host"),
        ("http://a b:5000", "names no host"),
        ("http://host:5000?x=1", "without what follows the '\\?'"),
        ("sqlite://runs.db", "by three slashes"),
        ("sqlite:///", "by three slashes"),
        ("sqlite:///:memory:", "would keep nothing"),
        ("sqlite:////not/there/runs.db", "/not/there is no directory; create it"),
        ("sqlite:////tmp", "is a directory; name a file in it"),
        ("http://h\x1b[31m:5000", "cannot be printed"),
    ],
)
def test_the_rest_is_refused_in_one_line(given: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"^tracking\.uri = .*{says}") as caught:
        tracking_address("tracking.uri", given)
    assert str(caught.value).isprintable()


SECRETS = (
    "http://user:hunter2@h:5000",
    "user:hunter2@h:5000",
    "https://hunter2@h/x",
    "http://user:hun/ter2@h:5000",
    "postgresql://user:hunter2@db/mlflow",
    "postgresql+psycopg2://user:hun/ter2@db/mlflow",
    "mysql://db/mlflow?user=u&password=hunter2",
    "http://h:5000?token=hunter2",
)


@pytest.mark.parametrize("given", SECRETS)
def test_a_password_is_refused_and_not_repeated(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, uri in (("--uri", given), ("tracking.uri", "")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        with pytest.raises(ConfigError, match="carries a user or password") as caught:
            checked_uri(name, uri)
        assert "ter2" not in str(caught.value)


@pytest.mark.parametrize("given", [uri for uri in SECRETS if "://" in uri])
def test_no_password_is_shown(given: str) -> None:
    assert "ter2" not in without_password(given)
