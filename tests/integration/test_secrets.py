"""Programs that fail show no secret, with --debug either: neither of an address that has one nor of the environment.

What a training leaves is looked through where one is: `test_train_odd_prefix.py` (Ray's logs, S3), `test_browser.py`
(MLflow and its server), `test_submit.py` (a job's variables).
"""

import shlex
from pathlib import Path

import pytest

from distseg import tracking
from distseg.errors import TrackingError
from distseg.storage import retries
from tests.canaries import PLANTED, canary, secrets_of, spellings
from tests.conftest import use_environment
from tests.integration.bad_input.calling import TRAIN, call
from tests.integration.bad_input.places import Places

PASSWORD = canary("address").replace("/", "_")  # a slash would end an address
ADDRESSED = f"http://me:{PASSWORD}@127.0.0.1:1"
NO_DIRECT_WAY = ("NO_PROXY", "no_proxy")

COMMANDS = {
    "tracking.uri": (TRAIN + f" --tracking.uri {ADDRESSED}", {}),
    "tracking.uri, a database": (TRAIN + f" --tracking.uri postgresql://me:{PASSWORD}@127.0.0.1/db", {}),
    "MLFLOW_TRACKING_URI": (TRAIN + " --tracking.uri ''", {"MLFLOW_TRACKING_URI": ADDRESSED}),
    "sync": (f"sync {{run}} --uri {ADDRESSED}", {}),
    "a field that is none": (TRAIN + f" --tracking.url {ADDRESSED}", {}),
    "S3's endpoint": (TRAIN + " --data.uri s3://bucket/data", {"AWS_ENDPOINT_URL": ADDRESSED}),
    "S3 by a proxy": ("pack inspect s3://bucket/data", {"AWS_ENDPOINT_URL": "http://s3.example:9"}),
    "no cluster": (TRAIN, {"RAY_ADDRESS": "127.0.0.1:1"}),
    "no cluster for a job": ("cluster.submit --address http://127.0.0.1:1 --env AWS_SECRET_ACCESS_KEY -- true", {}),
    "a misplaced value": (f"cluster.submit --env A-B={PASSWORD} -- true", {}),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(tmp_path_factory.mktemp("places"))


@pytest.mark.parametrize("debug", ["", "--debug"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_failing_program_shows_no_secret(
    name: str,
    debug: str,
    places: Places,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    command, more = COMMANDS[name]
    use_environment({**PLANTED, **more}, monkeypatch)
    for variable in NO_DIRECT_WAY:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(retries, "FIRST_CONTACT_S", 0.5)
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(command.format_map(places))
    if program != "cluster.submit":
        arguments += [debug] if debug else []
    try:
        code = call(program, arguments, monkeypatch)
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    shown = "".join(capfd.readouterr())
    assert code != 0 and shown, "it did not fail"
    leaked = [
        secret for secret in (PASSWORD, *secrets_of(PLANTED)) for way in spellings(secret) if way.decode() in shown
    ]
    assert leaked == [], shown


def test_mlflow_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    use_environment(dict(PLANTED), monkeypatch)
    for variable in NO_DIRECT_WAY:
        monkeypatch.delenv(variable)
    with pytest.raises(TrackingError) as caught:
        tracking.try_out("http://mlflow.example:5000", "secrets")
    assert "\n" not in str(caught.value)
    assert not any(way.decode() in str(caught.value) for secret in secrets_of(PLANTED) for way in spellings(secret))
