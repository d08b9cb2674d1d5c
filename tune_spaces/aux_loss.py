"""The auxiliary loss's weight α (Zhao et al. 2017, table 2; ADE20K val: none 35.82, 0.4 37.23 mIoU).

Its grid is the paper's table: `python -m distseg.tune aux_loss --algorithm grid`.
"""

from ray import tune

from distseg.search import Budget

SPACE = {"loss.aux_weight": tune.uniform(0.0, 1.0)}
FIRST = ({"loss.aux_weight": 0.4}, {"loss.aux_weight": 0.0})
GRID = {"loss.aux_weight": tune.choice((0.0, 0.3, 0.4, 0.6, 0.9))}
OBJECTIVE = "val/mIoU"
BUDGET = Budget(num_trials=10, max_steps=240, evaluate_every=60)
