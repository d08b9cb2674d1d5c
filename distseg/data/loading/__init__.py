"""Packed shards -> batches for training, single samples for evaluation.

    TrainReader(datasets, options)      this rank's part of global batch b, b + 1, … for ever, in uint8
    eval_samples(manifest, shards)      this rank's share of the samples, each once and whole
    spread_samples(manifest, shards, n) n of them, evenly spread, the same on every rank

Which sample stands where follows from (manifests, options, b) alone: not from the number of ranks or threads, nor from
where training was resumed. Images are uint8 RGB, labels uint8 train ids with 255 for void; normalising is the
consumer's. Memory and disk are bounded, whatever the size of the data set.

A damaged sample is read again, then a DataError names shard and key (or it is skipped, where that was asked for). S3
that does not answer is a StorageError after `deadline_s`.

Inside: `sampling` (which samples form a stream), `plan` (which sample when), `source` and `cache` (from where its bytes
come), `decoding`, `transforms` (augmentation), `threads`, `reader` and `evaluation` (all of it together).
"""

from distseg.data.loading.evaluation import EvalSample, eval_samples, spread_samples
from distseg.data.loading.reader import Batch, DatasetPart, ReadOptions, TrainReader

__all__ = ["Batch", "DatasetPart", "EvalSample", "ReadOptions", "TrainReader", "eval_samples", "spread_samples"]
