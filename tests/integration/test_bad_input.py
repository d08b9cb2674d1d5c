"""Every kind of bad input ends a program with the right exit code and one line: what, which value, what to do.

Programs are called in this process as the command line would; `train` up to where it would join a Ray cluster, or,
where a case says `alone`, as the only rank of a training without Ray. In a command `{name}` is a file or directory that
the function `name` below makes; `{out}` is a directory that is not there.
"""

import contextlib
import functools
import hashlib
import importlib
import io
import json
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from distseg import cli
from distseg.config import (
    DataConfig,
    OptimConfig,
    RunConfig,
    ScalingConfig,
    TrackingConfig,
    model_config,
    to_dict,
)
from distseg.data.sample import LabelledImage, Sample
from distseg.data.shards import Manifest, Shard, pack
from distseg.data.shards.manifest import MANIFEST_NAME, index_json, load_manifest, read_index, seal
from distseg.models.backbones import build_resnet
from distseg.storage import retries
from distseg.training import checkpoint
from tests import programs
from tests.conftest import make_bucket, use_environment
from tests.toy_data import LABELS, toy_samples

pytestmark = pytest.mark.timeout(1200)

GROUPS = (("day", "town"), ("night", "town"))
FIRST_SHARD = "train/day-town-00000.tar"


# ---- data, good and bad


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
        *(
            town,
            other_classes,
            other_split,
            moved,
            val_only,
            empty,
            file,
            cut_manifest,
            edited_manifest,
            bomb,
            damaged_jpeg,
            missing_shard,
            cut_shard,
            edited_index,
        ),
        *(flipped_bytes, fewer_classes, cut_images, unfinished_pack),
        *(camvid, camvid_wrong_label, camvid_wrong_size, camvid_unreadable, camvid_without_annotation),
        *(config, config_not_json, config_unknown_field, config_wrong_type, recipes_of_mine),
        *(weights_garbage, weights_list, weights_lacking_keys, weights_of_resnet34),
        *(run, run_without_weights, run_damaged, run_with_bad_about, run_with_bad_config),
    )
}


# ---- the table


@dataclass(frozen=True)
class Bad:
    command: str
    code: int
    words: tuple[str, ...]
    """Each is in the error line."""
    alone: bool = False


TRAIN = "train --config {config} --checkpoint.uri {out}"
ALONE = "train --config {config} --checkpoint.uri {out} --scaling.num_workers 1"

