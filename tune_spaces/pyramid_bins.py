"""Bins, pooling and reduction of the pyramid (Zhao et al. 2017, table 1; ADE20K val: 37.23 without, 41.68 with).

The sets of bins are those of Zhao et al. and of Song et al. 2021, whose number divides the channels. Its grid is the
paper's table: `python -m distseg.tune pyramid_bins --algorithm grid`.
"""

from ray import tune

from distseg.search import Budget

SPACE = {
    "model.bins": tune.choice(((1, 2, 3, 6), (1, 2, 3, 4), (1, 2, 4, 8), (1, 2), (1,))),
    "model.pool": tune.choice(("avg", "max")),
    "model.reduce": tune.choice((True, False)),
}
FIRST = ({"model.bins": (1, 2, 3, 6), "model.pool": "avg", "model.reduce": True},)
GRID = {
    "model.bins": tune.choice(((1,), (1, 2, 3, 6))),
    "model.pool": tune.choice(("max", "avg")),
    "model.reduce": tune.choice((False, True)),
}
OBJECTIVE = "val/mIoU"
BUDGET = Budget(num_trials=12, max_steps=240, evaluate_every=60)
