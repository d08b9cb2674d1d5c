"""Packs a data set into WebDataset shards, and checks or shows what was packed.

    python -m distseg.pack DATASET --root URI --out URI [--splits train val] [--relabel cityscapes|FILE.json]
                           DATASET: a file of distseg.data.datasets, with options of its own, or MODULE:DATASET of yours
    python -m distseg.pack town --out URI [--train N --val N --size 128 192 --seed 0]
    python -m distseg.pack verify URI
    python -m distseg.pack inspect URI [--sheet FILE.png]

Exit codes: 0; 1 failed, or `verify` found something; 2 bad arguments; 130 Ctrl-C, 143 SIGTERM.
"""

import functools
import io
import json
import operator
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Annotated, Any

import numpy as np
import rich.console
import rich.table
import tyro

from distseg import cli, storage
from distseg.config import MAX_MEGAPIXELS
from distseg.data import IGNORE_INDEX, NO_SEQUENCE, LabelSpace, Sample, datasets, raw, shards
from distseg.data.relabel import relabelling
from distseg.errors import ConfigError

MAX_COLUMNS = 32


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
    max_megapixels: float = MAX_MEGAPIXELS
    """Larger images and label maps are refused by their header, before they are decoded."""
    labels_drawn_on: raw.DrawnOn | None = None
    """Of photographs that are shown turned (EXIF), where the sizes do not tell: were label maps drawn on what is shown,
    as labelling tools have it, or on the stored pixels?"""
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
        if not self.max_megapixels > 0:
            raise ConfigError(f"--max_megapixels {self.max_megapixels}: must be positive")
        if self.shuffle_seed < 0:
            raise ConfigError(f"--shuffle_seed = {self.shuffle_seed}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class _FromFiles(_Writing):
    root: str
    """The data set's directory or s3:// prefix."""
    splits: tuple[str, ...] = ()  # each data set has its own default and help


@dataclass(frozen=True)
class Verify:
    """Re-reads every shard against the manifest; exit code 1 and a list if anything differs."""

    uri: tyro.conf.Positional[str]


@dataclass(frozen=True)
class Inspect:
    """Samples, shards and bytes by split, condition and site; sizes; shares of the classes."""

    uri: tyro.conf.Positional[str]
    sheet: str | None = None
    """Also draw a contact sheet into this PNG file, a path or URI."""
    columns: int = 4
    """Photographs in a row of the sheet, at most 32."""
    max_megapixels: float = MAX_MEGAPIXELS
    """Larger photographs are refused by their header, before they are decoded."""


def main(arguments: Sequence[str]) -> int:
    name = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    own = (name,) if ":" in name else ()  # a user's `module:name`
    data_sets = {each: datasets.find(each) for each in (*datasets.names(), *own)}
    commands = {each: _command_of(data_set) for each, data_set in data_sets.items()}
    all_commands = {**commands, "verify": Verify, "inspect": Inspect}
    if name and name not in all_commands:
        *first, last = all_commands
        raise ConfigError(f"{name!r}: no such data set or command; choose {', '.join(first)} or {last}")
    command = cli.parse(
        functools.reduce(operator.or_, (Annotated[c, tyro.conf.subcommand(n)] for n, c in all_commands.items())),
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
            return _pack(data_sets[name], command)


def _command_of(data_set: datasets.DataSet) -> type[_Writing]:
    """The arguments of a sub-command: those of each data set, then those that it has of its own."""
    splits = () if callable(data_set.splits) else data_set.splits
    described_splits = Annotated[tuple[str, ...], tyro.conf.arg(help=data_set.splits_help)]
    bases = (data_set.options,) if data_set.options else ()
    out = Annotated[
        str, tyro.conf.arg(help="Directory or s3:// prefix for copies; empty: the tars are used as they are.")
    ]
    return make_dataclass(
        data_set.name,
        [
            *([("splits", described_splits, field(default=splits))] if data_set.has_files else []),
            *([("out", out, field(default=""))] if data_set.tars else []),
        ],
        bases=(*bases, _FromFiles if data_set.has_files else _Writing),
        frozen=True,
        kw_only=True,
        namespace={"__doc__": data_set.layout},  # --help shows it
    )


def _samples(data_set: datasets.DataSet, command: Any) -> tuple[LabelSpace, dict[str, Iterable[Sample]]]:
    """What to pack. Ray tasks work in other directories, so they get absolute names."""
    options = None
    if data_set.options is not None:
        options = data_set.options(**{each.name: getattr(command, each.name) for each in fields(data_set.options)})
    root = storage.absolute(command.root) if data_set.has_files else ""
    splits = (data_set.has_files and command.splits) or data_set.default_splits(root, options)
    return data_set.labels(root), {split: data_set.samples_of(root, split, options) for split in splits}


def _pack(data_set: datasets.DataSet, command: Any) -> int:
    if data_set.tars and (not command.out or storage.is_same_place(command.out, command.root)):
        return _pack_in_place(data_set, replace(command, out=command.root))
    cli.check_named("--out", command.out)
    labels, samples = _samples(data_set, command)
    name = labels.name if data_set.is_named_by_labels else data_set.name
    takes_255_for_void = labels.id_map.get(255, 255) == IGNORE_INDEX and command.relabel is None  # else the map did
    if not samples:
        raise ConfigError("nothing to pack: name at least one split with samples in it")
    if command.relabel is not None:
        new = relabelling(labels, command.relabel, data_set.to_cityscapes)
        labels, samples = new.labels, {split: new.apply(of_split) for split, of_split in samples.items()}
    splits_of: Drives = defaultdict(dict)
    samples = {split: _noting_drives(of_split, splits_of) for split, of_split in samples.items()}
    manifest = _pack_samples(command, labels, samples, name)
    for line in _drives_in_several_splits(splits_of) if data_set.are_frames else ():
        cli.say(line)
    return _report(data_set, command, manifest, takes_255_for_void)


Drives = dict[tuple[str, str], dict[str, None]]  # (site, sequence) -> the splits that have frames of it, in order


def _noting_drives(samples: Iterable[Sample], splits_of: Drives) -> Iterator[Sample]:
    for sample in samples:
        if sample.sequence not in NO_SEQUENCE:
            splits_of[sample.site, sample.sequence][sample.split] = None
        yield sample


def _drives_in_several_splits(splits_of: Drives) -> Iterator[str]:
    """A line for each set of splits that share drives, since frames near each other show nearly the same."""
    shared: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for (_, sequence), splits in splits_of.items():
        if len(splits) > 1:
            shared[tuple(splits)].append(sequence)
    for names, drives in shared.items():
        some = ", ".join(drives[:3]) + (", …" if len(drives) > 3 else "")
        yield (
            f"{' and '.join(names)} have frames of the same drives ({some}): "
            "scores on one flatter training on the other"
        )


def _report(data_set: datasets.DataSet, command: Any, manifest: shards.Manifest, takes_255_for_void: bool) -> int:
    """What was packed, what the user may not have meant, and what to type next."""
    for split in manifest.splits:
        of_split = manifest.select(split)
        num_samples = sum(shard.num_samples for shard in of_split)
        conditions = ", ".join(manifest.conditions(split))
        cli.say(f"{split}: {num_samples} samples in {len(of_split)} shards: {conditions}")
        if unseen := _unseen_classes(manifest, split):
            cli.say(f"{split}: no pixel of {', '.join(unseen)}")
    cli.say(f"{command.out}: digest {manifest.digest}")
    for line in _remarks(manifest, is_own=data_set.is_named_by_labels and takes_255_for_void):
        cli.say(line)
    cli.say(f"next        python -m distseg.train {data_set.recipe} --data.uri {shlex.quote(command.out)}")
    return 0


def _pack_samples(command: Any, labels: LabelSpace, samples: dict[str, Iterable[Sample]], name: str) -> shards.Manifest:
    with cli.progress("packing", "samples") as progress:
        return shards.pack(
            samples,
            labels,
            storage.absolute(command.out),
            dataset=name,
            seed=command.shuffle_seed,
            run=command.runner(command.out),
            jpeg_quality=command.jpeg_quality,
            max_samples_per_shard=command.max_samples_per_shard,
            max_bytes_per_shard=command.max_mib_per_shard << 20,
            max_megapixels=command.max_megapixels,
            labels_drawn_on=command.labels_drawn_on,
            progress=progress,
            overwrite=command.overwrite,
        )


def _pack_in_place(data_set: datasets.DataSet, command: Any) -> int:
    for flag in ("relabel", "jpeg_quality"):
        if getattr(command, flag) is not None:
            raise ConfigError(f"--{flag}: changes the samples, so they must be copied; give --out")
    root = storage.absolute(command.root)
    labels = data_set.labels(root)
    assert data_set.tars is not None
    tars = data_set.tars(root)
    for split in command.splits:
        if split not in tars:
            raise ConfigError(f"--splits {split}: the tars below {root} are of {', '.join(tars)}")
    with cli.progress("indexing", "shards") as progress:
        manifest = shards.pack_in_place(
            root,
            {split: tars[split] for split in command.splits or tars},
            labels,
            dataset=labels.name if data_set.is_named_by_labels else data_set.name,
            label_ending=command.label,
            run=command.runner(command.out),
            max_megapixels=command.max_megapixels,
            progress=progress,
            overwrite=command.overwrite,
        )
    return _report(data_set, command, manifest, labels.id_map.get(255, 255) == IGNORE_INDEX)


def _unseen_classes(manifest: shards.Manifest, split: str) -> list[str]:
    pixels_K = np.sum(list(manifest.class_pixels[split].values()), axis=0)
    return [name for name, pixels in zip(manifest.label_space.classes, pixels_K, strict=True) if not pixels]


def _remarks(manifest: shards.Manifest, *, is_own: bool) -> Iterator[str]:
    """What a user may not have meant. `is_own`: the user wrote which ids are classes, and not that 255 is one."""
    classes = manifest.label_space.classes
    if len(classes) == 1:
        yield f"one class only, {classes[0]}: there is nothing that a network could confuse it with"
    unseen = [name for split in manifest.splits for name in _unseen_classes(manifest, split)]
    num_void = sum(manifest.void_pixels.values())
    if is_own and num_void and (unseen or len(classes) == 1):
        ids = {str(i): name for i, name in enumerate(classes) if name not in unseen[:1]}
        ids["255"] = unseen[0] if unseen else "another"
        num_seen = sum(sum(pixels) for of_split in manifest.class_pixels.values() for pixels in of_split.values())
        yield (
            f"255 was taken for void, which is {100 * num_void / (num_void + num_seen):.3g} % of the pixels; if it is "
            f'a class, say so in classes.json: "ids": {json.dumps(ids, ensure_ascii=False)}'
        )


def _verify(uri: str) -> int:
    with cli.progress("verifying", "shards") as progress:
        problems = shards.verify(uri, progress=progress)
    for problem in problems:
        cli.say(problem)
    plural = "s" if len(problems) > 1 else ""
    cli.say(f"{uri}: {len(problems)} problem{plural}" if problems else f"{uri}: as packed")
    return 1 if problems else 0


def _inspect(command: Inspect) -> int:
    if not 1 <= command.columns <= MAX_COLUMNS:
        raise ConfigError(f"--columns {command.columns}: must be from 1 to {MAX_COLUMNS}")
    if command.sheet is not None:
        if not command.sheet.lower().endswith(".png"):
            raise ConfigError(f"--sheet {command.sheet}: name a .png file")
        cli.check_output("--sheet", command.sheet)
    summary = shards.inspect(command.uri)
    console = rich.console.Console(soft_wrap=True, highlight=False)
    console.print(*cli.cells(f"{summary.uri}: {summary.dataset}, digest {summary.digest}"))
    for split, (smallest, largest) in summary.image_sizes.items():
        console.print(*cli.cells(f"{split}: images of {_range(smallest, largest)} pixels (height x width)"))
    console.print(_groups_table(summary))
    console.print(_classes_table(summary))
    for doubt in summary.doubts():
        console.print(*cli.cells(f"look at the labels: {doubt}"))
    if command.sheet is not None:
        storage.write_bytes(command.sheet, _sheet(command))
        console.print(*cli.cells(f"contact sheet: {command.sheet}"))
    return 0


def _sheet(command: Inspect) -> bytes:
    """A PNG file."""
    sheet = shards.contact_sheet(command.uri, columns=command.columns, max_megapixels=command.max_megapixels)
    file = io.BytesIO()
    sheet.save(file, format="PNG")
    return file.getvalue()


def _groups_table(summary: shards.ShardSummary) -> rich.table.Table:
    table = rich.table.Table("split", "condition", "site")
    for heading in ("samples", "shards", "MiB"):
        table.add_column(heading, justify="right")
    for row in summary.rows:
        counts = (str(row.num_samples), str(row.num_shards), f"{row.num_bytes / 2**20:.1f}")
        table.add_row(*cli.cells(row.split, row.condition, row.site, *counts))
    return table


def _classes_table(summary: shards.ShardSummary) -> rich.table.Table:
    table = rich.table.Table("class")
    for split in summary.class_shares:
        table.add_column(*cli.cells(f"% of {split}"), justify="right")
    for name in next(iter(summary.class_shares.values())):
        table.add_row(*cli.cells(name, *(f"{100 * shares[name]:.2f}" for shares in summary.class_shares.values())))
    return table


def _range(smallest: tuple[int, int], largest: tuple[int, int]) -> str:
    text = f"{smallest[0]}x{smallest[1]}"
    return text if smallest == largest else f"{text} to {largest[0]}x{largest[1]}"


if __name__ == "__main__":
    cli.run(main)
