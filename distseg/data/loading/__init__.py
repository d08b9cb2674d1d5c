"""TODO distseg.data.loading."""

from distseg.data.loading.reader import Batch, DatasetPart, EvalSample, TrainReader, eval_samples

__all__ = ["Batch", "DatasetPart", "EvalSample", "TrainReader", "eval_samples"]
