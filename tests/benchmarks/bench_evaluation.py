"""A whole evaluation against the forward passes that it needs, and windows together against one after the other.

    python -m tests.benchmarks.bench_evaluation [--quick] [--cases whole_enet whole_pspnet_resnet18 windows confusion]

`whole`: `evaluate_shards` on packed frames of `town`, 480x360 and JPEG, with decoding, resizing, argmax and the counts
of each image, against the network alone on the same images, which lie there normalised, in the same batches. `windows`:
an image of 720x960 in windows of 240, mirrored too, against a loop of single windows, each brought to the CPU and added
there, as the test code of PSPNet's authors has it (Zhao et al. 2017). `confusion`: the matrix of an image of 11 classes
against torchmetrics without its checks. Contestants take turns. Times are processor seconds of all threads, with one
thread for torch: more of them would be counted while they wait. Prints one JSON line per case.
"""

import tempfile
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

from distseg import evaluation
from distseg.config import model_config
from distseg.data.datasets import town
from distseg.data.loading import eval_samples
from distseg.data.shards import load_manifest, pack
from distseg.evaluation import InferenceConfig, World
from distseg.evaluation.inference import whole_image_logits, window_starts
from distseg.evaluation.metrics import confusion_matrix
from distseg.models import build_model
from distseg.training import keep_freed_memory
from tests.benchmarks.cases import Line, laps_in_turn, run_cases

SIZE_PX = (360, 480)
NUM_CLASSES = 11
NETWORKS = {"enet": model_config("enet"), "pspnet_resnet18": model_config("pspnet", backbone="resnet18")}


def network(name: str, num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    return build_model(NETWORKS[name], num_classes, aux=False).to(memory_format=torch.channels_last).eval()


def precision() -> str:
    return evaluation.resolve_precision("auto", torch.device("cpu"))


@torch.inference_mode()
def whole(name: str, quick: bool) -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        frames = town.samples("val", num_frames=9 if quick else 36, size=SIZE_PX)
        pack({"val": frames}, town.LABELS, folder, dataset="town", jpeg_quality=95)
        manifest = load_manifest(folder)
        model = network(name, manifest.label_space.num_classes)
        images_B3HW = torch.stack([sample.image_3HW for sample in eval_samples(manifest, manifest.shards)])
        at_once = evaluation.max_batch_pixels(torch.device("cpu")) // (SIZE_PX[0] * SIZE_PX[1])
        inputs = [evaluation.normalize(part_B3HW, "fp32") for part_B3HW in images_B3HW.split(at_once)]

        def forward() -> None:
            for input_B3HW in inputs:
                with evaluation.autocast(precision(), torch.device("cpu")):
                    model(input_B3HW)

        def evaluate() -> None:
            evaluation.evaluate_shards(model, manifest, manifest.shards, World(), precision=precision())

        laps = laps_in_turn({"ours": evaluate, "peer": forward}, 2 if quick else 5)
    yield Line.of_laps(f"evaluation/whole_{name}", laps["ours"], laps["peer"], "CPU s", limit=1.1)


@torch.inference_mode()
def windows(quick: bool) -> Iterator[Line]:
    model = network("pspnet_resnet18", NUM_CLASSES)
    size_px, window_px = ((360, 480), 120) if quick else ((720, 960), 240)
    image_13HW = torch.randint(256, (1, 3, *size_px), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    config = InferenceConfig(window_px=(window_px, window_px), flip=True)
    laps = laps_in_turn(
        {
            "ours": lambda: evaluation.predict(model, image_13HW, precision(), config),
            "peer": lambda: by_single_windows(model, image_13HW, window_px),
        },
        2 if quick else 5,
    )
    yield Line.of_laps("evaluation/windows", laps["ours"], laps["peer"], "CPU s", limit=0.5)


def by_single_windows(model: nn.Module, image_13HW: Tensor, window_px: int) -> Tensor:
    """One window after the other, and the mirrored one after it, added up in numpy's float64."""
    height, width = image_13HW.shape[2:]
    total_HWK = np.zeros((height, width, NUM_CLASSES))
    count_HW1 = np.zeros((height, width, 1))
    for top in window_starts(height, window_px):
        for left in window_starts(width, window_px):
            place = slice(top, top + window_px), slice(left, left + window_px)
            window_13hw = image_13HW[:, :, *place]
            for is_mirrored in (False, True):
                shown_13hw = window_13hw.flip(3) if is_mirrored else window_13hw
                softmax_1Khw = whole_image_logits(model, shown_13hw, precision()).softmax(1)
                softmax_1Khw = softmax_1Khw.flip(3) if is_mirrored else softmax_1Khw
                total_HWK[place] += softmax_1Khw[0].permute(1, 2, 0).cpu().numpy() / 2
            count_HW1[place] += 1
    return torch.from_numpy((total_HWK / count_HW1).argmax(2))


def confusion(quick: bool) -> Iterator[Line]:
    generator = torch.Generator().manual_seed(0)
    prediction_1HW, label_1HW = (torch.randint(NUM_CLASSES, (1, *SIZE_PX), generator=generator) for _ in range(2))
    label_1HW[:, :40] = 255
    label_u8 = label_1HW.to(torch.uint8)
    laps = laps_in_turn(
        {
            "ours": lambda: confusion_matrix(prediction_1HW, label_u8, NUM_CLASSES),
            "peer": lambda: multiclass_confusion_matrix(
                prediction_1HW, label_1HW, NUM_CLASSES, ignore_index=255, validate_args=False
            ),
        },
        20 if quick else 100,
    )
    yield Line.of_laps("evaluation/confusion_matrix", laps["ours"], laps["peer"], "CPU s", limit=1.0)


CASES = {f"whole_{name}": partial(whole, name) for name in NETWORKS} | {"windows": windows, "confusion": confusion}

if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory(torch.device("cpu"))  # as `distseg.evaluate` does
    run_cases(__doc__, CASES)
