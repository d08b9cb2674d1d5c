"""What the programs share: command lines, exit codes, progress, tables, and the trainings they start.

    cli.run(main)                       calls a program's `main` with the command line and exits with its code
    cli.parse(Dataclass, arguments, …)  bad arguments are a ConfigError of one line, exit code 2
    cli.progress("packing", "samples")  a context whose value is called with (done, in all)

Only programs import this package; nothing in it imports torch, Ray or MLflow before a training begins.
"""

from distseg.cli.arguments import check_named, check_output, override, parse, parse_known
from distseg.cli.exit_codes import exit_code_of, run
from distseg.cli.inference_options import InferenceOptions
from distseg.cli.named_recipes import named_recipe
from distseg.cli.progress_bar import PlainProgress, progress
from distseg.cli.run_training import train_once
from distseg.cli.tables import cells, print_conditions, say
from distseg.cli.training_command import read_config_file, recipe_list, train_command
from distseg.cli.workers import Workers

__all__ = [
    "InferenceOptions",
    "PlainProgress",
    "Workers",
    "cells",
    "check_named",
    "check_output",
    "exit_code_of",
    "named_recipe",
    "override",
    "parse",
    "parse_known",
    "print_conditions",
    "progress",
    "read_config_file",
    "recipe_list",
    "run",
    "say",
    "train_command",
    "train_once",
]