CASES = {
    # the command line
    "unknown field": Bad(TRAIN + " --optim.learning 1", 2, ("--optim.learning", "--help")),
    "bad type": Bad(TRAIN + " --optim.lr fast", 2, ("--optim.lr", "fast", "float")),
    "bad choice": Bad(TRAIN + " --model.pool median", 2, ("--model.pool", "median", "avg")),
    "out of range": Bad(TRAIN + " --model.dropout 1.5", 2, ("model.dropout = 1.5", "[0, 1)")),
    "fields that do not fit": Bad(TRAIN + " --optim.warmup_steps 9", 2, ("optim.warmup_steps = 9", "below max_steps")),
    "missing value": Bad("evaluate --data {town}", 2, ("--checkpoint", "required")),
    "two configurations": Bad("train town --config {config}", 2, ("only one of", "name and config")),
    "unknown recipe": Bad("train tonw", 2, ("'tonw'", "did you mean 'town'")),
    "recipe without function": Bad("train --recipe mine", 2, ("--recipe 'mine'", "module:function")),
    "recipe of no module": Bad("train --recipe no_such_module:f", 2, ("cannot import no_such_module",)),
    "recipe that is not there": Bad("train --recipe distseg.config.recipes:none", 2, ("has no function none",)),
    "recipe that is no function": Bad("train --recipe mine:NUMBER", 2, ("mine:NUMBER", "int", "function")),
    "recipe of a wrong type": Bad("train --recipe mine:recipe", 2, ("returned dict", "RunConfig")),
    "config not JSON": Bad("train --config {config_not_json}", 2, ("config_not_json", "not JSON")),
    "config with an unknown field": Bad(
        "train --config {config_unknown_field}", 2, ("optim.learning_rate", "no such field")
    ),
    "config of a wrong type": Bad("train --config {config_wrong_type}", 2, ("data.crop_px = 'large'", "list")),
    "config that is not there": Bad("train --config {out}/c.json", 2, ("out/c.json", "no such file")),
    "batch not divisible": Bad(TRAIN + " --data.batch_size 5", 2, ("data.batch_size = 5", "2 workers", "4 or 6")),
    "batch too small for a bin of 1": Bad(
        TRAIN + " --data.batch_size 1 --scaling.num_workers 1", 2, ("data.batch_size", "1", "at least 2")
    ),
    "password in the tracking URI": Bad(
        TRAIN + " --tracking.uri http://me:hunter2@host", 2, ("tracking.uri", "MLFLOW_TRACKING_PASSWORD")
    ),
    # data
    "no data": Bad(TRAIN + " --data.uri ''", 2, ("data.uri", "distseg.pack")),
    "unknown scheme": Bad(TRAIN + " --data.uri gs://bucket/data", 1, ("gs://bucket/data", "s3://")),
    "no manifest": Bad(TRAIN + " --data.uri {empty}", 1, ("no manifest.json", "/empty", "distseg.pack")),
    "manifest cut short": Bad(TRAIN + " --data.uri {cut_manifest}", 1, ("cut_manifest/manifest.json", "not JSON")),
    "manifest edited": Bad(TRAIN + " --data.uri {edited_manifest}", 1, ("edited_manifest/manifest.json", "digest")),
    "unknown split": Bad(TRAIN + " --data.train_split trian", 1, ("'trian'", "train, val")),
    "unknown condition": Bad(TRAIN + " --data.train_conditions fog", 1, ("'fog'", "day, night")),
    "unknown condition to evaluate": Bad(TRAIN + " --data.val_conditions train/fog", 1, ("'fog'", "'train'")),
    "trained and evaluated on": Bad(
        TRAIN + " --data.val_conditions train/day", 2, ("data.val_conditions", "train/day-town", "both")
    ),
    "mixed data of other classes": Bad(
        TRAIN + " --data.mix {other_split}", 1, ("data.mix: class 2 of", "(other) is tram", "(toy) car", "--relabel")
    ),
    "mixed data of fewer classes": Bad(
        TRAIN + " --data.mix {fewer_classes}", 1, ("data.mix: class 2 of", "is none", "car", "--relabel")
    ),
    "mixed data that is the same": Bad(TRAIN + " --data.mix {moved}", 1, ("/moved is the same data as", "weight")),
    "mixed data without the split": Bad(TRAIN + " --data.mix {val_only}", 1, ("/val_only", "no split 'train'")),
    "mixed data that is not there": Bad(TRAIN + " --data.mix {empty}", 1, ("no manifest.json", "/empty")),
    "mixed data twice": Bad(TRAIN + " --data.mix {town}", 2, ("data.mix", "once")),
    "weights of a mixture": Bad(
        TRAIN + " --data.mix {moved} --data.mix_weights 1", 2, ("data.mix_weights = (1.0,)", "2 weights")
    ),
    "shard missing": Bad(ALONE + " --data.uri {missing_shard}", 1, (FIRST_SHARD, "no such file"), alone=True),
    "shard cut short": Bad(ALONE + " --data.uri {cut_shard}", 1, (FIRST_SHARD, "truncated", "train_"), alone=True),
    "index edited": Bad(ALONE + " --data.uri {edited_index}", 1, (FIRST_SHARD, "index"), alone=True),
    "byte flipped in an image": Bad(
        ALONE + " --data.uri {flipped_bytes}", 1, (FIRST_SHARD, "train_", ".png is not as packed"), alone=True
    ),
    "label outside the label space": Bad(
        ALONE + " --data.uri {fewer_classes}", 1, ("train/", "/train_", "label ids [2]", "0 to 1"), alone=True
    ),
    "unreadable image": Bad(
        ALONE + " --data.uri {cut_images}", 1, ("train/", "/train_", "not a readable image"), alone=True
    ),
    # packing
    "pack: no folder": Bad("pack camvid --root {empty} --out {out}", 1, ("empty/train", "CamVid")),
    "pack: unknown split": Bad("pack camvid --root {camvid} --splits all --out {out}", 1, ("camvid/all", "no such")),
    "pack: annotation missing": Bad(
        "pack camvid --root {camvid_without_annotation} --splits train --out {out}", 1, ("0001TP_006690.png", "missing")
    ),
    "pack: label outside the label space": Bad(
        "pack camvid --root {camvid_wrong_label} --splits train --out {out}", 1, ("0001TP_006690", "[77]", "camvid")
    ),
    "pack: unreadable image": Bad(
        "pack camvid --root {camvid_unreadable} --splits train --out {out}",
        1,
        ("0001TP_006690", "not a readable image"),
    ),
    "pack: sizes differ": Bad(
        "pack camvid --root {camvid_wrong_size} --splits train --out {out}", 1, ("0001TP_006690", "40x31", "40x32")
    ),
    "pack: nothing": Bad("pack town --train 0 --val 0 --out {out}", 2, ("nothing to pack",)),
    "pack: occupied": Bad("pack town --train 1 --val 0 --out {town}", 1, ("already holds", "--overwrite")),
    "pack: unfinished before": Bad(
        "pack town --train 1 --val 0 --out {unfinished_pack}", 1, ("did not finish", "--overwrite")
    ),
    "pack: not writable": Bad(
        "pack town --train 1 --val 0 --out {file}/data", 1, ("file/data", "a file where a directory")
    ),
    "pack: unknown data set": Bad(
        "pack kitti --root {empty} --out {out}",
        2,
        ("'kitti'", "camvid, cityscapes", "voc, webdataset, verify or inspect"),
    ),
    "inspect: no manifest": Bad("pack inspect {empty}", 1, ("no manifest.json", "/empty")),
    # weights and checkpoints
    "weights not there": Bad(TRAIN + " --model.pretrained {out}/w.pt", 1, ("out/w.pt", "no such file")),
    "weights not loadable": Bad(
        TRAIN + " --model.pretrained {weights_garbage}", 1, ("model.pretrained", "weights_garbage", "state dict")
    ),
    "weights without names": Bad(
        TRAIN + " --model.pretrained {weights_list}", 1, ("model.pretrained", "weights_list", "state dict")
    ),
    "weights that lack keys": Bad(
        TRAIN + " --model.pretrained {weights_lacking_keys}", 1, ("model.pretrained", "conv1.weight", "resnet18")
    ),
    "weights of another network": Bad(
        TRAIN + " --model.pretrained {weights_of_resnet34}", 1, ("unexpected", "layer1.2", "resnet18")
    ),
    "checkpoint not there": Bad("evaluate --checkpoint {empty} --data {town}", 1, ("/empty", "checkpoint.json")),
    "checkpoint without weights": Bad(
        "evaluate --checkpoint {run_without_weights} --data {town}", 1, ("run_without_weights", "checkpoint")
    ),
    "sync: not a run": Bad("sync {empty}", 1, ("/empty", "no run.json there", "the run's directory")),
    "sync: password in the URL": Bad(
        "sync {run} --uri http://me:hunter2@host:1", 2, ("--uri carries a user or password", "MLFLOW_TRACKING_PASSWORD")
    ),
    "checkpoint damaged": Bad("evaluate --checkpoint {run_damaged} --data {town}", 1, ("run_damaged", "checkpoint")),
    "checkpoint of other classes": Bad(
        "evaluate --checkpoint {run} --data {other_classes}", 1, ("3 classes (toy)", "3 (other)", "label space")
    ),
    "evaluate: unknown condition": Bad(
        "evaluate --checkpoint {run} --data {town} --conditions fog", 1, ("'fog'", "day, night")
    ),
    "adapting from one image": Bad(
        "evaluate --checkpoint {run} --data {town} --adapt batchnorm --adapt_images 1", 2, ("--adapt_images 1", "2")
    ),
    "adapting to a condition not there": Bad(
        "adapt --checkpoint {run} --data {town} --conditions fog --out {out}/a.pt", 1, ("'fog'", "day, night")
    ),
    "self-training without a teacher": Bad(
        TRAIN + " --adapt.conditions night --adapt.weight 1", 2, ("optim.ema_decay = None", "adapt.weight")
    ),
    "targets without a use": Bad(TRAIN + " --adapt.conditions night", 2, ("adapt.conditions", "adapt.fourier")),
    "evaluate: table not writable": Bad(
        "evaluate --checkpoint {run} --data {town} --json {file}/t.json",
        1,
        ("/file/", "a file stands where a directory"),
    ),
    "evaluate: damaged image": Bad(
        "evaluate --checkpoint {run} --data {flipped_bytes} --split train", 1, (FIRST_SHARD, "not as packed")
    ),
    "evaluate: a window without sliding": Bad(
        "evaluate --checkpoint {run} --data {town} --window 64 64", 2, ("--window (64, 64)", "add --sliding")
    ),
    "evaluate: no scale": Bad(
        "evaluate --checkpoint {run} --data {town} --scales 0", 2, ("scales = (0.0,)", "positive")
    ),
    "predict: no images": Bad(
        "predict --checkpoint {run} --images {empty} --out {out}", 1, ("/empty", "no images below it")
    ),
    "predict: a huge image": Bad(
        "predict --checkpoint {run} --images {bomb} --out {out}",
        1,
        ("bomb.png", "12000x12000", "max_megapixels is 100", "--max_megapixels"),
    ),
    "predict: a damaged JPEG": Bad(
        "predict --checkpoint {run} --images {damaged_jpeg} --out {out}", 1, ("a.jpg", "a damaged JPEG")
    ),
    "predict: into its own images": Bad(
        "predict --checkpoint {run} --images {empty} --out {empty}/out", 2, ("--out", "below --images")
    ),
    "predict: every n-th photograph": Bad(
        "predict --checkpoint {run} --images {empty} --out {out} --every 2",
        2,
        ("--every 2", "for videos", "leave it out"),
    ),
    "predict: no video": Bad(
        "predict --checkpoint {run} --images {empty}/none.mp4 --out {out}", 1, ("none.mp4", "no such file")
    ),
    "train: auto without data": Bad("train auto", 2, ("auto", "--data.uri")),
    "train: a network's name": Bad("train unet", 2, ("'unet'", "--model.name unet", "auto --data.uri")),
    "export: size": Bad(
        "export --checkpoint {run} --format torch-export --out {out}/f --size 50 50",
        2,
        ("--size (50, 50)", "multiples"),
    ),
    "models: unknown": Bad("models.__main__ --only vgg", 2, ("--only vgg", "known are", "fcn-32s vgg16")),
    "study: unknown": Bad("study no-such", 2, ("no-such", "give one of dawn")),
    "a field the network lacks": Bad(
        TRAIN + " --model.recurrence 3", 2, ("model.recurrence = 3", "pspnet has no such option")
    ),
    "style: no encoder": Bad(
        "stylize train --data.uri {town} --data.train_conditions day --style.conditions night --checkpoint.uri {out}",
        2,
        ("model.pretrained = None", "needs a trained encoder"),
    ),
    "style: no style network": Bad(
        TRAIN + " --style.network {run} --style.conditions night", 1, ("of pspnet, not of a style network",)
    ),
    "style: unknown target": Bad(
        "stylize apply --network {run} --data {town} --out {out} --to fog", 1, ("not of a style network",)
    ),
    # runs
    "runs not writable": Bad(
        "train --config {config} --checkpoint.uri {file}/runs", 1, ("file/runs", "a file where a directory")
    ),
    "resume of nothing": Bad("train --resume {empty}", 1, ("/empty", "run.json", "run's directory")),
    "resume of a damaged run": Bad("train --resume {run_with_bad_about}", 1, ("run.json", "damaged", "new run")),
    "resume of a damaged config": Bad(
        "train --resume {run_with_bad_config}", 1, ("config.json", "optim.lr = -1", "new run")
    ),
    "resume with all checkpoints damaged": Bad(
        "train --resume {run_damaged} --optim.max_steps 2", 1, ("run_damaged", "none of its 1 checkpoints", "new run")
    ),
    "resume with another learning rate": Bad(
        "train --resume {run} --optim.lr 0.5", 2, ("optim.lr = 0.5", "has 0.01", "new run")
    ),
    "resume on other data": Bad(
        "train --resume {run} --data.uri {fewer_classes}", 1, ("fewer_classes", "manifest changed")
    ),
    "no cluster": Bad(TRAIN, 1, ("RAY_ADDRESS = 127.0.0.1:1", "no Ray cluster answers", "start one")),
    "GPU without Ray": Bad(ALONE + " --scaling.gpu True", 1, ("scaling.gpu = True", "no GPU"), alone=True),
    "tune: nothing asked": Bad("tune", 2, ("--resume URI", "a space")),
    "tune: no such space": Bad("tune pyramids", 2, ("'pyramids'", "no such space", "known here are adapt, aux_loss")),
    "tune: resume of nothing": Bad("tune --resume {empty}", 1, ("/empty", "search.json", "give the search's")),
    "tune: unknown option": Bad("tune --resume {empty} --trials 3", 2, ("--trials", "keeps its configuration")),
    "job: unreachable": Bad(
        "cluster.submit --address http://127.0.0.1:1 -- true", 1, ("http://127.0.0.1:1", "--address")
    ),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(tmp_path_factory.mktemp("places"))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    """No server and no cluster is to be had, unless a test says so."""
    use_environment({}, monkeypatch)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(places["recipes_of_mine"])


@pytest.mark.parametrize("case", CASES.values(), ids=[name.replace(" ", "-") for name in CASES])
def test_one_line_and_the_exit_code(
    case: Bad, places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if case.alone:
        monkeypatch.setenv("RANK", "0")
    before = snapshot(places.folder)
    assert_fails(case, places, monkeypatch, capsys)
    if not case.alone:  # what fails in the middle of a training leaves its run, to be looked at or resumed
        made = {path.relative_to(places.folder) for path in snapshot(places.folder) - before}
        assert {path.parts[0] for path in made} <= MAKERS.keys(), "something half-written is left"


def snapshot(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def assert_fails(
    case: Bad, places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *arguments = shlex.split(case.command)
    arguments = [argument.format_map(places) for argument in arguments]
    capsys.readouterr()
    code = call(program, arguments, monkeypatch)
    error = capsys.readouterr().err
    assert_one_line(error, case.words)
    assert code == case.code
    assert "hunter2" not in error


def call(program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """As `python -m` would."""
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    if program == "cluster.submit":
        return int(importlib.import_module(program).main(arguments))
    return cli.exit_code_of(importlib.import_module(f"distseg.{program}").main)


def assert_one_line(error: str, words: tuple[str, ...]) -> None:
    assert "Traceback" not in error
    lines = error.strip().splitlines()
    assert lines and lines[-1].startswith("error: "), error
    assert sum(line.startswith("error: ") for line in lines) == 1, error
    missing = [word for word in words if word not in lines[-1]]
    assert not missing, f"{missing} not in {lines[-1]!r}"
    assert len(lines[-1]) <= 500


# ---- S3


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "no credentials; set AWS_ACCESS_KEY_ID"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
            "cannot reach http://127.0.0.1:1 (connection refused); is it running, is AWS_ENDPOINT_URL right?",
        ),
    ],
    ids=["no-credentials", "no-endpoint"],
)
def test_an_s3_server_that_cannot_be_used(
    environment: dict[str, str],
    expected: str,
    places: Places,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_environment(environment, monkeypatch)
    monkeypatch.setattr(retries, "FIRST_CONTACT_S", 0.5)
    case = Bad(TRAIN + " --data.uri s3://bucket/data", 1, ("s3://bucket/data", expected))
    assert_fails(case, places, monkeypatch, capsys)


def test_no_bucket_and_no_data_in_a_bucket(
    moto_s3: str, places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_bucket = Bad(TRAIN + " --data.uri s3://no-such-bucket/d", 1, ("s3://no-such-bucket/d", "no such bucket"))
    assert_fails(no_bucket, places, monkeypatch, capsys)
    no_data = Bad(TRAIN + f" --data.uri {moto_s3}/d", 1, (f"no manifest.json under {moto_s3}/d", "distseg.pack"))
    assert_fails(no_data, places, monkeypatch, capsys)
    no_place = Bad("train --config {config} --checkpoint.uri s3://no-such-bucket/r", 1, ("no such bucket",))
    assert_fails(no_place, places, monkeypatch, capsys)


@pytest.mark.servers
def test_wrong_credentials(
    s3_server: dict[str, str], places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_environment(s3_server, monkeypatch)
    uri = f"{make_bucket()}/d"
    use_environment(s3_server | {"AWS_SECRET_ACCESS_KEY": "hunter2"}, monkeypatch)
    case = Bad(TRAIN + f" --data.uri {uri}", 1, (uri, "wrong credentials", "AWS_SECRET_ACCESS_KEY"))
    assert_fails(case, places, monkeypatch, capsys)
    use_environment(s3_server | {"AWS_ACCESS_KEY_ID": "nobody"}, monkeypatch)
    case = Bad(TRAIN + f" --data.uri {uri}", 1, (uri, "does not know the key id", "AWS_ACCESS_KEY_ID"))
    assert_fails(case, places, monkeypatch, capsys)


# ---- what `verify` finds is a list


@pytest.mark.parametrize("name", ["missing_shard", "cut_shard", "edited_index", "flipped_bytes"])
def test_verify_lists_the_damaged_shard(
    name: str, places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call("pack", ["verify", str(places[name])], monkeypatch)
    *problems, verdict = capsys.readouterr().out.splitlines()
    assert code == 1
    assert problems and all(FIRST_SHARD.removesuffix(".tar") in problem for problem in problems)
    assert re.fullmatch(rf".*/{name}: \d+ problems?", verdict)


# ---- real processes


def test_a_real_process_ends_with_the_code(places: Places, tmp_path: Path) -> None:
    ended = programs.run(tmp_path, programs.plain_environment(), "distseg.train", "--optim.lr", "fast")
    assert (ended.code, ended.out) == (2, "")
    assert_one_line(ended.err, ("--optim.lr", "fast"))


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "--scaling.num_workers 64 --data.batch_size 64",
            ("scaling.num_workers = 64", "1 machines, 2 CPUs, 0 GPUs", "can hold 2 workers", "lower"),
        ),
        ("--scaling.gpu True", ("scaling.num_workers = 2", "0 GPUs", "1 CPU and 1 GPU")),
        ("--data.uri {flipped_bytes}", (FIRST_SHARD, "train_", ".png is not as packed")),
    ],
    ids=["too-many-workers", "no-GPU", "byte-flipped"],
)
def test_on_a_ray_cluster(
    arguments: str, words: tuple[str, ...], ray_cluster: dict[str, str], places: Places, tmp_path: Path
) -> None:
    base = ["--config", str(places["config"]), "--checkpoint.uri", str(tmp_path / "runs")]
    rest = [argument.format_map(places) for argument in arguments.split()]
    ended = programs.run(tmp_path, ray_cluster, "distseg.train", *base, *rest)
    assert ended.code == 1, ended.err
    assert_one_line(without_ray_logs(ended.err), words)
    if "flipped" not in arguments:
        assert list((tmp_path / "runs").iterdir()) == []


def without_ray_logs(error: str) -> str:
    """Ray shows what its own processes log, marked with their number."""
    return "\n".join(line for line in error.splitlines() if not re.search(r"\(\w+ pid=\d+", line))


def test_a_batch_that_torchruns_ranks_cannot_share(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    case = Bad(ALONE, 2, ("data.batch_size = 4", "3 workers", "3 or 6"), alone=True)
    monkeypatch.setenv("RANK", "0")
    assert_fails(case, places, monkeypatch, capsys)
