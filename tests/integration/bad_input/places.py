"""The files and directories that the commands name: data, configurations, weights and runs, sound and bad."""

import contextlib
import functools
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from distseg.config import (
    DataConfig,
    OptimConfig,
    RunConfig,
    ScalingConfig,
    TrackingConfig,
    model_config,
    to_dict,
)
from distseg.data import MANIFEST_NAME
from distseg.data.sample import LabelledImage, Sample
from distseg.data.shards import Manifest, Shard, pack
from distseg.data.shards.manifest import index_json, load_manifest, read_index, seal
from distseg.models.backbones import build_resnet
from distseg.training import checkpoint
from tests.integration.bad_input.calling import call
from tests.toy_data import LABELS, toy_samples

GROUPS = (("day", "town"), ("night", "town"))
FIRST_SHARD = "train/day-town-00000.tar"


class Places(Mapping[str, Path]):
    """Made when first asked for, by the functions in `MAKERS`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists() and name in MAKERS:
            MAKERS[name](self, path)
        return path

    def __iter__(self) -> Iterator[str]:
        return iter(MAKERS)

    def __len__(self) -> int:
        return len(MAKERS)

    def copy(self, name: str, target: Path) -> Path:
        return Path(shutil.copytree(self[name], target))


def town(places: Places, path: Path) -> None:
    """Sound data: 8 training and 4 held-out samples."""
    samples = {split: toy_samples(n, split, GROUPS, (40, 56)) for split, n in (("train", 8), ("val", 4))}
    pack(samples, LABELS, str(path), dataset="toy")


def other_classes(places: Places, path: Path) -> None:
    """Sound data, of another label space."""
    labels = replace(LABELS, name="other", classes=("road", "sky", "tram"))
    pack({"val": toy_samples(2, "val", GROUPS, (40, 56))}, labels, str(path), dataset="toy")


def other_split(places: Places, path: Path) -> None:
    """Sound data for training, of another label space."""
    labels = replace(LABELS, name="other", classes=("road", "sky", "tram"))
    pack({"train": toy_samples(2, "train", GROUPS, (40, 56))}, labels, str(path), dataset="toy")


def moved(places: Places, path: Path) -> None:
    """The sound data in another place."""
    places.copy("town", path)


def val_only(places: Places, path: Path) -> None:
    """Sound data with nothing to train on."""
    pack({"val": toy_samples(2, "val", GROUPS, (40, 56))}, LABELS, str(path), dataset="toy")


def empty(places: Places, path: Path) -> None:
    path.mkdir()


def file(places: Places, path: Path) -> None:
    path.write_text("not a directory")


def cut_manifest(places: Places, path: Path) -> None:
    manifest = places.copy("town", path) / MANIFEST_NAME
    manifest.write_bytes(manifest.read_bytes()[:-100])


def edited_manifest(places: Places, path: Path) -> None:
    manifest = places.copy("town", path) / MANIFEST_NAME
    manifest.write_text(manifest.read_text().replace('"toy"', '"mine"', 1))


def missing_shard(places: Places, path: Path) -> None:
    (places.copy("town", path) / FIRST_SHARD).unlink()


def cut_shard(places: Places, path: Path) -> None:
    shard = places.copy("town", path) / FIRST_SHARD
    shard.write_bytes(shard.read_bytes()[:700])


def edited_index(places: Places, path: Path) -> None:
    index = (places.copy("town", path) / FIRST_SHARD).with_suffix(".index.json")
    index.write_text(index.read_text().replace("train_0000", "train_9999"))


def flipped_bytes(places: Places, path: Path) -> None:
    """One in the image of every sample of a shard."""
    data = bytearray((places.copy("town", path) / FIRST_SHARD).read_bytes())
    manifest = load_manifest(str(path))
    (shard,) = (shard for shard in manifest.shards if shard.name == FIRST_SHARD)
    for entry in read_index(manifest, shard).entries:
        data[entry.image.offset + entry.image.size // 2] ^= 1
    (path / FIRST_SHARD).write_bytes(data)


def fewer_classes(places: Places, path: Path) -> None:
    """Manifest and indices speak of two classes, the label maps hold three: another packer may have written them."""
    manifest = load_manifest(str(places.copy("town", path)))
    labels = replace(LABELS, classes=LABELS.classes[:2], palette=LABELS.palette[:2])
    pixels = {split: {c: counts[:2] for c, counts in of.items()} for split, of in manifest.class_pixels.items()}
    shards = tuple(_with_two_classes(manifest, shard) for shard in manifest.shards)
    sealed = seal(replace(manifest, label_space=labels, class_pixels=pixels, shards=shards))
    (path / MANIFEST_NAME).write_bytes(sealed[1])


def _with_two_classes(manifest: Manifest, shard: Shard) -> Shard:
    entries = [entry._replace(class_pixels=entry.class_pixels[:2]) for entry in read_index(manifest, shard).entries]
    index = index_json(shard.name, entries)
    Path(manifest.uri, shard.index_name).write_bytes(index)
    return replace(shard, class_samples=shard.class_samples[:2], index_sha256=hashlib.sha256(index).hexdigest())


def bomb(places: Places, path: Path) -> None:
    """A photograph of 12,000 x 12,000 pixels in a few hundred kB."""
    path.mkdir()
    Image.new("1", (12_000, 12_000)).save(path / "bomb.png")


def damaged_jpeg(places: Places, path: Path) -> None:
    """Cut in the middle and ended; Pillow makes grey rows of what is lost."""
    path.mkdir()
    buffer = io.BytesIO()
    Image.effect_noise((80, 60), 60).convert("RGB").save(buffer, format="JPEG")
    (path / "a.jpg").write_bytes(buffer.getvalue()[:2000] + b"\xff\xd9")


def cut_images(places: Places, path: Path) -> None:
    """Packed photographs with a sound header and no end."""
    samples = {split: [_with_half_an_image(s) for s in toy_samples(4, split, GROUPS)] for split in ("train", "val")}
    pack(samples, LABELS, str(path), dataset="toy")


def _with_half_an_image(sample: Sample) -> Sample:
    return replace(sample, load=functools.partial(_half, sample.load))


def _half(load: Callable[[], LabelledImage]) -> LabelledImage:
    loaded = load()
    return loaded._replace(image=loaded.image[: len(loaded.image) // 2])


def camvid(places: Places, path: Path) -> None:
    """One frame in CamVid's layout."""
    for folder, image in (("train", Image.new("RGB", (40, 32))), ("trainannot", Image.new("L", (40, 32)))):
        (path / folder).mkdir(parents=True)
        image.save(path / folder / "0001TP_006690.png")


