"""Trainings that programs start: over Ray, or as one of torchrun's ranks; and what is printed at the end.

torch, Ray and MLflow are imported inside the functions, so that a program that only lists or packs does not load them.
"""

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distseg import storage
from distseg.cli.tables import print_conditions, say
from distseg.cli.training_display import TrainingDisplay
from distseg.config import RunConfig, to_dict
from distseg.errors import ConfigError, DataError

if TYPE_CHECKING:
    from distseg.runs import Outcome


def train(config: RunConfig, resume: str | None) -> "Outcome | None":
    """Trains with its progress shown. The outcome; None on every rank but 0 of torchrun's."""
    if "RANK" in os.environ:  # torchrun set it
        from distseg.runs import train_without_ray

        if os.environ["RANK"] != "0":
            return train_without_ray(config, resume=resume)
        with TrainingDisplay(config.optim.max_steps) as display:
            return train_without_ray(config, resume=resume, show=display)
    from distseg import orchestration

    with TrainingDisplay(config.optim.max_steps) as display:
        return orchestration.train(config, resume=resume, show=display)


@dataclass(frozen=True, kw_only=True)
class _Result:
    """result.json of `train_once`."""

    config: RunConfig
    checkpoint_uri: str
    tables: dict[str, Any]


def train_once(config: RunConfig) -> dict[str, Any]:
    """Trains, unless it was done before: {"config", "checkpoint_uri", "tables"}, also written to `result.json`.

    `checkpoint.uri` is the place of this training alone. A training there that was stopped is resumed. Raises
    ConfigError if the result there is of another configuration.
    """
    folder = config.checkpoint.uri
    uri = storage.join(folder, "result.json")
    if storage.exists(uri):
        done: _Result = storage.read_json(_Result, uri, DataError, f"remove {folder}")
        if done.config != config:
            raise ConfigError(f"{uri}: made with another configuration; give another place, or remove {folder}")
        return {"config": to_dict(done.config), "checkpoint_uri": done.checkpoint_uri, "tables": done.tables}
    from distseg.runs import find_run_in

    begun = find_run_in(folder)
    say(f"== {folder}{' goes on' if begun else ''}")
    outcome = train(config, begun)
    assert outcome is not None
    result = {"config": to_dict(config), "checkpoint_uri": outcome.checkpoint_uri, "tables": outcome.tables}
    storage.write_bytes(uri, json.dumps(result, indent=1).encode())
    return result


def print_outcome(outcome: "Outcome", experiment: str) -> None:
    """The table of conditions, and where everything is."""
    from distseg import tracking

    if outcome.tables:
        print_conditions(outcome.tables, f"{outcome.run_name}: best checkpoint, step {outcome.step}")
    say(f"run         {outcome.run_uri}")
    say(f"checkpoint  {outcome.checkpoint_uri or 'none was saved'}")
    if outcome.run_id:
        say(f"MLflow run  {outcome.run_id}")
        say(f"open it     {tracking.run_link(outcome.tracking_uri, outcome.run_id, experiment)}")
    handed = outcome.logged_network
    if handed.view_link:
        say(f"compare it  {handed.view_link}")
    if handed.model_uri:
        say(f"model       {handed.model_uri}")
    if handed.registered is not None:
        r = handed.registered
        say(f"registered  {r.name} version {r.version}, {'now' if r.is_champion else 'not'} champion: {r.why}")
    if not outcome.is_sent:
        say(f"not sent    MLflow lacks some of this run; send it with python -m distseg.sync {outcome.run_uri}")
