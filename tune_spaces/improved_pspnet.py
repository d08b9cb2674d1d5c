"""All parts of the improved PSPNet at once, for the worst condition (Song et al. 2021, tables 4 and 5).

Restyling needs a style network and its conditions, trained before (`python -m distseg.stylize train`):

    python -m distseg.tune improved_pspnet --data.train_conditions dawn \
        --style.network STYLE_RUN --style.conditions night winter winter-night
"""

from ray import tune

from distseg.search import Budget

SPACE = {
    "loss.aux_weight": tune.uniform(0.0, 1.0),
    "model.bins": tune.choice(((1, 2, 3, 6), (1, 2, 3, 4), (1, 2, 4, 8), (1,))),
    "model.se_ratio": tune.choice((None, 4, 8, 16, 32)),
    "style.probability": tune.uniform(0.0, 1.0),
    "style.kl_weight": tune.choice((0.0, 0.3, 1.0)),
}
FIRST = (
    {
        "loss.aux_weight": 0.4,
        "model.bins": (1, 2, 3, 6),
        "model.se_ratio": None,
        "style.probability": 0.0,
        "style.kl_weight": 0.0,
    },
    {
        "loss.aux_weight": 0.4,
        "model.bins": (1, 2, 3, 4),
        "model.se_ratio": 16,
        "style.probability": 0.5,
        "style.kl_weight": 1.0,
    },
)
OBJECTIVE = "val/mIoU_worst"
BUDGET = Budget(num_trials=16, max_steps=240, evaluate_every=60)
