"""python -m distseg.study NAME [--seeds 0 1 2] [--max_steps N] [--out DIR] [--scaling.num_workers N …] [--list]

Answers a question of the papers by a table: trains each row with each seed on `town`, on Ray as `distseg.train` does,
evaluates on every condition, and writes `NAME.md` (mean and spread over seeds) beside the results. Stop it whenever
you like: the same command goes on, also in the middle of a training. Data are rendered at the first use.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distseg import cli, storage
from distseg.config import RunConfig, ScalingConfig, StyleConfig, recipes, with_overrides
from distseg.data import datasets
from distseg.data.embedded import ensure_town
from distseg.data.shards import load_manifest
from distseg.errors import ConfigError
from distseg.review import markdown_table, mean_and_spread

PROG = "python -m distseg.study"
SOURCE = "dawn"
CONDITIONS = datasets.find("town").conditions
TARGETS = tuple(condition for condition in CONDITIONS if condition != SOURCE)
IMAGES_OF_STATISTICS = 64
SMALL_CLASSES = ("pole", "sign", "traffic-light", "pedestrian", "bicycle", "lane-marking")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    seeds: tuple[int, ...] = (0,)
    max_steps: int | None = None
    """Of each training; by default the recipe's."""
    frames: tuple[int, int] = (2700, 360)
    """Training and held-out frames of `town`, over nine conditions."""
    out: str = "runs/studies"
    """A directory, or an s3:// prefix that all nodes reach."""
    scaling: ScalingConfig = field(default_factory=lambda: ScalingConfig(num_workers=1, cpus_per_worker=2))
    """Of each training. One worker has nothing to exchange, which for so small a batch takes a good part of a step."""


@dataclass(frozen=True)
class Study:
    question: str
    rows: dict[str, RunConfig]  # without data, seed and places; those of one name are one training, also across studies
    adapted: tuple[str, ...] = ()  # rows that are evaluated with batch norm's statistics of each condition


def _studies() -> dict[str, Study]:
    base = replace(recipes.pspnet_town(), name="pspnet")
    dawn = replace(base, name="pspnet-dawn", data=replace(base.data, train_conditions=(SOURCE,)))

    def attention(name: str, **changed: Any) -> RunConfig:
        config = recipes.fcn_attention_town()
        return replace(config, name=f"fcn-attention{name}", model=replace(config.model, **changed))

    style = StyleConfig(network="(trained first)", conditions=TARGETS)
    with_kl = replace(style, kl_weight=1.0)
    with_se = with_overrides(dawn, {"name": "pspnet-dawn-se", "model.se_ratio": 16})
    return {
        "dawn": Study(
            "PSPNet trained on dawn: where does it lose? (Song et al. 2021, tables 4 and 5)",
            {"trained on dawn": dawn, "trained on all nine": base},
        ),
        "improved": Study(
            "What do SE, style transfer and KL add to PSPNet trained on dawn? (Song et al. 2021)",
            {
                "PSPNet": dawn,
                "+ SE": with_se,
                "+ style": replace(dawn, name="pspnet-dawn-style", style=style),
                "+ style + KL": replace(dawn, name="pspnet-dawn-style-kl", style=with_kl),
                "+ SE + style + KL": replace(with_se, name="pspnet-dawn-se-style-kl", style=with_kl),
            },
        ),
        "adapt": _adaptation(dawn, base, style),
        "fcn_attention": Study(
            "Attention, skips and strides of the FCN with attention (Shen & Sun 2022)",
            {
                "all": attention(""),
                "without attention": attention("-no-se", se_ratio=None),
                "without skips": attention("-no-skips", skips=False),
                "pooling instead of strides": attention("-pooling", downsample="pool"),
            },
        ),
    }


def _adaptation(dawn: RunConfig, all_labels: RunConfig, style: StyleConfig) -> Study:
    adapted = recipes.adapt_town()  # all parts; its fields say how much of each
    eights = replace(adapted, name="adapt-town-8", data=dawn.data)
    sixteens = replace(dawn, name="pspnet-dawn-16", data=adapted.data)
    only = replace(dawn, name="pspnet-dawn-fourier", adapt=replace(adapted.adapt, start_step=0))
    teaching = replace(adapted.adapt, fourier=None, weight=0.5)
    with_self = replace(dawn, name="pspnet-dawn-self", adapt=teaching, optim=replace(dawn.optim, ema_decay=0.97))
    return Study(
        "PSPNet with labels of dawn alone: what do unlabelled images of the other conditions add?",
        {
            "source only": dawn,
            "batch norm": dawn,
            "photometric": replace(dawn, name="pspnet-dawn-photometric", augment=adapted.augment),
            "Fourier": only,
            "style": replace(dawn, name="pspnet-dawn-style", style=style),
            "self-training": with_self,
            "style + self-training": replace(with_self, name="pspnet-dawn-style-self", style=style),
            "photometric + Fourier": eights,
            "photometric + Fourier + batch norm": eights,
            "batches of 16": sixteens,
            "batches of 16 + photometric + Fourier + batch norm": adapted,
            "all labels": all_labels,
        },
        adapted=(
            "batch norm",
            "photometric + Fourier + batch norm",
            "batches of 16 + photometric + Fourier + batch norm",
        ),
    )


