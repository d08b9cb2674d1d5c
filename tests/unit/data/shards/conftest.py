import shutil
from pathlib import Path

import pytest

from tests.unit.data.shards.toy_shards import pack_toy


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    pack_toy(out)
    return out


@pytest.fixture
def packed(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the packed data set, to be damaged."""
    return Path(shutil.copytree(pristine, tmp_path / "copy"))
