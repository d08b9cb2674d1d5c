"""--config FILE: a file that cannot be one is named in one line."""

from pathlib import Path

import pytest

from distseg import cli
from distseg.errors import ConfigError


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"[" * 100_000, "not JSON (lists and objects in each other deeper than 32)"),
        (b'{"seed": 9' + b"9" * 5000 + b"}", "the number 99999999999999999999… has 5001 digits"),
        (b'{"optim": {"lr": NaN}}', "NaN is not a number of JSON"),
    ],
    ids=["deep", "digits", "nan"],
)
def test_the_file_is_named(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        cli.read_config_file(str(path))
    assert str(caught.value).startswith(f"--config {path}: {says}")
