"""A real MLflow server behind a proxy that spoils its answers: training is held back by no more than is stated.

Each fault lasts from before the run to after its end, or over its middle, or until it is killed. Prints, without
asserting the time: what came of it, and the seconds that the run took at its opening, for what its steps logged and
saved, and at its end, where the report is drawn too: compare with no fault. Asserted: in the end (by `distseg.sync`, if
the run itself could not) the server has one run, each value once, the artifacts and the status.
"""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from distseg import sync
from distseg.config import RunConfig, to_dict
from distseg.tracking.client import CLOSE_WAIT_S, FINISH_WAIT_S, OPEN_WAIT_S
from tests import programs, scripted
from tests.chaos.conftest import print_table
from tests.chaos.fault_proxy import Answer, Fault, FaultProxy, page, reset, slow, status
from tests.chaos.tracking_server import Server
from tests.conftest import REPOSITORY
from tests.recorded import Recorded, only_run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

NUM_STEPS = 30
BEGINS, ENDS = 11, 25  # steps, of a fault in the middle
SETTLE_S = 2.0  # what a fault in the middle lasts at least


class Row(NamedTuple):
    fault: str
    when: str
    met: int
    outcome: str
    open_s: float
    steps_s: float
    close_s: float
    num_lost: int
    num_doubled: int


def hang(answer: Answer) -> Answer:
    time.sleep(60)
    return answer


class Way(NamedTuple):
    """How a server fails."""

    fault: Fault
    is_asked: bool  # it has done what was asked all the same


FAULTS = {
    "500, but done": Way(status(500, "InternalError"), is_asked=True),
    "503": Way(page(503, "unavailable"), is_asked=False),
    "401": Way(page(401, "You are not authenticated."), is_asked=False),
    "403": Way(page(403, "Permission denied"), is_asked=False),
    "200, a login page": Way(page(200, "Sign in"), is_asked=False),
    "connection reset, but done": Way(reset, is_asked=True),
    "slow answers, 0.5 s": Way(slow(0.5), is_asked=True),
    "hangs, but does it": Way(hang, is_asked=True),
}


REFUSALS = ("401", "403", "200, a login page")  # without a report: to draw it takes longer than to be refused


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[Row]]:
    rows: list[Row] = []
    yield rows
    at_end_s = 2 * CLOSE_WAIT_S + FINISH_WAIT_S  # the second for pictures, which these runs have none of
    titles = ("fault", "when", "met", "outcome", "open s", "steps s", "close s", "lost", "doubled")
    bounds = ("at most", "", "", "", f"{OPEN_WAIT_S:.0f}", "", f"{at_end_s:.0f}", "0", "0")
    shown = [(*row[:4], *(f"{seconds:.2f}" for seconds in row[4:7]), *row[7:]) for row in rows]
    print_table(request, "{:28} {:12} {:>4} {:24} {:>7} {:>7} {:>7} {:>5} {:>7}", titles, [*shown, bounds])


@pytest.fixture
def proxy(running: Server) -> Iterator[FaultProxy]:
    with FaultProxy(running.uri) as proxy:
        yield proxy


@pytest.fixture
def config(proxy: FaultProxy, data_uri: str, tmp_path: Path, request: pytest.FixtureRequest) -> RunConfig:
    experiment = request.node.name
    return scripted.config_of(str(tmp_path / "runs"), proxy.endpoint, data_uri, NUM_STEPS, experiment)


def forever(fault: Fault) -> Iterable[Fault]:
    return itertools.repeat(fault, 10_000)


@pytest.mark.parametrize("name", ["none", *FAULTS])
def test_a_server_that_fails_all_the_time_gets_all_of_it_by_sync(
    name: str, proxy: FaultProxy, running: Server, config: RunConfig, table: list[Row]
) -> None:
    if name in FAULTS:
        proxy.spoil("", forever(FAULTS[name].fault), is_asked=FAULTS[name].is_asked)
    ended = scripted.train(config, is_drawn=name not in REFUSALS)
    met = proxy.num_spoilt
    proxy.spoil("", [])
    outcome = "all sent" if ended.outcome.is_sent else synced(ended)
    recorded = assert_all_there(running, config, is_drawn=name not in REFUSALS)
    note(table, name, "all the time", met, outcome, ended, recorded)


