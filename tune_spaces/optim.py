"""Learning rate, the head's factor, the poly rate's power and weight decay (Zhao et al. 2017, section 5.1)."""

from ray import tune

from distseg.search import Budget

SPACE = {
    "optim.lr": tune.loguniform(1e-4, 1e-2),
    "optim.head_lr_scale": tune.choice((1.0, 3.0, 10.0)),
    "optim.poly_power": tune.uniform(0.5, 1.5),
    "optim.weight_decay": tune.loguniform(1e-5, 1e-1),
}
FIRST = (
    {"optim.lr": 1.5e-3, "optim.head_lr_scale": 1.0, "optim.poly_power": 0.9, "optim.weight_decay": 1e-2},
    {"optim.lr": 1.5e-3, "optim.head_lr_scale": 10.0, "optim.poly_power": 0.9, "optim.weight_decay": 1e-4},
)
OBJECTIVE = "val/mIoU"
BUDGET = Budget(num_trials=16, max_steps=240, evaluate_every=60)
