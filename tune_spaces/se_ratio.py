"""The reduction ratio of squeeze-and-excitation (Song et al. 2021, on the fused pyramid; Shen & Sun 2022: 16)."""

from ray import tune

from distseg.search import Budget

SPACE = {"model.se_ratio": tune.choice((2, 4, 8, 16, 32))}  # all divide the 512 channels it gates
FIRST = ({"model.se_ratio": 16},)
OBJECTIVE = "val/mIoU_worst"
BUDGET = Budget(num_trials=5, max_steps=240, evaluate_every=60)
