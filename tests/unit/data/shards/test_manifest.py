import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from distseg.data.shards import (
    load_manifest,
    verify,
)
from distseg.errors import DataError

# ---- the manifest


def test_select_names_what_exists(pristine: Path) -> None:
    manifest = load_manifest(str(pristine))
    assert len(manifest.select("train")) == 3 * 3
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        manifest.select("test")
    with pytest.raises(DataError, match="no condition 'fog' in split 'train'; it has day, night"):
        manifest.select("train", ["day", "fog"])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: "{", "not JSON"),
        (lambda text: "[]", "not written by distseg.pack"),
        (lambda text: '{"format": "other"}', "not written by distseg.pack"),
        (lambda text: text.replace('"version": 2', '"version": 3'), "format version 3, this distseg reads 2"),
        (lambda text: text.replace('"night"', '"day"'), "edited or damaged"),
        (lambda text: re.sub(r'"num_samples": \d+', '"num_samples": 9', text, count=1), "edited or damaged"),
        (lambda text: text.replace('"digest"', '"digets"'), "edited or damaged"),
    ],
)
def test_a_damaged_manifest_is_refused(packed: Path, edit: Callable[[str], str], message: str) -> None:
    path = packed / "manifest.json"
    path.write_text(edit(path.read_text()))
    with pytest.raises(DataError, match=rf"manifest\.json: .*{message}"):
        load_manifest(str(packed))
    assert len(verify(str(packed))) == 1


def test_a_sealed_manifest_without_its_fields_is_malformed(packed: Path) -> None:
    body = {"format": "distseg-shards", "version": 2, "shards": []}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    (packed / "manifest.json").write_text(json.dumps({**body, "digest": hashlib.sha256(canonical).hexdigest()}))
    with pytest.raises(DataError, match="malformed"):
        load_manifest(str(packed))
