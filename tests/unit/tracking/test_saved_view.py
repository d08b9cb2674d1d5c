"""A view is written once and holds what decides. How it looks is for a browser to say."""

import base64
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import mlflow
import pytest

from distseg import tracking
from distseg.config import RunConfig
from distseg.data.datasets import town
from distseg.errors import TrackingError
from distseg.tracking import ComparisonView
from distseg.tracking.saved_view import MAX_CONDITIONS, TAG, encoded, page_state

TOWN = ComparisonView(dataset="town", conditions=town.CONDITIONS)


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('store'))}"
    tracking.open_run(uri, "exp", "run", RunConfig(), {})
    return uri


def tag_of(store: str, view: ComparisonView) -> Any:
    experiment = mlflow.MlflowClient(tracking_uri=store).get_experiment_by_name("exp")
    assert experiment is not None
    return json.loads(experiment.tags[TAG + view.key])


def decoded(value: dict[str, Any]) -> Any:
    kind, _, data = value["state"].partition(";")
    assert kind == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(data)))


def test_the_view_is_the_experiments_and_the_link_names_it(store: str) -> None:
    link = tracking.save_view(store, "exp", TOWN)
    assert link == (
        "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"
        f"&viewStateShareKey={TOWN.key}&compareRunsMode=CHART"
    )
    tag = tag_of(store, TOWN)
    assert tag["name"] == "Weather review: town"
    assert decoded(tag) == page_state(TOWN)


def test_a_new_experiment_is_one_of_trainings(store: str) -> None:
    experiment = mlflow.MlflowClient(tracking_uri=store).get_experiment_by_name("exp")
    assert experiment is not None and experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_what_a_person_made_of_it_stays(store: str) -> None:
    view = ComparisonView(dataset="mine", conditions=("day",))
    tracking.save_view(store, "exp", view)
    client = mlflow.MlflowClient(tracking_uri=store)
    client.set_experiment_tag("1", TAG + view.key, '{"name": "changed"}')
    tracking.save_view(store, "exp", view)
    assert tag_of(store, view) == {"name": "changed"}


def test_every_condition_has_a_column_and_a_chart_and_every_chart_a_section() -> None:
    state = page_state(TOWN)
    assert state["searchFilter"] == "tags.stage = 'train'" and state["orderByKey"] == "metrics.`val/mIoU`"
    charts = state["compareRunCharts"]
    for condition in town.CONDITIONS:
        assert f"metrics.`val/mIoU/{condition}`" in state["selectedColumns"]
        shown = [c for c in charts if c.get("dataAccessKey") == f"val/mIoU/{condition}"]
        assert [(c["type"], c["metricKey"]) for c in shown] == [("BAR", condition)]  # the page's title is the metricKey
    (scatter,) = (chart for chart in charts if chart["type"] == "SCATTER")
    assert [scatter[axis]["dataAccessKey"] for axis in ("xaxis", "yaxis")] == ["val/mIoU", "val/mIoU_worst"]
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in charts} == sections
    assert len({chart["uuid"] for chart in charts}) == len(charts)


def test_a_searchs_view_is_of_its_trials_and_of_its_own_key() -> None:
    trials = ComparisonView(dataset="town", conditions=town.CONDITIONS, stage="trial")
    assert page_state(trials)["searchFilter"] == "tags.stage = 'trial'"
    others = {
        TOWN.key,
        trials.key,
        ComparisonView(dataset="town", conditions=("day",)).key,
        ComparisonView(dataset="x", conditions=()).key,
    }
    assert len(others) == 4


def test_a_searchs_charts_are_of_what_it_varies_which_its_trials_have_as_params(store: str) -> None:
    view = ComparisonView(dataset="town", conditions=("fog",), stage="trial", params=("optim.weight_decay", "optim.lr"))
    (chart,) = (chart for chart in page_state(view)["compareRunCharts"] if chart["type"] == "PARALLEL")
    assert chart["selectedParams"] == ["optim.weight_decay", "optim.lr"]
    tags = {"stage": "trial", tracking.VARIED_TAG: "optim.weight_decay,optim.lr"}
    run_id = tracking.open_run(store, "exp", "trial", RunConfig(), tags)
    params = mlflow.MlflowClient(tracking_uri=store).get_run(run_id).data.params
    assert params.keys() == {*tracking.PARAMS, "optim.weight_decay"}


def test_a_hundred_conditions_are_still_a_tag() -> None:
    view = ComparisonView(dataset="many", conditions=tuple(f"condition-{i}" for i in range(100)))
    assert len(encoded(view)) < 20_000  # MLflow's limit
    charts = page_state(view)["compareRunCharts"]
    assert sum(chart["metricSectionId"] == "conditions" for chart in charts) == MAX_CONDITIONS


def test_no_experiment_no_view(store: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="the view is not saved: no experiment 'absent'"):
        tracking.save_view(store, "absent", TOWN)
