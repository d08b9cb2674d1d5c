"""The data of small runs."""

import pytest

from distseg.data.shards import pack
from tests.toy_data import LABELS, toy_samples


@pytest.fixture(scope="session")
def data_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("toy"))
    pack({split: toy_samples(8, split, size_hw=(40, 56)) for split in ("train", "val")}, LABELS, uri, dataset="toy")
    return uri
