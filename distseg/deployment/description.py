"""What an exported file says of itself, so that whoever gets it needs nothing beside it.

ONNX holds it as `metadata_props` (onnxruntime: `session.get_modelmeta().custom_metadata_map`), torch.export as the
extra file `metadata.json`, safetensors as the metadata of its header. Names and values are text; all but `images` and
`logits` are JSON.
"""

import json
from typing import Any

from distseg.data import IGNORE_INDEX, MEAN_RGB, STD_RGB
from distseg.training.checkpoint import Checkpoint

LEAST_PX = 33
"""At strides up to 32, a shorter side becomes a single cell, for which torch.export would make another program."""

IMAGES = "float32 (N, 3, H, W), RGB, 0 to 255; sides of at least `least_px` pixels that are multiples of `multiple_px`"
LOGITS = "float32 (N, K, H, W), K as in `classes`; the class of a pixel is the index of the largest"


def least_side(multiple: int) -> int:
    """Of images, in pixels."""
    return multiple * max(2, -(-LEAST_PX // multiple))


def describe_network(saved: Checkpoint, *, multiple: int) -> dict[str, str]:
    """For a program that takes images and gives logits. Sides of images must be multiples of `multiple`."""
    inside = {"mean_rgb": list(MEAN_RGB), "std_rgb": list(STD_RGB), "is_inside": True}
    size = {"least_px": least_side(multiple), "multiple_px": multiple}
    return {
        "images": IMAGES,
        "logits": LOGITS,
        **_as_text({**size, "normalisation": inside}),
        **describe_weights(saved),
    }


def describe_weights(saved: Checkpoint) -> dict[str, str]:
    """Which classes in which colours, and where the weights come from: network, run, data and scores."""
    labels = saved.label_space
    content = {
        "classes": list(labels.classes),
        "palette": [list(colour) for colour in labels.palette],
        "void": IGNORE_INDEX,  # in label maps; a network never says it
        "label_space": labels.name,
        "network": saved.config.model.name,
        "run": saved.config.name,
        "mlflow_run_id": saved.run_id,
        "step": saved.step,
        "data_digest": saved.manifest_digest,
        "metrics": saved.metrics,
        "code_version": saved.code_version,
    }
    return _as_text(content)


def _as_text(content: dict[str, Any]) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in content.items()}
