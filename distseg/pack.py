"""Packs a data set into WebDataset shards, and checks or shows what was packed.

    python -m distseg.pack DATASET --root URI --out URI [--splits train val] [--relabel cityscapes|FILE.json]
                           DATASET: camvid synthia cityscapes acdc voc ade20k folder, with options of their own
    python -m distseg.pack town --out URI [--train N --val N --size 128 192 --seed 0]
    python -m distseg.pack verify URI
    python -m distseg.pack inspect URI [--sheet FILE.png]

Exit codes: 0; 1 failed, or `verify` found something; 2 bad arguments; 130 Ctrl-C.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, NamedTuple

import rich.console
import rich.table
import tyro

from distseg import cli, storage
from distseg.data import LabelSpace, Sample, shards
from distseg.data.datasets import acdc, ade20k, camvid, cityscapes, folder, synthia, town, voc
from distseg.data.datasets.relabel import relabelling
from distseg.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class _Writing(cli.Workers):
    out: str
    """Directory or s3:// prefix for the shards."""
    shuffle_seed: int = 0
    """Decides the order of the samples within a condition and site."""
    jpeg_quality: int | None = None
    """Turn PNG photographs into JPEG of this quality (1 to 95); without it they stay as they are."""
    max_samples_per_shard: int = shards.MAX_SAMPLES_PER_SHARD
    max_mib_per_shard: int = shards.MAX_BYTES_PER_SHARD >> 20
    overwrite: bool = False
    """Replace the shards that are there."""
    relabel: str | None = None
    """Turn label maps into other classes: cityscapes, cityscapes-16, cityscapes-13, or a JSON file
    (distseg.data.relabel)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_samples_per_shard", "max_mib_per_shard"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} = {getattr(self, name)}: must be at least 1")
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 95:
            raise ConfigError(f"--jpeg_quality {self.jpeg_quality}: must be in 1 to 95")
        if self.shuffle_seed < 0:
            raise ConfigError(f"--shuffle_seed = {self.shuffle_seed}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class _FromFiles(_Writing):
    """What a sub-class adds are the keyword arguments of its module's `samples`."""

    root: str
    """The data set's directory or s3:// prefix."""
    splits: tuple[str, ...] = ("train", "val")
    """Those to pack."""


@dataclass(frozen=True, kw_only=True)
class PackCamVid(_FromFiles):
    """CamVid in SegNet's layout: <split>/ and <split>annot/."""


@dataclass(frozen=True, kw_only=True)
class PackSynthia(_FromFiles):
    """SYNTHIA-SEQS, any of its sequences below the root, or SYNTHIA-RAND-CITYSCAPES."""

    view: str = "Stereo_Left/Omni_F"
    """Of the cameras of SYNTHIA-SEQS."""
    sites: tuple[str, ...] = ()
    """Those of highway, new-york and european to pack; all by default."""
    conditions: tuple[str, ...] = ()
    """Those of dawn, fall, fog … to pack; all by default."""
    val_share: float = 0.2
    """Share of the frames of each sequence, at its end, that become val."""
    gap_frames: int | None = None
    """Frames before these that are left out; by default 10, fewer where a sequence is too short for that, and none of
    SYNTHIA-RAND-CITYSCAPES."""
    val_sequences: tuple[str, ...] = ()
    """Instead, whole sequences that become val: 05, or 05-FALL."""


@dataclass(frozen=True, kw_only=True)
class PackCityscapes(_FromFiles):
    """Cityscapes: leftImg8bit/ and gtFine/ or gtCoarse/."""

    annotations: cityscapes.Annotations = "fine"
    """Coarse ones are of train, val and train_extra."""


@dataclass(frozen=True, kw_only=True)
class PackACDC(_FromFiles):
    """ACDC: rgb_anon/ and gt/."""


@dataclass(frozen=True, kw_only=True)
class PackVOC(_FromFiles):
    """PASCAL VOC 2012, segmentation. Also split train_aug."""

    sbd: str = ""
    """For train_aug: the Semantic Boundaries Dataset, with cls/*.mat; not needed beside a SegmentationClassAug/."""


@dataclass(frozen=True, kw_only=True)
class PackADE20K(_FromFiles):
    """ADE20K as in the scene parsing challenge, 150 classes."""