def camvid_wrong_label(places: Places, path: Path) -> None:
    Image.new("L", (40, 32), 77).save(places.copy("camvid", path) / "trainannot/0001TP_006690.png")


def camvid_wrong_size(places: Places, path: Path) -> None:
    Image.new("L", (40, 31)).save(places.copy("camvid", path) / "trainannot/0001TP_006690.png")


def camvid_unreadable(places: Places, path: Path) -> None:
    (places.copy("camvid", path) / "train/0001TP_006690.png").write_bytes(b"\x89PNG but no more")


def camvid_without_annotation(places: Places, path: Path) -> None:
    (places.copy("camvid", path) / "trainannot/0001TP_006690.png").unlink()


def unfinished_pack(places: Places, path: Path) -> None:
    (places.copy("town", path) / MANIFEST_NAME).unlink()


# ---- configurations, weights, runs


def config(places: Places, path: Path) -> None:
    """A sound training of one step."""
    sound = RunConfig(
        name="sound",
        model=model_config(backbone="resnet18"),
        optim=OptimConfig(lr=0.01, max_steps=1),
        data=DataConfig(uri=str(places["town"]), batch_size=4, crop_px=(32, 32), num_threads=1),
        scaling=ScalingConfig(num_workers=2),
        tracking=TrackingConfig(uri="off"),
        precision="fp32",
    )
    path.write_text(json.dumps(to_dict(sound)))


def config_not_json(places: Places, path: Path) -> None:
    path.write_text("{'name': 'python'}")


def config_unknown_field(places: Places, path: Path) -> None:
    path.write_text(json.dumps({"optim": {"learning_rate": 0.1}}))


def config_wrong_type(places: Places, path: Path) -> None:
    path.write_text(json.dumps({"data": {"crop_px": "large"}}))


def recipes_of_mine(places: Places, path: Path) -> None:
    path.mkdir()
    (path / "mine.py").write_text("def recipe():\n    return {'name': 'a dict'}\n\n\nNUMBER = 7\n")


def weights_garbage(places: Places, path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 no weights")


def weights_list(places: Places, path: Path) -> None:
    torch.save([1, 2, 3], path)


def weights_lacking_keys(places: Places, path: Path) -> None:
    state = build_resnet("resnet18", (1, 2, 4)).state_dict()
    del state["conv1.weight"]
    torch.save(state, path)


def weights_of_resnet34(places: Places, path: Path) -> None:
    torch.save(build_resnet("resnet34", (1, 2, 4)).state_dict(), path)


def run(places: Places, path: Path) -> None:
    """A run that ended well."""
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        patch.setenv("RANK", "0")
        options = ["--checkpoint.uri", folder, "--scaling.num_workers", "1"]
        assert call("train", ["--config", str(places["config"]), *options], patch) == 0
        (made,) = Path(folder).iterdir()
        shutil.move(made, path)


def run_without_weights(places: Places, path: Path) -> None:
    found = checkpoint.found_in(str(places.copy("run", path)))
    (Path(found[0].uri) / checkpoint.WEIGHTS_FILE).unlink()


def run_damaged(places: Places, path: Path) -> None:
    found = checkpoint.found_in(str(places.copy("run", path)))
    weights = Path(found[0].uri) / checkpoint.WEIGHTS_FILE
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)


def run_with_bad_about(places: Places, path: Path) -> None:
    (places.copy("run", path) / "run.json").write_text("{}")


def run_with_bad_config(places: Places, path: Path) -> None:
    (places.copy("run", path) / "config.json").write_text('{"optim": {"lr": -1}}')


MAKERS: dict[str, Callable[[Places, Path], None]] = {
    maker.__name__: maker
    for maker in (
        *(town, other_classes, other_split, moved, val_only, empty, file, cut_manifest, edited_manifest),
        *(missing_shard, cut_shard, edited_index, flipped_bytes, fewer_classes, cut_images, unfinished_pack),
        *(bomb, damaged_jpeg),
        *(camvid, camvid_wrong_label, camvid_wrong_size, camvid_unreadable, camvid_without_annotation),
        *(config, config_not_json, config_unknown_field, config_wrong_type, recipes_of_mine),
        *(weights_garbage, weights_list, weights_lacking_keys, weights_of_resnet34),
        *(run, run_without_weights, run_damaged, run_with_bad_about, run_with_bad_config),
    )
}
