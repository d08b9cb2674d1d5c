"""Ray Train's TorchTrainer without the helpers that a training of ours has no use for.

Each is a process of Ray's that takes two seconds of a core to start, with each training and some with each restart:

    DatasetManager             serves Ray Data's data sets; distseg has a reader of its own
    AutoscalingCoordinator     asks an autoscaler for machines, as the placement group does already; a training whose
                               number of workers may change also asks it what it may have, and keeps it
    PlacementGroupCleaner      frees the workers' place if the controller dies, which a cluster that this process
                               started does not outlive
    PreemptionWatcher          hears of machines that are about to be taken away; a cluster of one machine has none

What is overridden here is not public; a version of Ray that does not have it keeps its helpers.
"""

import os
from typing import Any

from ray.train import Result
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.torch.torch_trainer import TorchTrainer  # what ray.train.torch has, but types too

from distseg.orchestration import cluster

_PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
_OF_NO_USE = ("DatasetsCallback",)
_OF_NO_USE_ALONE = ("PlacementGroupCleanerCallback",)


class LeanTorchTrainer(TorchTrainer):
    def fit(self) -> Result:
        if _PREEMPTION_WATCHER in os.environ or not cluster.is_started_here():
            return super().fit()
        os.environ[_PREEMPTION_WATCHER] = "0"
        try:
            return super().fit()
        finally:
            os.environ.pop(_PREEMPTION_WATCHER)

    def _create_default_callbacks(self) -> list[Any]:
        left_out = _OF_NO_USE + (_OF_NO_USE_ALONE if cluster.is_started_here() else ())
        made = super()._create_default_callbacks()
        return [callback for callback in made if type(callback).__name__ not in left_out]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        policy = options.get("scaling_policy")
        if type(policy) is FixedScalingPolicy:
            options["scaling_policy"] = _FixedSize(policy.scaling_config)
        return super()._initialize_and_run_controller(**options)


class _FixedSize(FixedScalingPolicy):
    """Says how many workers there are to be, and asks no one else."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass
