"""What MLflow shows of a run: the one place that lists it.

    when the run begins     provenance.py: its tags and its data; tracking: the parameters PARAMS, config/resolved.json
    while it trains         its metrics, as they are measured, and pictures of its evaluations
    when it has ended       FILES, CLOSING_TAGS, the description and the model

All of it is made from the run's directory, so that `python -m distseg.sync` can send it at any time.

To add a tag: one entry in CLOSING_TAGS. To add an artifact: one entry in FILES; a plot or page that is made from an
evaluation is in FILES already, if distseg.review.run_files makes it.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from distseg import storage, tracking
from distseg.errors import DataError
from distseg.evaluation import overlay_pictures
from distseg.review import CONDITIONS_PLOT, RunReview, run_files, run_markdown
from distseg.runs.provenance import ENVIRONMENT_FILE, environment_tags
from distseg.runs.report import HISTORY_METRICS, build_review
from distseg.runs.run import Run
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run has left in its directory. All that MLflow shows of its end is made of this."""

    run: Run
    best: Checkpoint | None  # by checkpoint.best_by
    records: list[tracking.MetricRecord]  # every metric
    environment: bytes = b""  # environment.json; empty if rank 0 died before it wrote that
    review: RunReview | None = None  # None: without an evaluation

    @property
    def is_evaluated(self) -> bool:
        return self.best is not None and "conditions" in self.best.tables


@dataclass(frozen=True, kw_only=True)
class RunContents:
    """What MLflow gets when a run has ended, beside its description, pictures and model."""

    result: RunResult
    files: dict[str, bytes]  # artifact path -> content
    tags: dict[str, str]


def _environment(result: RunResult) -> dict[str, bytes]:
    return {f"config/{ENVIRONMENT_FILE}": result.environment} if result.environment else {}


def _table_of_conditions(result: RunResult) -> dict[str, bytes]:
    tables = result.best.tables if result.best is not None and result.is_evaluated else None
    return {"tables/conditions.json": json.dumps(tables, indent=1).encode()} if tables else {}


def _report(result: RunResult) -> dict[str, bytes]:
    return run_files(result.review) if result.review is not None else {}


FILES: tuple[Callable[[RunResult], Mapping[str, bytes]], ...] = (_environment, _table_of_conditions, _report)
"""Each gives artifacts, path -> content; none if the run does not have them."""


def _worst_condition(result: RunResult) -> dict[str, str]:
    if result.best is None or not result.is_evaluated:
        return {}
    return {"worst_condition": str(result.best.tables["worst_condition"] or "")}


def _machine(result: RunResult) -> dict[str, str]:
    return environment_tags(result.environment) if result.environment else {}


CLOSING_TAGS: tuple[Callable[[RunResult], Mapping[str, str]], ...] = (_machine, _worst_condition)


def description(result: RunResult, run_id: str, page_link: Callable[[], str]) -> str:
    """Markdown for the top of the run's page, with the plot of its conditions; empty without an evaluation.

    `page_link`: gives the URL of the run's report.
    """
    if result.review is None:
        return ""
    plot = f"get-artifact?path={CONDITIONS_PLOT}&run_uuid={run_id}"
    return run_markdown(result.review, figure_url=plot, links={"The whole report, with images": page_link()})


def pictures(uri: str, best: Checkpoint | None) -> dict[int, dict[str, bytes]]:
    """step -> name, as overlay/night -> JPEG: of the checkpoints that hold them, the best and the newest."""
    found = checkpoint.newest(uri)
    saved = (best, found[1] if found else None)
    return {each.step: overlay_pictures(each.evaluation) for each in saved if each is not None}


# ---- made from a run's directory


def read_contents(run: Run, best: Checkpoint | None) -> RunContents:
    """What MLflow gets of the end of `run`. `best`: its best checkpoint, if it saved one.

    Raises StorageError and CheckpointError if the directory cannot be read. What cannot be made is left out, with a
    warning: a plot that fails must not cost a run its end.
    """
    result = RunResult(run=run, best=best, records=read_records(run), environment=_read_environment(run.uri))
    if best is not None and result.is_evaluated:
        history = tracking.history_of(result.records, HISTORY_METRICS)
        try:
            result = replace(result, review=build_review(run.name, best, dataset=run.dataset, history=history))
        except Exception as error:  # noqa: BLE001 — see above
            log.warning("the report could not be made: %r", error)
    return RunContents(result=result, files=_collect(FILES, result), tags=_collect(CLOSING_TAGS, result))


def _collect(sources: Sequence[Callable[[RunResult], Mapping[str, T]]], result: RunResult) -> dict[str, T]:
    found: dict[str, T] = {}
    for source in sources:
        try:
            found |= source(result)
        except Exception as error:  # noqa: BLE001 — see `read_contents`
            log.warning("the report could not be made: %r", error)
    return found


def read_records(run: Run) -> list[tracking.MetricRecord]:
    """All metrics of the run that can be read from this machine, each (metric, step) once."""
    records = tracking.read_journal(run.uri, run.mlflow_name)
    found = None if tracking.read_journal_end(run.uri) else checkpoint.newest(run.uri)
    return tracking.without_repeats([*records, *(found[1].records if found else [])])


def _read_environment(run_uri: str) -> bytes:
    """environment.json of rank 0. Empty if rank 0 died before it wrote that, or if it is damaged."""
    uri = storage.join(run_uri, ENVIRONMENT_FILE)
    if not storage.exists(uri):
        return b""
    data = storage.read_bytes(uri)
    try:
        environment_tags(data)
    except DataError as error:
        log.warning("%s", error)
        return b""
    return data
