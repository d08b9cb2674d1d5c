"""Searches: a space of configurations -> trials, trained side by side -> the best configuration, with its evidence.

In: a `Space` (a module of `tune_spaces`), a `Budget` and a base `RunConfig`, together a `SearchConfig`.
Out: plain files below the search's URI, listed in records.py; `read_trials` reads them. A score is what the objective
makes of an evaluation's metrics (fractions), to be maximised; a cost is minimised.

    load_space(name), list_spaces()               search spaces
    write_question(…), read_question(uri)         what is asked, kept for --resume
    check(search, base), run(search, base, …)     the search itself, by Ray Tune; `run` also goes on after a crash
    conclude(…)                                   the table and the best configuration, printed, written and in MLflow
    Scheduler, Algorithm                          base classes for a user's own, see schedulers/ and algorithms/
    OBJECTIVES, scheduler_names() …               what the command line offers

Raises ConfigError for what makes no sense, ResourceError if the cluster can never hold a trial, DataError for a damaged
record. A failed trial is recorded and does not stop the others.

Importing this package imports neither Ray nor torch, so a space can import `Budget` from here.
"""

from typing import TYPE_CHECKING

from distseg.lazy import on_first_use
from distseg.search.algorithms import Algorithm
from distseg.search.algorithms import names as algorithm_names
from distseg.search.costs import names as cost_names
from distseg.search.objectives import OBJECTIVES, score
from distseg.search.records import Evaluation, TrialRecord, read_trials
from distseg.search.schedulers import Scheduler
from distseg.search.schedulers import names as scheduler_names
from distseg.search.search_config import Budget, SearchConfig, default_algorithm, default_scheduler
from distseg.search.spaces import Space, list_spaces, load_space, space_names

if TYPE_CHECKING:
    from distseg.search.conclusion import best_config, conclude, open_parent_run
    from distseg.search.progress import SearchDisplay, TrialProgress, close_all
    from distseg.search.question import points_of, read_question, write_question
    from distseg.search.results import format_value, format_values, ranked, seeds_to_compare, seeds_verdict
    from distseg.search.tuner import check, run

__all__ = [
    "OBJECTIVES",
    "Algorithm",
    "Budget",
    "Evaluation",
    "Scheduler",
    "SearchConfig",
    "SearchDisplay",
    "Space",
    "TrialProgress",
    "TrialRecord",
    "algorithm_names",
    "best_config",
    "check",
    "close_all",
    "conclude",
    "cost_names",
    "default_algorithm",
    "default_scheduler",
    "format_value",
    "format_values",
    "list_spaces",
    "load_space",
    "open_parent_run",
    "points_of",
    "ranked",
    "read_question",
    "read_trials",
    "run",
    "scheduler_names",
    "score",
    "seeds_to_compare",
    "seeds_verdict",
    "space_names",
    "write_question",
]

__getattr__ = on_first_use(
    __name__,
    {
        "distseg.search.conclusion": (
            "best_config",
            "conclude",
            "open_parent_run",
        ),
        "distseg.search.progress": ("SearchDisplay", "TrialProgress", "close_all"),
        "distseg.search.question": (
            "points_of",
            "read_question",
            "write_question",
        ),
        "distseg.search.results": (
            "format_value",
            "format_values",
            "ranked",
            "seeds_to_compare",
            "seeds_verdict",
        ),
        "distseg.search.tuner": (
            "check",
            "run",
        ),
    },
)
