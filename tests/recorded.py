"""What MLflow holds of a training, read back as a user's browser would."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities import Run

# Logged with every step that is logged at all, by `fit`.
STEP_METRICS = (
    "train/loss",
    "train/aux_loss",
    "train/lr",
    "train/images_per_s",
    "train/data_wait_fraction",
)


@dataclass(frozen=True)
class Recorded:
    uri: str
    run: Run

    def steps(self, name: str) -> list[int]:
        """The steps at which a metric was logged, sorted; one that was logged twice is there twice."""
        return sorted(m.step for m in self._history(name))

    def values(self, name: str) -> list[float]:
        """A metric's values in the order of their steps."""
        return [m.value for m in sorted(self._history(name), key=lambda m: m.step)]

    def times_s(self, name: str) -> list[float]:
        """When a metric was measured, which is not when the server heard of it."""
        return [m.timestamp / 1000 for m in sorted(self._history(name), key=lambda m: m.step)]

    def _history(self, name: str) -> list[Any]:
        return list(self._client.get_metric_history(self.run.info.run_id, name))

    @property
    def _client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(tracking_uri=self.uri)

    def artifacts(self, folder: str) -> set[str]:
        return {artifact.path for artifact in self._client.list_artifacts(self.run.info.run_id, folder)}

    def table(self, path: str) -> dict[str, Any]:
        """A JSON artifact."""
        return dict(mlflow.artifacts.load_dict(f"{self.run.info.artifact_uri}/{path}"))


def only_run(uri: str, experiment: str) -> Recorded:
    """The run of an experiment; fails if there is none or more than one."""
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None, f"no experiment {experiment} at {uri}"
    runs = client.search_runs([found.experiment_id])
    assert len(runs) == 1, f"{len(runs)} runs in experiment {experiment}: {[run.info.run_name for run in runs]}"
    return Recorded(uri, runs[0])


def assert_each_once(recorded: Recorded, num_steps: int) -> None:
    """Every metric of every step is there once, and what the evaluation at the end gave; the run is closed as done."""
    for name in STEP_METRICS:
        assert recorded.steps(name) == list(range(1, num_steps + 1)), name
    for name in recorded.run.data.metrics:
        twice = [step for step, count in Counter(recorded.steps(name)).items() if count > 1]
        assert not twice, f"{name} was logged more than once at {twice}"
    assert recorded.steps("val/mIoU") == [num_steps]
    assert recorded.run.info.status == "FINISHED"
