"""A view of MLflow's page of runs that answers one question: which run is good in which condition.

By default that page shows all metrics in alphabetical order. A view stores the state of the page (columns, filter,
order, charts) as a tag of the experiment, as the page's button "Share" does. MLflow does not document the format, see
mlflow_formats.py. The key of a view holds VERSION and a digest of its content: so a view is written once, and changes
that a person makes to it stay.
"""

import base64
import hashlib
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

from distseg.errors import TrackingError, first_line
from distseg.metric_names import MIOU, MIOU_GAP, MIOU_WORST, TRAIN_LOSS, condition_miou
from distseg.tracking.address import is_local_file, without_password
from distseg.tracking.client import connect, server_errors
from distseg.tracking.mlflow_formats import knows_page_of_runs

VERSION = 3
TAG = "mlflow.sharedViewState."
UI = "http://127.0.0.1:5000"  # the address of `mlflow ui`
USUAL_PARAMS = ("optim.lr", "loss.aux_weight", "model.bins", "model.se_ratio", "model.backbone", "data.batch_size")
MAX_CONDITIONS = 24  # charts: more cannot be compared by eye

JSON = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ComparisonView:
    """What is compared: the trainings on one data set, or the trials of a search."""

    dataset: str
    conditions: tuple[str, ...]
    stage: Literal["train", "trial"] = "train"
    params: tuple[str, ...] = USUAL_PARAMS  # dotted fields, drawn against the scores

    @property
    def name(self) -> str:
        return f"{'Weather review' if self.stage == 'train' else 'Search'}: {self.dataset or 'all'}"

    @property
    def key(self) -> str:
        of = hashlib.sha256(json.dumps([self.dataset, self.conditions, self.params]).encode()).hexdigest()[:8]
        return f"distseg-{self.stage}-v{VERSION}-{of}"


def save_view(uri: str, experiment: str, view: ComparisonView) -> str:
    """Writes the view unless the experiment has it, and returns the link to it; "" with an MLflow that is not known.

    Raises TrackingError if the server does not answer or refuses, or has no such experiment.
    """
    if not knows_page_of_runs():
        return ""
    client = connect(uri)
    try:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise TrackingError(f"no experiment {experiment!r}")
        if TAG + view.key not in found.tags:
            client.set_experiment_tag(found.experiment_id, TAG + view.key, encoded(view))
        return view_link(uri, str(found.experiment_id), view)
    except server_errors() as error:
        raise TrackingError(f"MLflow at {without_password(uri)}: the view is not saved: {first_line(error)}") from None


def view_link(uri: str, experiment_id: str, view: ComparisonView) -> str:
    """The URL of the view. For a SQLite file it works while `mlflow ui` serves that file."""
    server = UI if is_local_file(uri) else without_password(uri).rstrip("/")
    # Without workflowType the page opens in a mode that has no charts.
    query = {"workflowType": "machine_learning", "viewStateShareKey": view.key, "compareRunsMode": "CHART"}
    return f"{server}/#/experiments/{experiment_id}/runs?{urlencode(query)}"


def artifact_link(uri: str, run_id: str, path: str) -> str:
    """From a run's description to the page of one of its artifacts. Raises TrackingError."""
    try:
        experiment_id = connect(uri).get_run(run_id).info.experiment_id
    except server_errors() as error:
        raise TrackingError(f"MLflow at {without_password(uri)}: {first_line(error)}") from None
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{path}?workflowType=machine_learning"


def encoded(view: ComparisonView) -> str:
    """The value of the tag."""
    state = base64.b64encode(zlib.compress(json.dumps(page_state(view)).encode(), 9)).decode()
    now_ms = int(time.time() * 1000)
    return json.dumps({"name": view.name, "createdAt": now_ms, "updatedAt": now_ms, "state": f"deflate;{state}"})


