"""All accidents, and how one is tried."""

import contextlib

from tests.chaos.accidents import hosts, stores
from tests.chaos.accidents.accident import Accident
from tests.chaos.accidents.bench import Bench
from tests.chaos.accidents.training import Result, Row, Training, compared

ACCIDENTS: dict[str, Accident] = {**hosts.ACCIDENTS, **stores.ACCIDENTS}


def undisturbed(bench: Bench) -> Result:
    """What all are compared with."""
    with contextlib.closing(Training(bench, "undisturbed", {}, {})) as training:
        return training.result()


def try_accident(bench: Bench, name: str, expected: Result) -> Row:
    """Raises AssertionError if it was not survived; then the bench is made whole again."""
    it = ACCIDENTS[name]
    places = {"SHARED": str(bench.shared), "TEMPORARY": str(bench.small_temporary)}
    changes = {n: value.format(**places) if isinstance(value, str) else value for n, value in it.changes.items()}
    variables = {n: value.format(**places) for n, value in it.variables.items()}
    try:
        with contextlib.closing(Training(bench, name, changes, variables)) as training:
            training.wait_for_step(it.step)
            training.strikes()
            happened = it.act(training)
            return compared(it.fault, happened, training.result(), expected)
    except Exception:
        bench.mend()
        raise
