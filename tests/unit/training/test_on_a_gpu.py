"""What runs on a GPU in half precision: every network, its loss, and the counts of an evaluation.

There is no GPU here. The tensors are fake ones of PyTorch's: they have a device, a type and a shape but no values, so
that an operation on tensors of two devices raises, as does whatever asks for a value, and autocast is that of GPUs.
Backward passes are left out, for which PyTorch wants a real GPU; `test_no_host_sync` has them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.func import functional_call

from distseg import evaluation
from distseg.config import LossConfig, ModelConfig, model_config, network_names, options_class
from distseg.evaluation import metrics
from distseg.models import build_model, drop_by_sample
from distseg.training.losses import SegmentationLoss, valid_weight

GPU = torch.device("cuda", 0)
EVERY_TERM = LossConfig(ohem_threshold=0.7, dice_weight=0.5, lovasz_weight=0.5)
SMALL: Mapping[str, Any] = {"backbone": "resnet18", "width": 1 / 8}


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def narrow(network: str) -> ModelConfig:
    group = options_class(network)
    known = {name: value for name, value in SMALL.items() if hasattr(group, name) and group.takes(name, value)}
    return model_config(network, **known)


NETWORKS = [narrow(name) for name in network_names() if name != "adain"]


@pytest.mark.parametrize(
    "wrong", [lambda x: x + torch.zeros(3), lambda x: x[x > 0].sum().item(), lambda x: x @ x.double()], ids=range(3)
)
def test_what_a_gpu_refuses_is_seen(fake_gpu: None, wrong: Callable[[Tensor], object]) -> None:
    with pytest.raises((RuntimeError, DataDependentOutputException)):
        wrong(torch.zeros(3, device=GPU))


@pytest.mark.long
@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: config.name)
def test_a_network_its_loss_and_its_evaluation(fake_gpu: None, config: ModelConfig) -> None:
    with torch.device("meta"):
        model = build_model(config, 5)
    masks = drop_by_sample(model, 0)
    masks.keys_B = torch.zeros(2, dtype=torch.int64, device=GPU)
    state = {name: torch.empty_like(tensor, device=GPU) for name, tensor in model.state_dict().items()}

    def network(images_B3HW: Tensor) -> Any:
        return functional_call(model, state, (images_B3HW,))

    images_B3HW = torch.zeros(2, 3, 64, 96, dtype=torch.uint8, device=GPU)
    labels_BHW = torch.zeros(2, 64, 96, dtype=torch.uint8, device=GPU)
    weights_K = torch.ones(5, device=GPU)
    with evaluation.autocast("bf16", GPU):
        logits = network(evaluation.normalize(images_B3HW, "bf16"))
    assert (logits.main_BKhw.device, logits.main_BKhw.dtype) == (GPU, torch.bfloat16)
    normaliser = valid_weight(labels_BHW, weights_K)
    loss = SegmentationLoss(EVERY_TERM, weights_K)(logits, labels_BHW, normaliser=normaliser)
    assert (loss.total.device, loss.total.dtype) == (GPU, torch.float32)
    model.eval()
    sure = evaluation.predict_with_confidence(network, images_B3HW, "bf16")  # type: ignore[arg-type]
    counts = metrics.count_pairs(sure.ids_BHW, labels_BHW, 5)
    assert (counts.counts_BLK.device, counts.to_cpu().counts_BLK.device.type) == (GPU, "cpu")
