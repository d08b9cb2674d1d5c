"""What is logged becomes gauges with tags; that Prometheus gets them is in tests/integration/test_train_local.py."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from distseg.config import DataConfig, OptimConfig, RunConfig
from distseg.orchestration import metrics
from distseg.orchestration.metrics import Exporter, values_of
from tests.conftest import REPOSITORY

CONFIG = RunConfig(data=DataConfig(batch_size=8), optim=OptimConfig(max_steps=240))
LOGGED = {"train/loss": 0.5, "train/lr": 0.01, "train/images_per_s": 16.0, "train/data_wait_fraction": 0.03}
EVALUATED = {"val/mIoU": 0.6, "val/mIoU_worst": 0.4, "val/mIoU_gap": 0.3, "val/mIoU/night": 0.45, "val/mIoU/dawn": 0.7}
PROGRESS = {"distseg_step": {"": 20.0}, "distseg_max_steps": {"": 240.0}}


def test_training_sets_its_gauges() -> None:
    assert values_of(20, LOGGED | {"train/aux_loss": 0.2}, worst_condition="", config=CONFIG) == PROGRESS | {
        "distseg_loss": {"": 0.5},
        "distseg_learning_rate": {"": 0.01},
        "distseg_images_per_second": {"": 16.0},
        "distseg_data_wait_ratio": {"": 0.03},
        "distseg_step_seconds": {"": 0.5},  # 8 images at 16 a second
    }


def test_an_evaluation_sets_those_of_the_conditions() -> None:
    assert values_of(20, EVALUATED, worst_condition="night", config=CONFIG) == PROGRESS | {
        "distseg_miou": {"": 0.6},
        "distseg_miou_worst": {"night": 0.4},
        "distseg_condition_miou": {"night": 0.45, "dawn": 0.7},
    }


def test_every_gauge_is_described() -> None:
    set_ones = values_of(20, LOGGED | EVALUATED, worst_condition="night", config=CONFIG)
    assert set_ones.keys() == metrics.DESCRIPTIONS.keys()


@dataclass
class Recorder:
    """A gauge that remembers; the real one tells nobody what it has."""

    name: str
    description: str
    tag_keys: tuple[str, ...]
    values: list[tuple[float, dict[str, str]]] = field(default_factory=list)

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert tags.keys() == set(self.tag_keys)
        self.values.append((value, tags))


def test_the_newest_values_are_set_again_and_again_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    gauges: dict[str, Recorder] = {}

    def make(name: str, description: str, tag_keys: tuple[str, ...]) -> Recorder:
        return gauges.setdefault(name, Recorder(name, description, tag_keys))

    monkeypatch.setattr(metrics, "Gauge", make)
    tags = {"run": "a-run", "experiment": "distseg"}
    with contextlib.closing(Exporter(CONFIG, "a-run", repeat_s=0.01)) as exporter:
        exporter.log(20, EVALUATED, "night")
        exporter.log(40, LOGGED | EVALUATED, "dawn")
        loss, worst = gauges["distseg_loss"].values, gauges["distseg_miou_worst"].values
        while len(loss) < 5:
            time.sleep(0.01)
    assert set(map(str, loss)) == {str((0.5, tags))}
    assert (0.4, tags | {"condition": "night"}) in worst
    assert worst[-1] == (0.4, tags | {"condition": "dawn"})
    assert [t["condition"] for _, t in worst].count("dawn") + 1 >= len(loss)
    closed = len(loss)
    exporter.log(60, LOGGED)
    assert len(loss) == closed


def test_a_failure_is_warned_of_once_and_stops_no_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no agent here")

    monkeypatch.setattr(metrics, "Gauge", fail)
    with contextlib.closing(Exporter(CONFIG, "a-run")) as exporter:
        exporter.log(1, LOGGED)
        exporter.log(2, LOGGED)
    assert [record.message for record in caplog.records] == [
        "metrics for Prometheus are no longer exported: RuntimeError('no agent here')"
    ]


# ---- what shows them


def dashboard() -> dict[str, Any]:
    return dict(json.loads((REPOSITORY / "infra/grafana/distseg.json").read_text()))


def queries(value: object) -> Iterator[str]:
    """Every PromQL expression of a dashboard, wherever it stands."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name in ("expr", "query", "definition") and isinstance(item, str) and "ray_" in item:
                yield item
            else:
                yield from queries(item)
    elif isinstance(value, list):
        for item in value:
            yield from queries(item)


def test_the_dashboard_asks_for_what_is_exported_and_for_all_of_it() -> None:
    asked = {name for query in queries(dashboard()) for name in re.findall(r"\bray_\w+", query)}
    assert asked == {f"ray_{name}" for name in metrics.DESCRIPTIONS}


def test_every_panel_has_a_unit_and_filters_by_run() -> None:
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 8
    for panel in panels:
        assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert 'run=~"$run"' in target["expr"], panel["title"]
        assert not overlaps(panel, panels), panel["title"]


def overlaps(panel: dict[str, Any], panels: list[dict[str, Any]]) -> bool:
    return any(other is not panel and cells(other) & cells(panel) for other in panels)


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    place = panel["gridPos"]
    return {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
