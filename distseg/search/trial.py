"""One trial of a search: its driver begins or takes up its training, or one per seed, and tells Ray Tune how it goes.

The driver runs on the head and reserves no CPU, so that trials and their workers cannot wait for each other.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from distseg import orchestration, storage
from distseg.config import RunConfig, from_dict, to_dict, with_overrides
from distseg.data.shards import load_manifest
from distseg.errors import DistsegError
from distseg.evaluation import latency_ms, resolve_precision
from distseg.metric_names import EVALUATION, MIOU
from distseg.models import build_model
from distseg.runs import find_run_in
from distseg.search import population, records
from distseg.search.records import ObjectiveName, SecondName
from distseg.tracking import VARIED_TAG


def drive(params: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Drives one trial: what Ray Tune calls, in an actor on the head. `options` as `ray_tune.run` makes them."""
    trial_id = str(tune.get_context().get_trial_id())
    folder = records.trial_folder(options["search_uri"], trial_id)
    try:
        _train(params, options, trial_id, folder)
    except Exception as error:
        records.end(folder, "failed", str(error) if isinstance(error, DistsegError) else repr(error)[:300])
        raise
    records.end(folder, "finished")


def _train(params: Mapping[str, Any], options: Mapping[str, Any], trial_id: str, folder: str) -> None:
    """The training, or those with different seeds one after the other, begun or taken up again."""
    number = int(tune.get_context().get_trial_name() or 0)
    other = params.get(population.TAKES_OVER)
    params = population.parameters(params)
    named_by = {} if options["is_population"] else params
    config = config_of(from_dict(options["config"]), params, number, folder, named_by)
    if other is not None:
        population.take_over(config, options["search_uri"], trial_id, other["trial_id"], other["step"])
    costs = {options["second"]: _cost(config, options["second"])} if options["second"] else {}
    begun = records.Trial(trial_id=trial_id, number=number, params=dict(params), config=to_dict(config), costs=costs)
    records.begin(options["search_uri"], begun)
    tags = {"stage": "trial", "mlflow.parentRunId": options["parent_run_id"], VARIED_TAG: ",".join(params)}
    seeds = range(config.seed, config.seed + options["seeds"])
    if len(seeds) == 1:
        relay = _Relay(folder, options["objective"], costs, tells_tune=True)
        orchestration.train(config, resume=find_run_in(folder), tags=tags, callbacks=[relay], job=options["job"])
    else:
        metrics = _mean_over_seeds(config, seeds, folder, tags, options)
        records.record(folder, config.optim.max_steps, metrics)
        tune.report(
            {"objective": records.score(metrics, options["objective"]), "step": config.optim.max_steps, **costs}
        )


def _mean_over_seeds(
    config: RunConfig, seeds: Sequence[int], folder: str, tags: Mapping[str, str], options: Mapping[str, Any]
) -> dict[str, float]:
    """The mean of each metric over one training after the other, which differ by their seeds."""
    last: list[dict[str, float]] = []
    for seed in seeds:
        place = storage.join(folder, f"seed-{seed}")
        seeded = replace(config, seed=seed, checkpoint=replace(config.checkpoint, uri=place))
        if not records.has_ended(place):
            relay = _Relay(place, options["objective"], {}, tells_tune=False)
            orchestration.train(seeded, resume=find_run_in(place), tags=tags, callbacks=[relay], job=options["job"])
            records.end(place, "finished")
        last.append(records.read_evaluations(place)[-1].metrics)
    return {name: statistics.fmean(metrics[name] for metrics in last) for name in last[0]}


def config_of(
    base: RunConfig, params: Mapping[str, Any], number: int, folder: str, named_by: Mapping[str, Any]
) -> RunConfig:
    """The base with the trial's values, named by what distinguishes it for good."""
    config = with_overrides(base, params)
    values = "-".join(re.sub(r"[^A-Za-z0-9_-]", "", records.short(v).replace(".", "_")) for v in named_by.values())
    name = f"t{number:02d}-{values}"[:60].rstrip("-")
    return replace(config, name=name, checkpoint=replace(config.checkpoint, uri=folder))


def _cost(config: RunConfig, second: SecondName) -> float:
    num_classes = load_manifest(config.data.uri).label_space.num_classes
    if second == "parameters":
        with torch.device("meta"):
            model = build_model(config.model, num_classes, aux=False)
        return float(sum(parameter.numel() for parameter in model.parameters()))
    device = torch.device("cpu")
    model = build_model(config.model, num_classes, aux=False)
    return latency_ms(model, config.data.crop_px, resolve_precision("auto", device), device)


class _Relay(TuneReportCallback):
    """In the training's controller: every evaluation is recorded, and told to Ray Tune where it may stop the trial."""

    def __init__(self, folder: str, objective: ObjectiveName, costs: Mapping[str, float], tells_tune: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._folder, self._objective, self._costs, self._tells_tune = folder, objective, dict(costs), tells_tune

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        reported = metrics[0]
        if reported[MIOU] == orchestration.NO_SCORE:  # a checkpoint without an evaluation
            return
        step = int(reported["step"])
        values = {name: value for name, value in reported.items() if name.startswith(EVALUATION)}
        records.record(self._folder, step, values)
        if self._tells_tune:
            objective = records.score(values, self._objective)
            super().after_report(run_context, [{"objective": objective, "step": step, **self._costs}], None)
