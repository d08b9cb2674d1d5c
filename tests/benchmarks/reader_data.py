"""The data set of `bench_reader.py`, in the layout of each contestant: photographs of 480x360 and their label maps."""

import importlib.util
import io
import itertools
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from distseg import storage
from distseg.data.datasets import camvid, town
from distseg.data.processes import in_processes
from distseg.data.sample import LabelledImage, Sample
from distseg.data.shards import pack

SIZE_PX = (360, 480)
CORES = 2
NUM_FRAMES = 32  # distinct ones
SAMPLES_PER_SHARD = 64


def has_streaming() -> bool:
    return importlib.util.find_spec("streaming") is not None


class Files(NamedTuple):
    """One data set in the layout of each contestant."""

    folder: Path
    num_samples: int
    label_space: Any

    @property
    def images(self) -> list[Path]:
        return sorted((self.folder / "files").glob("*.jpg"))

    @property
    def shards(self) -> list[Path]:
        return sorted((self.folder / "shards" / "train").glob("*.tar"))


def make_files(folder: Path, num_samples: int, root: str | None) -> Files:
    files = Files(folder, num_samples, camvid.LABELS if root else town.LABELS)
    (folder / "files").mkdir(parents=True)
    samples = camvid.samples(root, "train") if root else town.samples("train", num_frames=NUM_FRAMES, size=SIZE_PX)
    frames = list(in_processes(CORES)(_encode, list(itertools.islice(samples, NUM_FRAMES))))
    for i in range(num_samples):
        for content, suffix in zip(frames[i % len(frames)], (".jpg", ".png"), strict=True):
            (folder / "files" / f"{i:06d}{suffix}").write_bytes(content)
    splits = {
        split: [_sample(path, split) for path in files.images[:count]]
        for split, count in (("train", num_samples), ("val", 2))
    }
    pack(splits, files.label_space, str(folder / "shards"), dataset="bench", max_samples_per_shard=SAMPLES_PER_SHARD)
    if has_streaming():
        _write_mds(files)
    return files


def _encode(sample: Sample) -> tuple[bytes, bytes]:
    loaded = sample.load()
    image, label = io.BytesIO(), io.BytesIO()
    Image.open(io.BytesIO(loaded.image)).save(image, format="JPEG", quality=95)
    Image.fromarray(loaded.label_HW).save(label, format="PNG")
    return image.getvalue(), label.getvalue()


def _sample(path: Path, split: str) -> Sample:
    key = path.stem if split == "train" else f"{split}-{path.stem}"
    load = partial(_load, path)
    return Sample(key=key, condition="all", site="all", sequence="", split=split, source=f"{split}/{path}", load=load)


def _load(path: Path) -> LabelledImage:
    return LabelledImage(path.read_bytes(), "jpg", np.asarray(Image.open(path.with_suffix(".png"))))


def _write_mds(files: Files) -> None:
    from streaming import MDSWriter

    columns = {"image": "jpeg", "label": "png"}
    size_limit = max(path.stat().st_size for path in files.shards)  # shards of the size of ours
    with MDSWriter(columns=columns, out=str(files.folder / "mds"), size_limit=size_limit) as writer:
        for path in files.images:
            with Image.open(path) as image, Image.open(path.with_suffix(".png")) as label:
                writer.write({"image": image, "label": label})


def upload(files: Files, uri: str) -> None:
    for entry in storage.list_files(str(files.folder / "shards")):
        storage.upload(entry.uri, storage.join(uri, str(Path(entry.uri).relative_to(files.folder))))
