"""Which shards a run is evaluated on."""

from collections.abc import Sequence

from distseg.data.shards import Manifest, Shard
from distseg.errors import ConfigError


def evaluation_shards(manifest: Manifest, split: str, conditions: Sequence[str] = ()) -> tuple[Shard, ...]:
    """The shards of `conditions` of `split` (of all conditions if empty); 'SPLIT/CONDITION' takes one of another split.

    Raises DataError for a split or condition that the data set does not have.
    """
    if not conditions:
        return manifest.select(split)
    chosen: list[Shard] = []
    for name in conditions:
        named_split, _, condition = name.rpartition("/")
        chosen += [s for s in manifest.select(named_split or split, (condition,)) if s not in chosen]
    return tuple(chosen)


def check_disjoint(train: Sequence[Shard], evaluated: Sequence[Shard]) -> None:
    """Raises ConfigError if a shard is both trained and evaluated on. Of drives in two shards it knows nothing."""
    both = sorted({s.name for s in train} & {s.name for s in evaluated})
    if both:
        raise ConfigError(
            f"data.val_conditions: {both[0]} would be both trained and evaluated on; choose other conditions or splits"
        )
