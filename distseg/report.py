"""python -m distseg.report compare RUN RUN … --out FILE.html [--csv FILE.csv]
       python -m distseg.report show RUN --out FILE.html
       python -m distseg.report criteria RUN [--truth METRIC …]

Sets runs side by side, per condition, against the first: by how much they differ, and whether that is more than the
choice of test images explains (a permutation test over the images that both evaluated). `show` writes a run's own page
again. A RUN is a run's directory as `train` printed it, or any other thing that --checkpoint takes; the page is one
file that needs nothing else. `criteria` tells how well the figures that need no labels (target/…) would have chosen
among a run's evaluations, where labels tell.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from distseg import cli, storage
from distseg.errors import ConfigError
from distseg.metric_names import condition_miou
from distseg.review import comparison_page, iou_csv, judge_criteria, markdown_table, run_page
from distseg.runs import briefly_named, read_config, read_evaluations, read_review

PROG = "python -m distseg.report"


@dataclass(frozen=True)
class Compare:
    """Runs side by side, against the first."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    out: str
    """The HTML file: a path or s3:// URI."""
    csv: str | None = None
    """Also write the IoU of each run, condition and class here, for other programs."""


@dataclass(frozen=True)
class Show:
    """The page of one run."""

    run: tyro.conf.Positional[str]
    out: str
    """The HTML file: a path or s3:// URI."""


@dataclass(frozen=True)
class Criteria:
    """How well figures without labels would have chosen among a run's evaluations."""

    run: tyro.conf.Positional[str]
    truth: tuple[str, ...] = ()
    """Metrics of labelled images whose mean tells; none: val/mIoU/CONDITION of each target condition."""
    json: str | None = None
    """Also write the table here."""


_Command = (
    Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Criteria, tyro.conf.subcommand("criteria")]
)


def main(arguments: Sequence[str]) -> int:
    command = cli.parse(_Command, arguments, prog=PROG, description=__doc__ or "")
    if isinstance(command, Criteria):
        return criteria(command)
    files = {command.out: ""}
    if isinstance(command, Compare) and command.csv is not None:
        if storage.is_same_place(command.csv, command.out):
            raise ConfigError(f"--csv {command.csv}: is --out, too; name another file")
        files[command.csv] = ""
    for name in files:
        cli.check_output("--out" if name == command.out else "--csv", name)
    if isinstance(command, Show):
        files[command.out] = run_page(read_review(command.run))
    elif len(command.runs) < 2:
        raise ConfigError(f"compare {' '.join(command.runs)}: give at least two runs; for one there is show")
    else:
        runs = briefly_named([read_review(uri) for uri in command.runs])
        if command.csv is not None:
            files[command.csv] = iou_csv(runs)
        files[command.out] = comparison_page(runs)
    for name, content in files.items():
        storage.write_bytes(name, content.encode())
        cli.say(f"written     {name}")
    return 0


def criteria(command: Criteria) -> int:
    if command.json is not None:
        cli.check_output("--json", command.json)
    config, evaluations = read_config(command.run), read_evaluations(command.run)
    targets = [name.rpartition("/")[2] for name in config.evaluate.targets or config.adapt.conditions]
    truth = command.truth or tuple(condition_miou(name) for name in targets)
    source = [condition_miou(name) for name in config.data.train_conditions]
    found = judge_criteria(evaluations, truth, [name for name in source if name in evaluations])
    rows = [
        (
            *(each.name, str(each.num_evaluations), str(each.step)),
            *(f"{each.truth:.4f}", f"{each.regret:.4f}", _shown(each.correlation)),
        )
        for each in found
    ]
    header = ("chosen by", "of evaluations", "step", "truth there", "regret", "rank correlation")
    most = max(each.num_evaluations for each in found)
    cli.say(f"{most} evaluation{'' if most == 1 else 's'}; the truth is the mean of {', '.join(truth)}")
    for line in markdown_table(header, rows, escape=False).splitlines():
        cli.say(line)
    if command.json is not None:
        table = {"run": command.run, "truth": truth, "chosen": [asdict(each) for each in found]}
        storage.write_bytes(command.json, (json.dumps(table, indent=1) + "\n").encode())
    return 0


def _shown(correlation: float | None) -> str:
    return "-" if correlation is None else f"{correlation:+.2f}"


if __name__ == "__main__":
    cli.run(main)
