"""A manifest that a stranger wrote, with a digest that fits: nothing of it names a file elsewhere."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from distseg.data.shards import load_manifest, pack, read_index, verify
from distseg.data.shards.manifest import index_json
from distseg.errors import DataError
from tests.toy_data import LABELS, toy_samples

GROUPS = (("day", "town"),)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    uri = tmp_path / "a" / "packed"
    pack({"train": toy_samples(2, "train", GROUPS, (16, 16))}, LABELS, str(uri), dataset="toy")
    return uri


def rewrite(packed: Path, **of_shard: Any) -> None:
    """The manifest with other values in its only shard, sealed again."""
    body = json.loads((packed / "manifest.json").read_text())
    del body["digest"]
    body["shards"][0] |= of_shard
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    body["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    (packed / "manifest.json").write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("of_shard", "says"),
    [
        ({"sha256": "/tmp/x"}, "sha256 = '/tmp/x': must be 64 hex digits"),
        ({"sha256": "../x"}, "must be 64 hex digits"),
        ({"index_sha256": "0" * 63}, "must be 64 hex digits"),
        ({"name": "../../etc/passwd"}, "name = '../../etc/passwd': must be folders and a .tar"),
        ({"name": "train/day-town-00000.tar/../../x"}, "must be folders and a .tar"),
        ({"name": "/etc/x.tar"}, "must be folders and a .tar"),
        ({"split": "../../x"}, "split = '../../x': use letters"),
        ({"condition": "day/../.."}, "use letters"),
        ({"site": "\x1b[31m"}, "use letters"),
        ({"num_bytes": 2**60}, "must be from 1 to 2^50"),
        ({"num_samples": True}, "must be of type int"),
        ({"class_samples": [9, 9, 9]}, "each must be from 0 to num_samples = 2"),
        ({"colour": 1}, "colour: no such field"),
    ],
)
def test_a_hostile_shard_is_refused_before_it_is_used(packed: Path, of_shard: dict[str, Any], says: str) -> None:
    rewrite(packed, **of_shard)
    with pytest.raises(DataError) as caught:
        load_manifest(str(packed))
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{packed}/manifest.json: ")
    assert str(caught.value).isprintable()
    assert verify(str(packed)) == [str(caught.value)]


def test_a_hostile_split_does_not_steer_what_overwrite_deletes(packed: Path) -> None:
    elsewhere = packed.parent / "other" / "day-town-00000.tar"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"keep")
    rewrite(packed, split="../other", name="../other/day-town-00000.tar")
    samples = {"train": toy_samples(2, "train", GROUPS, (16, 16))}
    pack(samples, LABELS, str(packed), dataset="toy", overwrite=True)
    assert elsewhere.read_bytes() == b"keep"
    assert verify(str(packed)) == []


@pytest.mark.parametrize("place", [(2**40, 10), (0, 2**31), (-1, 5), (0, 10**30)])
def test_a_place_outside_the_shard_is_not_read(packed: Path, place: tuple[int, int]) -> None:
    manifest = load_manifest(str(packed))
    shard = manifest.shards[0]
    first, *others = read_index(manifest, shard).entries
    moved = first._replace(image=first.image._replace(offset=place[0], size=place[1]))
    content = index_json(shard.name, [moved, *others])
    (packed / shard.index_name).write_bytes(content)
    signed = dataclasses.replace(shard, index_sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(DataError, match=r"index\.json: (malformed|edited or damaged) "):
        read_index(manifest, signed)
