"""What an accident is: a function that is called in the middle of a training. It lets the accident happen, mends what a
person would have to mend, asserts what the user was told, and returns what happened, for the table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.chaos.accidents.bench import SAVED_EVERY
from tests.chaos.accidents.training import Training

HIT = 2 * SAVED_EVERY + SAVED_EVERY // 2  # the step at which most of them happen
LATER = HIT + SAVED_EVERY

Act = Callable[[Training], str]


@dataclass(frozen=True)
class Accident:
    name: str
    fault: str  # for the table
    act: Act  # called when the step is done
    step: int
    changes: Mapping[str, object]  # of the configuration
    variables: Mapping[str, str]  # of the job


class Accidents(dict[str, Accident]):
    """By name."""

    def add(
        self,
        fault: str,
        changes: Mapping[str, object] | None = None,
        variables: Mapping[str, str] | None = None,
        *,
        step: int = HIT,
    ) -> Callable[[Act], Act]:
        """A decorator. In the values, {SHARED} and {TEMPORARY} stand for the bench's two small disks."""

        def register(act: Act) -> Act:
            self[act.__name__] = Accident(act.__name__, fault, act, step, changes or {}, variables or {})
            return act

        return register
