"""Searches over Ray Tune: a space of values -> trials, each a training -> the best configuration.

A space is a module with SPACE, OBJECTIVE and BUDGET (`distseg.search.space` says more). `check` and `run` carry out a
search. Its records are plain files under its URI (`distseg.search.records`): it is resumed and judged by them.

Importing this package loads neither Ray nor torch: a space needs only `Budget`.
"""

from typing import TYPE_CHECKING

from distseg.lazy import on_first_use
from distseg.search.display import SearchDisplay
from distseg.search.records import (
    OBJECTIVES,
    Algorithm,
    Budget,
    ObjectiveName,
    Scheduler,
    SecondName,
    Trial,
    ranked,
    read_trials,
    score,
    short,
    values_text,
)
from distseg.search.space import Space, known_spaces, list_spaces, load_space

if TYPE_CHECKING:
    from distseg.search.conclusion import best_config, close_running, conclude, open_parent_run
    from distseg.search.question import asked_before, keep_question, points_of
    from distseg.search.tuner import PAUSING, Progress, Search, check, run

__all__ = [
    "OBJECTIVES",
    "PAUSING",
    "Algorithm",
    "Budget",
    "ObjectiveName",
    "Progress",
    "Scheduler",
    "Search",
    "SearchDisplay",
    "SecondName",
    "Space",
    "Trial",
    "asked_before",
    "best_config",
    "check",
    "close_running",
    "conclude",
    "keep_question",
    "known_spaces",
    "list_spaces",
    "load_space",
    "open_parent_run",
    "points_of",
    "ranked",
    "read_trials",
    "run",
    "score",
    "short",
    "values_text",
]

__getattr__ = on_first_use(
    __name__,
    {
        "distseg.search.conclusion": ("best_config", "close_running", "conclude", "open_parent_run"),
        "distseg.search.question": ("asked_before", "keep_question", "points_of"),
        "distseg.search.tuner": ("PAUSING", "Progress", "Search", "check", "run"),
    },
)
