"""TODO distseg.data.shards."""

from distseg.data.shards.manifest import (
    MANIFEST_NAME,
    Index,
    IndexEntry,
    Manifest,
    ReadRange,
    SampleViews,
    Shard,
    combined_digest,
    load_manifest,
    read_index,
    read_sample,
    view_sample,
)
from distseg.data.shards.packing import (
    MAX_BYTES_PER_SHARD,
    MAX_SAMPLES_PER_SHARD,
    ShardSummary,
    contact_sheet,
    inspect,
    pack,
    verify,
)

__all__ = [
    "MANIFEST_NAME",
    "MAX_BYTES_PER_SHARD",
    "MAX_SAMPLES_PER_SHARD",
    "Index",
    "IndexEntry",
    "Manifest",
    "ReadRange",
    "SampleViews",
    "Shard",
    "ShardSummary",
    "combined_digest",
    "contact_sheet",
    "inspect",
    "load_manifest",
    "pack",
    "read_index",
    "read_sample",
    "verify",
    "view_sample",
]
