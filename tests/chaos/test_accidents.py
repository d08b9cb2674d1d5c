"""Every accident of `python -m tests.chaos.accidents`: the run ends as the undisturbed one did. Prints the table."""

from collections.abc import Iterator

import pytest

from tests.chaos.accidents.bench import Bench, NotTriedError, ready
from tests.chaos.accidents.faults import ACCIDENTS, try_accident, undisturbed
from tests.chaos.accidents.training import Result, Row
from tests.chaos.conftest import NIGHTLY_ON_HOSTS, print_table

pytestmark = NIGHTLY_ON_HOSTS


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with ready(tmp_path_factory.mktemp("jobs")) as bench:
        yield bench


@pytest.fixture(scope="module")
def expected(bench: Bench) -> Result:
    return undisturbed(bench)


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[Row]]:
    rows: list[Row] = []
    yield rows
    titles = ("fault", "s", "redone", "lost", "doubled", "rows lost", "doubled")
    shown = [(row.fault, f"{row.seconds:.1f}", *row[3:]) for row in rows]
    print_table(request, "{:75} {:>6} {:>6} {:>5} {:>7} {:>9} {:>7}", titles, shown)


@pytest.mark.parametrize("name", ACCIDENTS)
def test_the_run_ends_as_the_undisturbed_one(name: str, bench: Bench, expected: Result, table: list[Row]) -> None:
    try:
        row = try_accident(bench, name, expected)
    except NotTriedError as lacking:
        pytest.skip(str(lacking))
    table.append(row)
    assert row.is_sound, row
