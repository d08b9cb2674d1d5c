"""Which way of adapting to conditions without labels, and how much of it, for the worst condition.

Around `adapt_town`, whose labels are of dawn alone. For data of your own:

    python -m distseg.tune adapt --recipe my_runs:mine --adapt.conditions night rain
"""

from ray import tune

from distseg.search import Budget

SPACE = {
    "adapt.fourier": tune.choice((0.0, 0.01, 0.03, 0.09)),
    "adapt.fourier_probability": tune.uniform(0.0, 1.0),
    "adapt.weight": tune.choice((None, 0.25, 0.5, 1.0)),
    "adapt.threshold": tune.uniform(0.7, 0.99),
    "adapt.mix": tune.choice((True, False)),
    "augment.gamma": tune.uniform(0.0, 2.0),
    "augment.noise": tune.uniform(0.0, 0.1),
    "augment.fog": tune.uniform(0.0, 0.8),
    "optim.ema_decay": tune.choice((0.95, 0.98)),
}
FIRST = (
    {
        "adapt.fourier": 0.01,
        "adapt.fourier_probability": 0.5,
        "adapt.weight": None,
        "adapt.threshold": 0.9,
        "adapt.mix": True,
        "augment.gamma": 1.0,
        "augment.noise": 0.05,
        "augment.fog": 0.6,
        "optim.ema_decay": 0.95,
    },
)
RECIPE = "adapt_town"
OBJECTIVE = "val/mIoU_worst"
BUDGET = Budget(num_trials=16, max_steps=240, evaluate_every=60)
