"""python -m distseg.train [RECIPE] [--recipe MODULE:FUNCTION] [--config FILE.json] [--dotted.field VALUE …]
                           [--resume RUN_URI] [--list] [--print-config] [--debug]

Trains a recipe on a Ray cluster: the one at RAY_ADDRESS, a running one, or one started here. Under torchrun (RANK set)
Ray is left out. Without a recipe it trains `town`, the embedded default, and keeps all it makes under ./runs.
Arguments override the recipe field by field; --resume takes a run's own configuration instead of a recipe.
"""

from collections.abc import Sequence

from distseg import cli

# Nothing here imports torch: the processes that pack `town` import this file again, and --list needs none of it.


def main(arguments: Sequence[str]) -> int:
    return cli.train_command(
        arguments, default_recipe="town", prog="python -m distseg.train", description=__doc__ or ""
    )


if __name__ == "__main__":
    cli.run(main)