def page_state(view: ComparisonView) -> JSON:
    """The state of MLflow's page of runs."""
    columns = _columns(view)
    return {
        "searchFilter": f"tags.stage = '{view.stage}'",
        "orderByKey": _metric(MIOU),
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {column: 40 + 8 * len(column.partition(".")[2]) for column in columns},
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": _charts(view),
        "compareRunSections": [_section(name, *_SECTIONS[name]) for name in _ORDER[view.stage]],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


# ---- the table


def _columns(view: ComparisonView) -> list[str]:
    scores = [MIOU, MIOU_WORST, MIOU_GAP, *(condition_miou(condition) for condition in view.conditions)]
    params = dict.fromkeys([*view.params, "model.name", "data.train_conditions", *USUAL_PARAMS, "seed"])
    tags = ["worst_condition", "data.digest"]
    return [
        *map(_metric, scores),
        *(f"tags.`{name}`" for name in tags),
        *(f"params.`{name}`" for name in params),
        *(f"attributes.`{name}`" for name in ("Created", "Duration", "Dataset", "Models")),
    ]


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


# ---- the charts

_SECTIONS = {
    "robust": ("Mean and worst condition", 2, 420),
    "conditions": ("mIoU of each condition", 3, 260),
    "curves": ("Curves", 3, 300),
    "search": ("Parameters", 1, 420),
}
_ORDER = {"train": ("robust", "conditions", "curves", "search"), "trial": ("robust", "search", "conditions", "curves")}


def _section(name: str, title: str, columns: int, height_px: int) -> JSON:
    return {
        "uuid": name,
        "name": title,
        "columns": columns,
        "cardHeight": height_px,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }


def _charts(view: ComparisonView) -> list[JSON]:
    conditions = view.conditions[:MAX_CONDITIONS]
    return [
        _chart(
            "SCATTER",
            "robust",
            "Mean against worst condition",
            {"xaxis": _axis("mIoU", MIOU), "yaxis": _axis("worst condition", MIOU_WORST)},
        ),
        _bar("robust", "worst condition", MIOU_WORST),
        *(_bar("conditions", condition, condition_miou(condition)) for condition in conditions),
        *(_line("curves", metric) for metric in (MIOU, MIOU_WORST, TRAIN_LOSS)),
        _parallel("search", "Parameters and scores", view.params, [MIOU, MIOU_WORST]),
    ]


def _chart(kind: str, section: str, title: str, rest: Mapping[str, object]) -> JSON:
    return {
        "uuid": f"{section}-{kind.lower()}-{title}",
        "type": kind,
        "metricSectionId": section,
        "displayName": title,
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": False,
        **rest,
    }


def _axis(title: str, metric: str) -> JSON:
    """The page reads the values of `dataAccessKey`, and shows `key`; it cuts a title of two long ones."""
    return {"key": title, "dataAccessKey": metric, "type": "METRIC"}


def _bar(section: str, title: str, metric: str) -> JSON:
    """Its title is its `metricKey`, whatever its displayName: the metric's own name would be cut to `val/…`."""
    return _chart("BAR", section, title, {"metricKey": title, "dataAccessKey": metric})


def _parallel(section: str, title: str, params: Sequence[str], metrics: Sequence[str]) -> JSON:
    chosen = {"selectedParams": list(params), "selectedMetrics": list(metrics), "showAllRuns": False}
    return _chart("PARALLEL", section, title, {"chartName": title, **chosen})


def _line(section: str, metric: str) -> JSON:
    return _chart(
        "LINE",
        section,
        metric,
        {
            "metricKey": metric,
            "selectedMetricKeys": [metric],
            "yAxisKey": "metric",
            "yAxisExpressions": [],
            "xAxisKey": "step",
            "xAxisScaleType": "linear",
            "selectedXAxisMetricKey": "",
            "scaleType": "linear",
            "range": {},
            "lineSmoothness": 0,
            "ignoreOutliers": False,
            "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True,
        },
    )
