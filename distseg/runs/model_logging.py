"""Logs the network of a finished training as an MLflow model, registers it on request, and saves a view of the runs.

A trial of a search logs no model: its checkpoints are deleted when it loses. Train the search's best.json for one.
An error of the server or of the model costs a warning and nothing else, because the run itself has ended well.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from distseg import evaluation, tracking
from distseg.config import RunConfig, TrackingConfig
from distseg.data.shards import load_manifest
from distseg.errors import DistsegError
from distseg.metric_names import MIOU, MIOU_MEAN_CONDITIONS, MIOU_WORST
from distseg.tracking import ComparisonView, DataInput, ModelToLog, RegisteredVersion
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint

log = logging.getLogger(__name__)

MODEL_SCORES = (MIOU, MIOU_MEAN_CONDITIONS, MIOU_WORST)  # kept with a model; a champion is chosen by one of them
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LoggedNetwork:
    """What `log_network` did. A field is empty if there is no such thing."""

    model_uri: str = ""  # what mlflow.pyfunc.load_model takes
    registered: RegisteredVersion | None = None
    view_link: str = ""
    is_complete: bool = True  # False: the server did not take the model, or did not register it


def log_network(
    uri: str,
    run_id: str,
    config: TrackingConfig,
    saved: Checkpoint,
    *,
    dataset: str,
    inputs: Sequence[DataInput],
    card: str = "",
    has_finished: bool = True,
) -> LoggedNetwork:
    """Logs and registers the network of `saved`, an evaluated checkpoint, as `config` asks, and saves the view.

    `card`: the model card, Markdown. A run that has not finished logs no model: it does so when it is resumed.
    """
    view = ComparisonView(dataset=dataset, conditions=tuple(sorted(saved.tables["conditions"])))
    view_link = _or_warn(lambda: tracking.save_view(uri, config.experiment, view)) or ""
    if not (has_finished and config.log_model):
        return LoggedNetwork(view_link=view_link)
    model = _or_warn(lambda: model_to_log(saved, inputs, card))
    model_id = _or_warn(lambda: tracking.log_model(uri, run_id, model)) if model else None
    if model is None or not model_id:
        return LoggedNetwork(view_link=view_link, is_complete=model is None)
    registered, name = None, config.register
    if name is not None:
        registered = _or_warn(
            lambda: tracking.register_model(uri, run_id, model_id, model, name=name, objective=config.objective)
        )
    is_complete = name is None or registered is not None
    return LoggedNetwork(
        model_uri=f"models:/{model_id}", registered=registered, view_link=view_link, is_complete=is_complete
    )


def model_to_log(saved: Checkpoint, inputs: Sequence[DataInput], card: str) -> ModelToLog:
    """Raises CheckpointError for a network that does not fit into one file, because it needs a second network."""
    worst: Mapping[str, str | None] = {"worst_condition": saved.tables.get("worst_condition")}
    tags = {"data.digest": saved.manifest_digest, "git.commit": saved.code_version, **worst}
    return ModelToLog(
        name=saved.config.name,
        file=checkpoint.as_one_file(saved),
        step=saved.step,
        scores={name: saved.metrics[name] for name in MODEL_SCORES if name in saved.metrics},
        evaluated_on=next(used for used in inputs if used.context == "eval"),
        tags={name: value for name, value in tags.items() if value},
        card=card,
    )


def save_search_view(uri: str, config: RunConfig, params: Sequence[str]) -> str:
    """Saves the view that compares the trials of a search by `params`, the fields that it varies. Returns its link.

    The link is empty if the view could not be saved; a warning says why.
    """

    def save() -> str:
        data, manifest = config.data, load_manifest(config.data.uri)
        shards = evaluation.evaluation_shards(manifest, data.val_split, data.val_conditions)
        conditions = tuple(sorted({shard.condition for shard in shards}))
        view = ComparisonView(dataset=manifest.dataset, conditions=conditions, stage="trial", params=tuple(params))
        return tracking.save_view(uri, config.tracking.experiment, view)

    return _or_warn(save) or ""


def _or_warn(do: Callable[[], T]) -> T | None:
    try:
        return do()
    except DistsegError as error:
        log.warning("%s", error)
    except Exception as error:  # noqa: BLE001 — MLflow or torch may raise anything, and the run itself has ended well
        log.warning("the model or view is not in MLflow: %r", error)
    return None
