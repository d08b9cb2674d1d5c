"""What MLflow loads a logged model by: `mlflow.pyfunc.load_model(URI).predict(images)`, and so `mlflow models serve`.

The model's one file is `checkpoint.as_one_file`'s, read with weights_only=True: nothing in it is executed. Images go in
as uint8 (B, H, W, 3) RGB of any size, label maps come out as uint8 (B, H, W); 255 (void) is never predicted. MLflow
calls `_load_pyfunc` by its name; nothing here needs MLflow.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distseg import evaluation, strict_json
from distseg.config import Precision
from distseg.data import LabelSpace
from distseg.data.shards import Manifest
from distseg.errors import CheckpointError, DataError
from distseg.models import SegmentationModel, Statistics, build_model
from distseg.training import SourceStyle, TowardsSource, load_style_network
from distseg.training.checkpoint import Checkpoint, resolve


class Segmenter:
    """A network ready to segment, on a GPU if torch sees one."""

    def __init__(self, saved: Checkpoint, precision: Precision = "auto") -> None:
        """Raises CheckpointError if the weights do not fit, ConfigError for a precision this machine does not have."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = evaluation.resolve_precision(precision, self.device)
        self.label_space: LabelSpace = saved.label_space
        self._model = load_model(saved, self.device, self.precision)

    def predict(
        self, images_BHW3: npt.NDArray[np.uint8], params: Mapping[str, Any] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Class ids, uint8 (B, H, W), of uint8 (B, H, W, 3). Raises DataError for anything else; `params`: none."""
        images_BHW3 = np.asarray(images_BHW3)
        if images_BHW3.dtype != np.uint8 or images_BHW3.ndim != 4 or images_BHW3.shape[3] != 3 or not images_BHW3.size:
            raise DataError(f"images of {images_BHW3.dtype} {images_BHW3.shape}: give uint8 RGB of (B, H, W, 3)")
        num_images, height, width, _ = images_BHW3.shape
        labels_BHW = np.empty((num_images, height, width), dtype=np.uint8)
        at_once = max(1, evaluation.max_batch_pixels(self.device) // (height * width))
        for start in range(0, num_images, at_once):
            batch_B3HW = torch.from_numpy(np.array(images_BHW3[start : start + at_once])).permute(0, 3, 1, 2)
            ids_BHW = evaluation.predict(self._model, batch_B3HW.to(self.device), self.precision)
            labels_BHW[start : start + at_once] = ids_BHW.to(torch.uint8).cpu().numpy()
        return labels_BHW


def load_segmenter(uri: str, precision: Precision = "auto") -> Segmenter:
    """The network of a checkpoint, of a run (its best) or of a model's one file, at a path or s3:// URI.

    Raises CheckpointError if there is none, or if it is damaged.
    """
    return Segmenter(resolve(uri)[1], precision)


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Segmenter:
    """MLflow's protocol. `path`: the model's file. `model_config`: {"precision": …}, as `load_model` was given it."""
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; log the model again")
    precision = strict_json.build(Precision, (model_config or {}).get("precision", "auto"), "model_config.precision")
    return Segmenter(resolve(path)[1], precision)


def load_model(saved: Checkpoint, device: torch.device, precision: str) -> SegmentationModel:
    """The checkpoint's network in eval mode. Raises CheckpointError if its weights do not fit its configuration."""
    if saved.config.model.is_style_network:
        raise CheckpointError("a checkpoint of adain restyles images and segments none; give one of a segmentation")
    num_classes, aux = saved.label_space.num_classes, saved.config.loss.aux_weight > 0
    with torch.device("meta"):  # takes no memory: a network that the weights do not fit is not built
        _check_shapes(build_model(saved.config.model, num_classes, aux=aux).state_dict(), saved.evaluated)
    model = build_model(saved.config.model, num_classes, aux=aux)
    try:
        model.load_state_dict(saved.evaluated)
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint's weights do not fit its model: {str(error).splitlines()[0]}") from None
    if saved.source_style:
        assert saved.config.style.network is not None
        style = Statistics(saved.source_style["mean_BC11"], saved.source_style["std_BC11"])
        source = SourceStyle(load_style_network(saved.config.style.network), style)
        model = TowardsSource(model, source, saved.config.style.strength)
    dtype = torch.float64 if precision == "fp64" else torch.float32
    return model.to(device, dtype).to(memory_format=torch.channels_last).eval()


def _check_shapes(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    wrong = next((key for key in own if key not in saved or saved[key].shape != own[key].shape), None)
    if wrong is not None:
        has = f"is {tuple(saved[wrong].shape)}" if wrong in saved else "is missing"
        raise CheckpointError(
            f"the checkpoint's weights do not fit its model: {wrong} {has}, must be {tuple(own[wrong].shape)}"
        )


def check_classes(saved: Checkpoint, manifest: Manifest) -> None:
    """Raises CheckpointError if the checkpoint's classes are not those of the data."""
    if saved.label_space.classes != manifest.label_space.classes:
        raise CheckpointError(
            f"the checkpoint predicts {saved.label_space.num_classes} classes ({saved.label_space.name}), the data has "
            f"{manifest.label_space.num_classes} ({manifest.label_space.name}); evaluate on data of its label space"
        )
