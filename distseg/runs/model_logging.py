"""What becomes of a finished training's network: an MLflow model, on request a registered one, and a view to compare.

A trial of a search leaves none: its checkpoints are deleted when it loses; train the search's best.json instead.
Nothing here raises for what a server or a model does: the run has ended by then, and its end is not to be lost.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from distseg import evaluation, tracking
from distseg.config import RunConfig, TrackingConfig
from distseg.data.shards import load_manifest
from distseg.errors import DistsegError
from distseg.tracking import ComparisonView, DataInput, ModelToLog, RegisteredVersion
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint

log = logging.getLogger(__name__)

CHAMPION_SCORES = ("val/mIoU", "val/mIoU_mean_conditions", "val/mIoU_worst")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LoggedNetwork:
    """Empty where there is none."""

    model_uri: str = ""  # what mlflow.pyfunc.load_model takes
    registered: RegisteredVersion | None = None
    view_link: str = ""
    is_whole: bool = True  # False: the server did not take the model, or did not register it


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

    A run that has not finished is to be resumed, and logs its model then.
    """
    view = ComparisonView(dataset=dataset, conditions=tuple(sorted(saved.tables["conditions"])))
    view_link = _or_warn(lambda: tracking.save_view(uri, config.experiment, view)) or ""
    if not (has_finished and config.log_model):
        return LoggedNetwork(view_link=view_link)
    model = _or_warn(lambda: tracked_model(saved, inputs, card))
    model_id = _or_warn(lambda: tracking.log_model(uri, run_id, model)) if model else None
    if model is None or not model_id:
        return LoggedNetwork(view_link=view_link, is_whole=model is None)
    registered, name = None, config.register
    if name is not None:
        registered = _or_warn(
            lambda: tracking.register_model(uri, run_id, model_id, model, name=name, objective=config.objective)
        )
    is_whole = name is None or registered is not None
    return LoggedNetwork(model_uri=f"models:/{model_id}", registered=registered, view_link=view_link, is_whole=is_whole)


def tracked_model(saved: Checkpoint, inputs: Sequence[DataInput], card: str) -> ModelToLog:
    """Raises CheckpointError for a network that one file cannot hold."""
    worst: Mapping[str, str | None] = {"worst_condition": saved.tables.get("worst_condition")}
    tags = {"data.digest": saved.manifest_digest, "git.commit": saved.code_version, **worst}
    return ModelToLog(
        name=saved.config.name,
        file=checkpoint.as_one_file(saved),
        step=saved.step,
        scores={name: saved.metrics[name] for name in CHAMPION_SCORES if name in saved.metrics},
        evaluated_on=next(used for used in inputs if used.context == "eval"),
        tags={name: value for name, value in tags.items() if value},
        card=card,
    )


def save_search_view(uri: str, config: RunConfig, params: Sequence[str]) -> str:
    """Where a search's trials are compared, by the fields it varies; empty if that could not be saved."""

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
    except Exception as error:  # noqa: BLE001 — whatever MLflow or torch raise, the run itself has ended well
        log.warning("the model or view is not in MLflow: %r", error)
    return None
