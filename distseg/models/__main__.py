"""python -m distseg.models [--size 512 1024] [--num_classes 19] [--time] [--json FILE]

The networks side by side: parameters, MiB of fp32 weights and GFLOPs of one image's forward pass in eval mode (two
operations per multiply-add; without the auxiliary head). With --time also its milliseconds, the median of 5 on this
machine's device, which takes minutes for all networks on a CPU.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from distseg import cli, evaluation, storage
from distseg.config import ModelConfig, Precision, network_names, options_class
from distseg.errors import ConfigError
from distseg.models import build_model

PROG = "python -m distseg.models"
TIMED_RUNS = 5


@dataclass(frozen=True, kw_only=True)
class Arguments:
    size: tuple[int, int] = (512, 1024)
    """Height and width of the image."""
    num_classes: int = 19
    only: tuple[str, ...] = ()
    """Networks to show, by the beginning of their name, or your own as module:Class; none: all."""
    timing: Annotated[bool, tyro.conf.arg(aliases=("--time",))] = False
    """Also measure milliseconds."""
    precision: Precision = "auto"
    json: str | None = None
    """Also write the table here."""


@dataclass(frozen=True)
class Row:
    name: str
    parameters: int  # with the auxiliary head, where there is one
    mib: float
    gflops: float
    ms: float | None


def main(arguments: Sequence[str]) -> int:
    options = cli.parse(Arguments, arguments, prog=PROG, description=__doc__ or "")
    if min(options.size) < 32:
        raise ConfigError(f"--size {options.size}: both sides must be at least 32")
    if options.num_classes < 2:
        raise ConfigError(f"--num_classes {options.num_classes}: must be at least 2")
    chosen = choose(options.only)
    if options.json is not None:
        cli.check_output("--json", options.json)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = evaluation.resolve_precision(options.precision, device)
    times_ms = _times_ms(chosen, options, precision, device) if options.timing else {}
    rows = [_row(name, config, options, times_ms.get(name)) for name, config in chosen.items()]
    _print(rows, f"{options.size[0]} x {options.size[1]}, {options.num_classes} classes, {device.type} {precision}")
    if options.json is not None:
        table = {"size": options.size, "num_classes": options.num_classes, "device": device.type} | {
            "precision": precision,
            "networks": [asdict(row) for row in rows],
        }
        storage.write_bytes(options.json, (json.dumps(table, indent=1) + "\n").encode())
    return 0


def _times_ms(
    chosen: Mapping[str, ModelConfig], options: Arguments, precision: str, device: torch.device
) -> dict[str, float]:
    times_ms: dict[str, float] = {}
    with cli.progress("timing", "networks") as progress:
        for name, config in chosen.items():
            model = build_model(config, options.num_classes, aux=False)
            times_ms[name] = evaluation.latency_ms(model, options.size, precision, device, TIMED_RUNS)
            progress(len(times_ms), len(chosen))
    return times_ms


def choose(only: Sequence[str] = ()) -> dict[str, ModelConfig]:
    """The variants of all networks that segment, by name; or those whose name begins with one of `only`.

    A `module:Class` in `only` adds the variants of a user's own network. Raises ConfigError if nothing is left.
    """
    known = {name: config for network in network_names() for name, config in _variants(network).items()}
    chosen = {name: config for name, config in known.items() if not only or name.startswith(tuple(only))}
    for own in (name for name in only if ":" in name):
        chosen |= _variants(own)
    if not chosen:
        raise ConfigError(f"--only {' '.join(only)}: no network begins so; known are {', '.join(known)}")
    return chosen


def _variants(network: str) -> dict[str, ModelConfig]:
    found = options_class(network).variants()
    return {name: config for name, config in found.items() if not config.is_style_network}


def _row(name: str, config: ModelConfig, options: Arguments, ms: float | None) -> Row:
    with torch.device("meta"):
        model = build_model(config, options.num_classes).eval()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        counter = FlopCounterMode(display=False)
        with counter:
            model(torch.empty(1, 3, *options.size))
    return Row(name, parameters, parameters * 4 / 2**20, counter.get_total_flops() / 1e9, ms)


def _print(rows: list[Row], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("network", "parameters", "MiB", "GFLOPs", "ms"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        ms = "-" if row.ms is None else f"{row.ms:.0f}"
        table.add_row(row.name, f"{row.parameters / 1e6:.2f}M", f"{row.mib:.1f}", f"{row.gflops:.1f}", ms)
    Console(width=100).print(table)


if __name__ == "__main__":
    cli.run(main)
