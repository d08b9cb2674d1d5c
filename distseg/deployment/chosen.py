"""Which segmented images a page shows: the least sure ones and others, evenly spread; with their layers."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from distseg import storage
from distseg.data import images as decoding
from distseg.deployment.inputs import Place
from distseg.deployment.segmenting import SegmentedImage, SegmentJob, result_name
from distseg.errors import DataError
from distseg.evaluation import Overlay, layers_of_prediction


def choose(images: Sequence[SegmentedImage], count: int) -> tuple[list[SegmentedImage], list[SegmentedImage]]:
    """At most `count`: half of them the least sure, then every n-th of the others, in their order."""
    least_sure = sorted(images, key=lambda image: (image.confidence, image.name))[: -(-count // 2)]
    taken = {image.name for image in least_sure}
    others = [image for image in images if image.name not in taken]
    num_others = min(len(others), count - len(least_sure))
    return least_sure, [others[i * len(others) // num_others] for i in range(num_others)]


def shown(job: SegmentJob, places: Sequence[Place], images: Sequence[SegmentedImage], count: int) -> list[Overlay]:
    """The chosen ones, the least sure first, of what is written below `job.out`. Their condition is their folder."""
    least_sure, others = choose(images, count)
    wanted = {image.name: image for image in (*least_sure, *others)}
    in_order = [place for place in places if place.name in wanted]  # a video is read forwards
    if not in_order:
        return []
    found = {}
    for place, photograph in zip(in_order, job.source.read(in_order, job.max_megapixels), strict=True):
        ids_HW, grey_hw = (_written(job, folder, place.name) for folder in ("label", "confidence"))
        if ids_HW.shape != (photograph.height, photograph.width):
            raise DataError(f"{place.name}: is of another size than when it was segmented; --overwrite does it anew")
        found[place.name] = Overlay(
            kind="worst" if wanted[place.name] in least_sure else "fixed",
            condition=str(PurePosixPath(place.name).parent).removeprefix("."),
            key=place.name,
            iou=None,
            jpeg=b"",
            confidence=wanted[place.name].confidence,
            layers=layers_of_prediction(np.array(photograph), ids_HW, grey_hw),
        )
    return [found[name] for name in wanted]


def _written(job: SegmentJob, folder: str, name: str) -> npt.NDArray[np.uint8]:
    uri = storage.join(job.out, folder, result_name(name))
    return np.asarray(decoding.decode(storage.read_bytes(uri), uri, max_megapixels=job.max_megapixels))
