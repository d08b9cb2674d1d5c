"""TODO distseg.search."""

from typing import TYPE_CHECKING

from distseg.lazy import on_first_use
from distseg.search.records import (
    OBJECTIVES,
    Budget,
    ObjectiveName,
    Trial,
    best_so_far,
    markdown,
    mean_and_spread,
    ranked,
    read_json,
    read_trials,
    score,
    short,
    trial_folder,
)

if TYPE_CHECKING:
    from distseg.search.tuner import (
        PAUSING,
        Algorithm,
        Progress,
        Search,
        check,
        choices,
        close_run,
        grid,
        importances,
        run,
    )

__all__ = [
    "OBJECTIVES",
    "PAUSING",
    "Algorithm",
    "Budget",
    "ObjectiveName",
    "Progress",
    "Search",
    "Trial",
    "best_so_far",
    "check",
    "choices",
    "close_run",
    "grid",
    "importances",
    "markdown",
    "mean_and_spread",
    "ranked",
    "read_json",
    "read_trials",
    "run",
    "score",
    "short",
    "trial_folder",
]

__getattr__ = on_first_use(
    __name__,
    {
        "distseg.search.tuner": (
            "PAUSING",
            "Algorithm",
            "Progress",
            "Search",
            "check",
            "choices",
            "close_run",
            "grid",
            "importances",
            "run",
        ),
    },
)
