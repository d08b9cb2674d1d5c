"""The backbone's depth (Zhao et al. 2017, table 3; ADE20K val: ResNet-50 41.68, 101 41.96, 152 42.62, 269 43.81).

    python -m distseg.tune depth --algorithm grid

ResNet-269 has only the authors' stem; give `--config` with it where memory allows.
"""

from ray import tune

from distseg.search import Budget

SPACE = {"model.backbone": tune.choice(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"))}
FIRST = ({"model.backbone": "resnet50"},)
GRID = {"model.backbone": tune.choice(("resnet18", "resnet34", "resnet50"))}
OBJECTIVE = "val/mIoU"
BUDGET = Budget(num_trials=5, max_steps=240, evaluate_every=60)
