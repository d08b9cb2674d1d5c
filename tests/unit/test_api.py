"""`import distseg`: what a user's own program finds there, and what it does not load."""

import importlib
import subprocess
import sys

import distseg

HEAVY = ("boto3", "mlflow", "numpy", "ray", "torch", "tyro")


def test_importing_it_loads_nothing_heavy() -> None:
    code = f"import sys, distseg; dir(distseg); print(sorted(set({HEAVY!r}) & sys.modules.keys()))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_recipes_come_without_torch() -> None:
    code = "import sys; from distseg import recipes; print(recipes.town.__name__, 'torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (ended.stdout, ended.stderr) == ("town False\n", "")


def test_every_name_is_there() -> None:
    for name in distseg.__all__:
        assert getattr(distseg, name).__doc__, name


def test_programs_are_still_modules_of_their_own() -> None:
    for verb in ("train", "pack", "evaluate"):
        assert verb not in distseg.__all__
        assert importlib.import_module(f"distseg.{verb}").main