@dataclass(frozen=True, kw_only=True)
class PackFolder(_FromFiles):
    """A data set of one's own: images/, labels/, classes.json, perhaps conditions.csv (distseg.data.folder)."""

    splits: tuple[str, ...] = ()
    """Those to pack; by default those that exist: the values of conditions.csv's column split, else images/train, val
    and test, else all, which is everything below images/."""


@dataclass(frozen=True, kw_only=True)
class PackTown(_Writing):
    """The procedural data set: needs nothing but time."""

    train: int = 720
    """Frames of the train split, over nine conditions and two sites; 0 leaves the split out."""
    val: int = 180
    """Frames of the val split; 0 leaves it out."""
    size: tuple[int, int] = (128, 192)
    """Height and width."""
    seed: int = 0
    """Of the towns; each split is another town."""


# --help shows the layout that is expected.
for _kind, _module in {
    PackCamVid: camvid,
    PackSynthia: synthia,
    PackCityscapes: cityscapes,
    PackACDC: acdc,
    PackVOC: voc,
    PackADE20K: ade20k,
    PackFolder: folder,
}.items():
    _kind.__doc__ = _module.__doc__


@dataclass(frozen=True)
class Verify:
    """Re-reads every shard against the manifest; exit code 1 and a list if anything differs."""

    uri: tyro.conf.Positional[str]


@dataclass(frozen=True)
class Inspect:
    """Samples, shards and bytes by split, condition and site; sizes; shares of the classes."""

    uri: tyro.conf.Positional[str]
    sheet: str | None = None
    """Also draw a contact sheet into this PNG file."""
    columns: int = 4
    """Photographs in a row of the sheet."""


class _DataSet(NamedTuple):
    labels: Callable[[str], LabelSpace]  # of a root
    samples: Callable[..., Iterable[Sample]]  # of a root, a split, and what the sub-command adds


_DATA_SETS: dict[type[_FromFiles], _DataSet] = {
    PackCamVid: _DataSet(lambda root: camvid.LABELS, camvid.samples),
    PackSynthia: _DataSet(synthia.labels, synthia.samples),
    PackCityscapes: _DataSet(lambda root: cityscapes.LABELS, cityscapes.samples),
    PackACDC: _DataSet(lambda root: acdc.LABELS, acdc.samples),
    PackVOC: _DataSet(lambda root: voc.LABELS, voc.samples),
    PackADE20K: _DataSet(lambda root: ade20k.LABELS, ade20k.samples),
    PackFolder: _DataSet(folder.labels, folder.samples),
}


def _name(kind: type) -> str:
    return kind.__name__.removeprefix("Pack").lower()


