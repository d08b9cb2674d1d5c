"""TODO distseg.data.loading."""

from distseg.data.loading.reader import Batch, EvalSample, Part, TrainReader, eval_samples

__all__ = ["Batch", "EvalSample", "Part", "TrainReader", "eval_samples"]
