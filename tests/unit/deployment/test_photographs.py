from pathlib import Path

import pytest

from distseg.deployment import photographs_below
from distseg.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_what_operating_systems_leave_behind_is_passed_over_as_in_packing(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b/c.PNG", "._a.jpg", "__MACOSX/a.jpg", "b/__MACOSX/._c.PNG", "Thumbs.db", ".cache/x.png")
    assert photographs_below(str(tmp_path)) == ["a.jpg", "b/c.PNG"]


def test_nothing_but_such_files_is_no_photograph(tmp_path: Path) -> None:
    touch(tmp_path, "._a.jpg")
    with pytest.raises(DataError, match="no images below it"):
        photographs_below(str(tmp_path))
