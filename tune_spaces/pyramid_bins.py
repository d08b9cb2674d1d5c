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
_TABLE_1 = (  # bins, pool, reduce
    ((), "avg", True),
    ((1,), "max", False),
    ((1,), "avg", False),
    ((1, 2, 3, 6), "max", False),
    ((1, 2, 3, 6), "avg", False),
    ((1, 2, 3, 6), "max", True),
    ((1, 2, 3, 6), "avg", True),
)
GRID = [{"model.bins": bins, "model.pool": pool, "model.reduce": reduce} for bins, pool, reduce in _TABLE_1]
OBJECTIVE = "val/mIoU"
BUDGET = Budget(num_trials=12, max_steps=240, evaluate_every=60)