_NAMES = tuple(map(_name, (*_DATA_SETS, PackTown, Verify, Inspect)))
_Command = (
    Annotated[PackCamVid, tyro.conf.subcommand("camvid")]
    | Annotated[PackSynthia, tyro.conf.subcommand("synthia")]
    | Annotated[PackCityscapes, tyro.conf.subcommand("cityscapes")]
    | Annotated[PackACDC, tyro.conf.subcommand("acdc")]
    | Annotated[PackVOC, tyro.conf.subcommand("voc")]
    | Annotated[PackADE20K, tyro.conf.subcommand("ade20k")]
    | Annotated[PackFolder, tyro.conf.subcommand("folder")]
    | Annotated[PackTown, tyro.conf.subcommand("town")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
)


def main(arguments: Sequence[str]) -> int:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in _NAMES:
        known = f"{', '.join(_NAMES[:-1])} or {_NAMES[-1]}"
        raise ConfigError(f"{arguments[0]!r}: no such data set or command; choose {known}")
    command = cli.parse(
        _Command,
        arguments,
        prog="python -m distseg.pack",
        description="Packs a data set into WebDataset shards, and checks or shows what was packed.",
    )
    match command:
        case Verify(uri):
            return _verify(uri)
        case Inspect():
            return _inspect(command)
        case _:
            return _pack(command)


def _town(command: PackTown) -> tuple[LabelSpace, dict[str, Iterable[Sample]]]:
    lengths = {"train": command.train, "val": command.val}
    return town.LABELS, {
        split: town.samples(split, num_frames=num_frames, size=command.size, seed=command.seed)
        for split, num_frames in lengths.items()
        if num_frames
    }


def _from_files(command: _FromFiles) -> tuple[LabelSpace, dict[str, Iterable[Sample]]]:
    """Ray tasks work in other directories, so they get absolute names."""
    data_set = _DATA_SETS[type(command)]
    root = storage.absolute(command.root)
    added = {field.name for field in fields(command)} - {field.name for field in fields(_FromFiles)}
    options = {name: getattr(command, name) for name in added}
    if options.get("sbd"):
        options["sbd"] = storage.absolute(options["sbd"])
    splits = command.splits
    if isinstance(command, PackFolder) and not splits:
        splits = folder.splits(root)
    return data_set.labels(root), {split: data_set.samples(root, split, **options) for split in splits}


def _pack(command: PackTown | _FromFiles) -> int:
    labels, samples = _town(command) if isinstance(command, PackTown) else _from_files(command)
    if not samples:
        raise ConfigError("nothing to pack: name at least one split with samples in it")
    if command.relabel is not None:
        new = relabelling(labels, command.relabel)
        labels, samples = new.labels, {split: new.apply(of_split) for split, of_split in samples.items()}
    with cli.progress("packing", "samples") as progress:
        manifest = shards.pack(
            samples,
            labels,
            storage.absolute(command.out),
            dataset=_name(type(command)),
            seed=command.shuffle_seed,
            run=command.runner(command.out),
            jpeg_quality=command.jpeg_quality,
            max_samples_per_shard=command.max_samples_per_shard,
            max_bytes_per_shard=command.max_mib_per_shard << 20,
            progress=progress,
            overwrite=command.overwrite,
        )
    for split in manifest.splits:
        of_split = manifest.select(split)
        num_samples = sum(shard.num_samples for shard in of_split)
        print(f"{split}: {num_samples} samples in {len(of_split)} shards: {', '.join(manifest.conditions(split))}")
    print(f"{command.out}: digest {manifest.digest}")
    return 0


def _verify(uri: str) -> int:
    with cli.progress("verifying", "shards") as progress:
        problems = shards.verify(uri, progress=progress)
    for problem in problems:
        print(problem)
    plural = "s" if len(problems) > 1 else ""
    print(f"{uri}: {len(problems)} problem{plural}" if problems else f"{uri}: as packed")
    return 1 if problems else 0


def _inspect(command: Inspect) -> int:
    if command.columns < 1:
        raise ConfigError(f"--columns = {command.columns}: must be at least 1")
    summary = shards.inspect(command.uri)
    console = rich.console.Console(soft_wrap=True, highlight=False)
    console.print(f"{summary.uri}: {summary.dataset}, digest {summary.digest}", markup=False)
    for split, (smallest, largest) in summary.image_sizes.items():
        console.print(f"{split}: images of {_range(smallest, largest)} pixels (height x width)", markup=False)
    console.print(_groups_table(summary))
    console.print(_classes_table(summary))
    if command.sheet:
        _save_sheet(command.uri, command.sheet, command.columns)
        console.print(f"contact sheet: {command.sheet}", markup=False)
    return 0


def _save_sheet(uri: str, path: str, columns: int) -> None:
    if not Path(path).parent.is_dir() or not path.lower().endswith(".png"):
        raise ConfigError(f"--sheet {path}: name a .png file in a directory that exists")
    shards.contact_sheet(uri, columns=columns).save(path)


def _groups_table(summary: shards.ShardSummary) -> rich.table.Table:
    table = rich.table.Table("split", "condition", "site")
    for heading in ("samples", "shards", "MiB"):
        table.add_column(heading, justify="right")
    for row in summary.rows:
        counts = (str(row.num_samples), str(row.num_shards), f"{row.num_bytes / 2**20:.1f}")
        table.add_row(row.split, row.condition, row.site, *counts)
    return table


def _classes_table(summary: shards.ShardSummary) -> rich.table.Table:
    table = rich.table.Table("class")
    for split in summary.class_shares:
        table.add_column(f"% of {split}", justify="right")
    for name in next(iter(summary.class_shares.values())):
        table.add_row(name, *(f"{100 * shares[name]:.2f}" for shares in summary.class_shares.values()))
    return table


def _range(smallest: tuple[int, int], largest: tuple[int, int]) -> str:
    text = f"{smallest[0]}x{smallest[1]}"
    return text if smallest == largest else f"{text} to {largest[0]}x{largest[1]}"


if __name__ == "__main__":
    cli.run(main)
