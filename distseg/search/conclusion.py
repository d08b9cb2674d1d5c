"""The beginning and end of a search in MLflow, and what is written when it ends: `search.md` and `best.json`."""

import json
import logging
from dataclasses import replace

from distseg import storage, tracking
from distseg.config import RunConfig, to_dict, with_overrides
from distseg.errors import TrackingError
from distseg.runs import resolve_tracking, save_search_view
from distseg.search.records import Trial, best_so_far, markdown, ranked, read_trials, trial_folder
from distseg.search.tuner import Search, close_run, importances

log = logging.getLogger(__name__)


def open_parent_run(wanted: Search, base: RunConfig) -> str:
    """The search's own MLflow run; empty if tracking is off or the server does not answer."""
    uri, experiment = resolve_tracking(base)
    if uri == tracking.OFF:
        return ""
    tags = {"stage": "search", "search.uri": wanted.uri, "search.objective": wanted.objective}
    try:
        return tracking.open_run(uri, experiment, wanted.uri.rpartition("/")[2], base, tags)
    except TrackingError as error:
        log.warning("%s; the search goes on, its trials will have no parent run", error)
        return ""


def close_running(wanted: Search) -> None:
    for trial in read_trials(wanted.uri):
        if trial.status == "running":
            close_run(trial_folder(wanted.uri, trial.trial_id), "KILLED")


def conclude(wanted: Search, base: RunConfig, status: str) -> Trial | None:
    """Writes and prints the table and the best configuration, and closes the search's MLflow run."""
    trials = read_trials(wanted.uri)
    best = next(iter(ranked(trials, wanted.objective)), None)
    table = markdown(
        trials,
        wanted.objective,
        second=wanted.second,
        importances=importances(wanted, trials),
        max_steps=wanted.budget.max_steps,
    )
    storage.write_bytes(storage.join(wanted.uri, "search.md"), table.encode())
    print(table)
    texts = {"search.md": table}
    metrics: dict[str, float] = {"search/num_trials": len(trials)}
    if best is not None:
        text = json.dumps(to_dict(best_config(best, base)), indent=1)
        storage.write_bytes(storage.join(wanted.uri, "best.json"), text.encode())
        texts["best.json"] = text
        metrics |= {"search/best_objective": best.score(wanted.objective) or 0.0, "search/best_trial": best.number}
        print(f"best        trial {best.number}, {wanted.objective} {best.score(wanted.objective):.4f}")
        print(f"            python -m distseg.train --config {storage.join(wanted.uri, 'best.json')}")
    uri, _ = resolve_tracking(base)
    if wanted.parent_run_id:
        curve = best_so_far(trials, wanted.objective)
        try:
            tracking.finish_search(uri, wanted.parent_run_id, status, metrics, curve, texts, description=table)
        except TrackingError as error:
            log.warning("%s; the search is not closed there", error)
        if link := save_search_view(uri, base, list(wanted.space)):
            print(f"compare it  {link}")
    return best


def best_config(best: Trial, base: RunConfig) -> RunConfig:
    return replace(with_overrides(base, best.params), name="best")