@pytest.mark.parametrize("name", ["503", "connection reset, but done", "slow answers, 0.5 s", "hangs, but does it"])
def test_a_server_that_fails_for_a_while_gets_all_of_it(
    name: str, proxy: FaultProxy, running: Server, config: RunConfig, table: list[Row]
) -> None:
    met: list[int] = []

    def before_step(step: int) -> None:
        if step == BEGINS:
            proxy.spoil("", forever(FAULTS[name].fault), is_asked=FAULTS[name].is_asked)
        if step == ENDS:
            time.sleep(SETTLE_S)
            met.append(proxy.num_spoilt)
            proxy.spoil("", [])

    ended = scripted.train(config, before_step=before_step, is_drawn=False)
    assert met[0] > 0
    outcome = "all sent" if ended.outcome.is_sent else synced(ended)
    recorded = assert_all_there(running, config, is_drawn=False)
    note(table, name, "in between", met[0], outcome, ended, recorded)


@pytest.mark.parametrize("name", ["connection reset, but done", "hangs, but does it"])
def test_a_run_that_is_killed_meanwhile_and_goes_on_has_each_step_once(
    name: str, proxy: FaultProxy, running: Server, config: RunConfig, table: list[Row], tmp_path: Path
) -> None:
    proxy.spoil("", forever(FAULTS[name].fault), is_asked=FAULTS[name].is_asked)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    command = [sys.executable, "-m", "tests.scripted", str(tmp_path / "config.json"), "17"]
    killed = subprocess.run(command, cwd=REPOSITORY, env=programs.plain_environment(), capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    met = proxy.num_spoilt
    proxy.spoil("", [])
    (run_folder,) = Path(config.checkpoint.uri).iterdir()
    ended = scripted.train(config, resume=str(run_folder), is_drawn=False)
    assert ended.outcome.is_sent
    recorded = assert_all_there(running, config, is_drawn=False)
    assert recorded.values("train/resumed_at") == [10]
    note(table, name, "until killed", met, "resumed, all sent", ended, recorded)


def test_a_refusal_names_what_to_set_and_is_told_once(
    proxy: FaultProxy, config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.spoil("", forever(FAULTS["401"].fault), is_asked=False)
    ended = scripted.train(config, is_drawn=False)
    told = [line for line in caplog.text.splitlines() if "refuses (401)" in line]
    assert len(told) == 2, "at the opening, and at the end with the remedy"
    assert all("MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN" in it for it in told)
    assert f"python -m distseg.sync {ended.run_uri}" in told[1]


def synced(ended: scripted.Ended) -> str:
    assert sync.main([ended.run_uri]) == 0
    return "sent by sync"


def assert_all_there(running: Server, config: RunConfig, *, is_drawn: bool) -> Recorded:
    """Asked of the server itself."""
    recorded = only_run(running.uri, config.tracking.experiment)
    assert recorded.run.info.status == "FINISHED"
    assert recorded.run.data.params["optim.max_steps"] == str(NUM_STEPS)
    assert scripted.all_artifacts(recorded) == (scripted.ARTIFACTS if is_drawn else scripted.OF_CONFIG)
    assert recorded.run.data.tags.get("worst_condition") == ("night" if is_drawn else None)
    return recorded


def note(
    table: list[Row], name: str, when: str, met: int, outcome: str, ended: scripted.Ended, recorded: Recorded
) -> None:
    lost, doubled = scripted.lost_and_doubled(recorded, NUM_STEPS)
    held_s = ended.held_s
    table.append(Row(name, when, met, outcome, held_s.opening, held_s.steps, held_s.closing, lost, doubled))
    assert (lost, doubled) == (0, 0)