def main(arguments: Sequence[str]) -> int:
    studies = _studies()
    rest = list(arguments)
    if "--list" in rest:
        print("\n".join(f"{name:<14} {study.question}" for name, study in studies.items()))
        return 0
    name = rest.pop(0) if rest and not rest[0].startswith("-") else ""
    options = cli.parse(Arguments, rest, prog=f"{PROG} NAME", description=__doc__ or "")
    if name not in studies:
        raise ConfigError(f"{name or 'no name'}: give one of {', '.join(studies)}")
    if options.max_steps is not None and options.max_steps < 1:
        raise ConfigError(f"--max_steps {options.max_steps}: must be at least 1")
    if not options.seeds or min(options.seeds) < 0:
        raise ConfigError(f"--seeds {options.seeds}: give at least one, none negative")
    if len({*options.seeds}) < len(options.seeds):
        raise ConfigError(f"--seeds {options.seeds}: give each once; the same training twice is no second one")
    study = studies[name]
    data_uri = ensure_data(options)
    table = markdown(study, run(study, data_uri, options))
    storage.write_bytes(storage.join(options.out, f"{name}.md"), table.encode())
    print(table)
    return 0


def ensure_data(options: Arguments) -> str:
    num_train, num_val = options.frames
    if num_train < 1 or num_val < 1:
        raise ConfigError(f"--frames {options.frames}: both must be positive")
    uri = storage.join(options.out, f"town-{num_train}-{num_val}")
    ensure_town(uri, num_train, num_val)
    return uri


Results = dict[str, list[dict[str, Any]]]  # row -> for each seed its table of conditions


def run(study: Study, data_uri: str, options: Arguments) -> Results:
    """Trains what has not been trained yet. Raises what training raises, and ConfigError for other results there."""

    def placed(config: RunConfig, seed: int) -> RunConfig:
        config = replace(config, seed=seed, data=replace(config.data, uri=data_uri), scaling=options.scaling)
        if options.max_steps is not None:
            warmup_steps = min(config.optim.warmup_steps, options.max_steps - 1)
            optim = replace(config.optim, max_steps=options.max_steps, warmup_steps=warmup_steps)
            config = replace(config, optim=optim)
        folder = storage.join(options.out, f"{config.name}-s{seed}")
        return replace(
            config,
            checkpoint=replace(config.checkpoint, uri=folder, every_steps=40),
            tracking=replace(config.tracking, experiment="studies"),
        )

    results: Results = {row: [] for row in study.rows}
    plain = next(iter(study.rows.values()))
    for seed in options.seeds:
        for row, config in study.rows.items():
            if config.style.network is not None:
                encoder = cli.train_once(placed(plain, seed))["checkpoint_uri"]
                network = cli.train_once(placed(_style_network(encoder), seed))["checkpoint_uri"]
                config = replace(config, style=replace(config.style, network=network))
            trained = cli.train_once(placed(config, seed))
            is_adapted = row in study.adapted
            results[row].append(_adapted(trained["checkpoint_uri"], data_uri) if is_adapted else trained["tables"])
    return results


def _adapted(checkpoint_uri: str, data_uri: str) -> dict[str, Any]:
    """The table of `distseg.evaluate --adapt batchnorm --adapt_conditions …`, with all but dawn."""
    from distseg import evaluation  # here, since they import torch
    from distseg.deployment import load_model
    from distseg.training import adaptation, checkpoint

    world, (_, saved), manifest = evaluation.World(), checkpoint.resolve(checkpoint_uri), load_manifest(data_uri)
    precision = evaluation.resolve_precision(saved.config.precision, world.device)
    counted = adaptation.evaluate_by_condition(
        load_model(saved, world.device, precision),
        manifest,
        manifest.select(saved.config.data.val_split),
        world,
        IMAGES_OF_STATISTICS,
        adapted=TARGETS,
        precision=precision,
    )
    return evaluation.as_table(counted, manifest.label_space)


def _style_network(encoder: str) -> RunConfig:
    """Its encoder is the backbone of the seed's plain network, as ImageNet's weights are not everywhere to be had."""
    config = recipes.adain_town()
    return replace(config, name="style", model=replace(config.model, pretrained=encoder))


# ---- the table


def markdown(study: Study, results: Results) -> str:
    """mIoU in percent, mean ± standard deviation over seeds: per condition, of all images, of the small classes."""
    tables_of_all = [table for tables in results.values() for table in tables]
    conditions = [c for c in CONDITIONS if all(c in table["conditions"] for table in tables_of_all)]
    columns = [*conditions, "all images", "worst", "small classes"]
    num_seeds = max(len(tables) for tables in results.values())
    rows = [
        [row, *(mean_and_spread([100 * _score(table, column) for table in tables], 1) for column in columns)]
        for row, tables in results.items()
    ]
    title = f"{study.question} mIoU in %, {num_seeds} seed{'s' if num_seeds > 1 else ''}."
    notes = (
        "Worst: the lowest mIoU of a condition, over the classes that occur in all. Whether rows differ is not tested."
    )
    return f"{title}\n\n{markdown_table(['', *columns], rows, escape=False)}\n\n{notes}\n"


def _score(table: dict[str, Any], column: str) -> float:
    if column in table["conditions"]:
        return float(table["conditions"][column]["mIoU"])
    if column == "small classes":
        return statistics.fmean(table["classes"][name] or 0.0 for name in SMALL_CLASSES)
    return float(table["mIoU" if column == "all images" else "mIoU_worst"])


if __name__ == "__main__":
    cli.run(main)
