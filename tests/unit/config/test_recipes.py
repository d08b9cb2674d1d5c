"""Every recipe is a run that can be built, and says what to expect of it."""

import inspect

import pytest
import torch

from distseg.config import from_dict, model_config, recipes, to_dict
from distseg.models import build_model, build_style_network


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_can_be_built(name: str) -> None:
    config = recipes.find(name)
    assert from_dict(to_dict(config)) == config
    assert config.name == name.replace("_", "-").removeprefix("pspnet-ade20k-ablation-")
    assert len((inspect.getdoc(recipes.RECIPES[name]) or "").splitlines()[0]) > 20
    with torch.device("meta"):
        if config.model.is_style_network:
            build_style_network(config.model)
        else:
            build_model(config.model, 19, aux=config.loss.aux_weight > 0)


def test_zhaos_hyper_parameters() -> None:
    for name, steps in (("pspnet_voc", 30_000), ("pspnet_cityscapes", 90_000), ("pspnet_ade20k", 150_000)):
        config = recipes.find(name)
        assert (config.optim.lr, config.optim.momentum, config.optim.weight_decay) == (0.01, 0.9, 1e-4)
        assert (config.optim.poly_power, config.optim.head_lr_scale, config.optim.max_steps) == (0.9, 10.0, steps)
        assert (config.data.batch_size, config.loss.aux_weight) == (16, 0.4)
        assert config.model == model_config(bins=(1, 2, 3, 6), pretrained="imagenet")
        assert (config.augment.mirror, config.augment.scale, config.augment.rotate_deg) == (True, (0.5, 2.0), 10.0)
