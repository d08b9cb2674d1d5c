"""A training over Ray into a prefix of S3 whose name means something else in an address; the server comes from a file.

Ray's own access to S3 would read `a#b` as `a`, and look for the server in the environment alone. No secret that it was
given is in anything that it leaves.
"""

import os
from pathlib import Path

import pytest

from distseg import storage
from distseg.training import checkpoint
from tests import programs
from tests.canaries import PLANTED, files, found, secrets_of
from tests.conftest import make_bucket, use_environment
from tests.small_town import arguments, pack_town

pytestmark = [pytest.mark.timeout(1800), pytest.mark.ray, pytest.mark.long]

PREFIX = "a b#c%20?grün"


def test_all_of_a_run_lies_below_the_prefix_and_none_of_it_has_a_secret(
    tmp_path: Path, moto_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {moto_endpoint}\n")
    use_environment({"AWS_CONFIG_FILE": str(tmp_path / "config"), **PLANTED}, monkeypatch)
    bucket = make_bucket()
    pack_town(tmp_path)
    place = f"{bucket}/{PREFIX}"
    with programs.own_environment() as environment:
        environment |= {"AWS_CONFIG_FILE": os.environ["AWS_CONFIG_FILE"], **PLANTED}
        first = programs.run(tmp_path, environment, "distseg.train", *arguments(), "--checkpoint.uri", place)
        assert first.code == 0, first.err
        ray = Path(environment["RAY_TMPDIR"])
        assert {"raylet.out", "runtime_env_agent.log"} <= {path.name for path in files(ray)}
        assert found(secrets_of(PLANTED), ray, tmp_path) == []
    written = [entry.uri for entry in storage.list_files(bucket)]
    assert found(secrets_of(PLANTED), **{uri: storage.read_bytes(uri).decode("latin1") for uri in written}) == []
    assert all(uri.startswith(f"{place}/") for uri in written)
    (run_uri,) = {uri.removesuffix("/run.json") for uri in written if uri.endswith("/run.json")}
    assert len(checkpoint.found_in(run_uri)) >= 2
    assert any(uri.endswith("checkpoint_manager_snapshot.json") for uri in written), (
        "Ray Train's own note is there, too"
    )
