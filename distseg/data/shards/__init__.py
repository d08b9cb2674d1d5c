"""Samples packed into WebDataset shards: writing, reading, verifying, inspecting.

    pack(samples, label_space, out_uri, dataset=…)      writes shards, indices and, last, the manifest
    pack_in_place(root, tars, label_space, …)            index and manifest for tars that others wrote
    load_manifest(uri), read_index, read_sample          what is there; single samples by byte ranges
    verify(uri), inspect(uri), contact_sheet(uri)        is it as packed, what is in it, how does it look

A shard is a plain USTAR tar of one (split, condition, site): KEY.jpg or .png, KEY.label.png (8-bit grey, train ids, 255
void) and KEY.json for each sample. The same samples and options give the same bytes, wherever they are packed; equal
data sets have equal digests. A DataError names what is missing or damaged: manifest, shard or key.
"""

from distseg.data.shards.formats import IndexEntry, Shard
from distseg.data.shards.in_place import pack_in_place
from distseg.data.shards.inspection import ShardSummary, contact_sheet, inspect, verify
from distseg.data.shards.manifest import (
    Index,
    Manifest,
    ReadRange,
    SampleViews,
    combined_digest,
    load_manifest,
    read_index,
    read_sample,
    view_sample,
)
from distseg.data.shards.packing import MAX_BYTES_PER_SHARD, MAX_SAMPLES_PER_SHARD, pack

__all__ = [
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
    "pack_in_place",
    "read_index",
    "read_sample",
    "verify",
    "view_sample",
]
