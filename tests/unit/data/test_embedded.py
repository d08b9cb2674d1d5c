from pathlib import Path

import pytest

from distseg.data import embedded
from distseg.data.embedded import ensure_town
from distseg.data.shards import load_manifest


def test_town_is_packed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "num_cores", lambda: 1)  # starting processes would take most of the time
    uri = str(tmp_path / "town")
    ensure_town(uri, 18, 9)
    manifest = load_manifest(uri)
    assert manifest.dataset == "town"
    assert [sum(shard.num_samples for shard in manifest.select(split)) for split in ("train", "val")] == [18, 9]
    ensure_town(uri, 36, 18)  # there is one
    assert load_manifest(uri) == manifest
