"""`town` as the embedded default data set: packed the first time that a training needs it."""

import logging

from distseg import storage
from distseg.data import MANIFEST_NAME, datasets, shards
from distseg.data.processes import in_processes, num_cores

TOWN_TRAIN, TOWN_VAL = 720, 180  # frames: 40 and 10 of each condition and site

_log = logging.getLogger(__name__)


def ensure_town(uri: str, num_train: int = TOWN_TRAIN, num_val: int = TOWN_VAL) -> None:
    """Packs so many frames of `town` into `uri`, on all cores of this machine, unless a packed data set is there."""
    if storage.exists(storage.join(uri, MANIFEST_NAME)):
        return
    _log.info("packing town (%d training and %d held-out frames) into %s", num_train, num_val, uri)
    town = datasets.find("town")
    assert town.options is not None
    options = town.options(train=num_train, val=num_val)
    samples = {split: town.samples_of("", split, options) for split in town.default_splits("", options)}
    shards.pack(samples, town.labels(""), uri, dataset=town.name, run=in_processes(num_cores()))
