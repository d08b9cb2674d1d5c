"""The beginning and end of a search in MLflow, and what is written when it ends: `search.md` and `best.json`."""

import json
import logging
from dataclasses import replace

from distseg import storage, tracking
from distseg.config import RunConfig, to_dict, with_overrides
from distseg.errors import TrackingError
from distseg.runs import resolve_tracking, save_search_view
from distseg.search.records import TrialRecord, read_trials
from distseg.search.results import best_so_far, markdown, ranked
from distseg.search.search_config import SearchConfig
from distseg.search.tuner import importances
from distseg.terminal import visible

log = logging.getLogger(__name__)


def open_parent_run(search: SearchConfig, base: RunConfig) -> str:
    """The search's own MLflow run; empty if tracking is off or the server does not answer."""
    uri, experiment = resolve_tracking(base)
    if uri == tracking.OFF:
        return ""
    tags = {"stage": "search", "search.uri": search.uri, "search.objective": search.objective}
    try:
        return tracking.open_run(uri, experiment, search.uri.rpartition("/")[2], base, tags)
    except TrackingError as error:
        log.warning("%s; the search goes on, its trials will have no parent run", error)
        return ""


def conclude(search: SearchConfig, base: RunConfig, status: str) -> TrialRecord | None:
    """Writes and prints the table and the best configuration, and closes the search's MLflow run."""
    trials = read_trials(search.uri)
    best = next(iter(ranked(trials, search.objective)), None)
    table = markdown(
        trials,
        search.objective,
        second=search.second,
        importances=importances(search, trials),
        max_steps=search.budget.max_steps,
    )
    storage.write_bytes(storage.join(search.uri, "search.md"), table.encode())
    print("\n".join(map(visible, table.split("\n"))))
    texts = {"search.md": table}
    metrics: dict[str, float] = {"search/num_trials": len(trials)}
    if best is not None:
        text = json.dumps(to_dict(best_config(best, base)), indent=1)
        storage.write_bytes(storage.join(search.uri, "best.json"), text.encode())
        texts["best.json"] = text
        metrics |= {"search/best_objective": best.score(search.objective) or 0.0, "search/best_trial": best.number}
        print(f"best        trial {best.number}, {search.objective} {best.score(search.objective):.4f}")
        print(f"            python -m distseg.train --config {storage.join(search.uri, 'best.json')}")
    uri, _ = resolve_tracking(base)
    if search.parent_run_id:
        curve = best_so_far(trials, search.objective)
        try:
            tracking.finish_search(uri, search.parent_run_id, status, metrics, curve, texts, description=table)
        except TrackingError as error:
            log.warning("%s; the search is not closed there", error)
        if link := save_search_view(uri, base, list(search.space)):
            print(f"compare it  {link}")
    return best


def best_config(best: TrialRecord, base: RunConfig) -> RunConfig:
    """The configuration to train the best trial's values with, in full."""
    return replace(with_overrides(base, best.params), name="best")
