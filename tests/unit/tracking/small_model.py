"""What a run hands over as its model."""

from dataclasses import replace

from distseg.runs.model_logging import model_to_log
from distseg.tracking import DataInput, ModelToLog
from distseg.training.checkpoint import Checkpoint

SCORES = {"val/mIoU": 0.5, "val/mIoU_worst": 0.25, "val/mIoU_mean_conditions": 0.4}


def evaluated_on(digest: str) -> list[DataInput]:
    return [DataInput("town val", "d" * 64, "/data/town", "eval", digest, 4, {"val": ["dawn", "fog"]})]


def model_of(saved: Checkpoint, images: str = "same images", **scores: float) -> ModelToLog:
    model = model_to_log(saved, evaluated_on(images), "# Card")
    return replace(model, scores={**model.scores, **{f"val/{name}": value for name, value in scores.items()}})
