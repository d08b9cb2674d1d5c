"""Weights, checkpoints and runs that cannot be used, and trainings, searches and jobs that cannot begin."""

import re
from pathlib import Path

import pytest

from tests import programs
from tests.integration.bad_input.calling import ALONE, TRAIN, Bad, Fails, assert_one_line, each_of
from tests.integration.bad_input.places import FIRST_SHARD, Places

pytestmark = pytest.mark.timeout(1200)

CASES = {
    # weights and checkpoints
    "weights not there": Bad(TRAIN + " --model.pretrained {out}/w.pt", 1, ("out/w.pt", "no such file")),
    "weights not loadable": Bad(
        TRAIN + " --model.pretrained {weights_garbage}", 1, ("model.pretrained", "weights_garbage", "state dict")
    ),
    "weights without names": Bad(
        TRAIN + " --model.pretrained {weights_list}", 1, ("model.pretrained", "weights_list", "state dict")
    ),
    "weights that lack keys": Bad(
        TRAIN + " --model.pretrained {weights_lacking_keys}", 1, ("model.pretrained", "conv1.weight", "resnet18")
    ),
    "weights of another network": Bad(
        TRAIN + " --model.pretrained {weights_of_resnet34}", 1, ("unexpected", "layer1.2", "resnet18")
    ),
    "checkpoint not there": Bad("evaluate --checkpoint {empty} --data {town}", 1, ("/empty", "checkpoint.json")),
    "checkpoint without weights": Bad(
        "evaluate --checkpoint {run_without_weights} --data {town}", 1, ("run_without_weights", "checkpoint")
    ),
    "sync: not a run": Bad("sync {empty}", 1, ("/empty", "no run.json there", "the run's directory")),
    "sync: password in the URL": Bad(
        "sync {run} --uri http://me:hunter2@host:1", 2, ("--uri carries a user or password", "MLFLOW_TRACKING_PASSWORD")
    ),
    "checkpoint of no name": Bad("evaluate --checkpoint= --data {town}", 1, ("'' names no checkpoint", "run URI")),
    "evaluate: table of no name": Bad("evaluate --checkpoint {run} --data {town} --json=", 2, ("--json ''", "name")),
    "export: into a directory": Bad(
        "export --checkpoint {run} --format weights --out {town}", 1, ("/town", "is a directory")
    ),
    "predict: nowhere": Bad("predict --checkpoint {run} --images {empty} --out=", 2, ("--out ''", "name a directory")),
    "checkpoint damaged": Bad("evaluate --checkpoint {run_damaged} --data {town}", 1, ("run_damaged", "checkpoint")),
    "checkpoint of other classes": Bad(
        "evaluate --checkpoint {run} --data {other_classes}", 1, ("3 classes (toy)", "3 (other)", "label space")
    ),
    "evaluate: unknown condition": Bad(
        "evaluate --checkpoint {run} --data {town} --conditions fog", 1, ("'fog'", "day, night")
    ),
    "adapting from one image": Bad(
        "evaluate --checkpoint {run} --data {town} --adapt batchnorm --adapt_images 1", 2, ("--adapt_images 1", "2")
    ),
    "stylize: the data themselves": Bad(
        "stylize apply --network {run} --data {town} --out {town}/../town --to fog --overwrite", 2, ("--out", "--data")
    ),
    "compare: one file for both": Bad(
        "report compare {run} {run} --out {out}/c.html --csv {out}/./c.html", 2, ("--csv", "--out", "another file")
    ),
    "keeping all of the statistics": Bad(
        "evaluate --checkpoint {run} --data {town} --adapt batchnorm --adapt_keep 1", 2, ("--adapt_keep 1", "below 1")
    ),
    "keeping without batch norm": Bad(
        "evaluate --checkpoint {run} --data {town} --adapt tent --adapt_keep 0.5", 2, ("0.5", "--adapt batchnorm")
    ),
    "adapt: keeping all of the statistics": Bad(
        "adapt --checkpoint {run} --data {town} --conditions day --keep 1 --out {out}/a.pt", 2, ("--keep 1", "below 1")
    ),
    "adapting to a condition not there": Bad(
        "adapt --checkpoint {run} --data {town} --conditions fog --out {out}/a.pt", 1, ("'fog'", "day, night")
    ),
    "evaluate: table not writable": Bad(
        "evaluate --checkpoint {run} --data {town} --json {file}/t.json",
        1,
        ("/file/", "a file stands where a directory"),
    ),
    "evaluate: damaged image": Bad(
        "evaluate --checkpoint {run} --data {flipped_bytes} --split train", 1, (FIRST_SHARD, "not as packed")
    ),
    "evaluate: a window without sliding": Bad(
        "evaluate --checkpoint {run} --data {town} --window 64 64", 2, ("--window (64, 64)", "add --sliding")
    ),
    "evaluate: no scale": Bad(
        "evaluate --checkpoint {run} --data {town} --scales 0", 2, ("scales = (0.0,)", "positive")
    ),
    "predict: no images": Bad(
        "predict --checkpoint {run} --images {empty} --out {out}", 1, ("/empty", "no images below it")
    ),
    "predict: a huge image": Bad(
        "predict --checkpoint {run} --images {bomb} --out {out}",
        1,
        ("bomb.png", "12000x12000", "max_megapixels is 100", "--max_megapixels"),
    ),
    "predict: a damaged JPEG": Bad(
        "predict --checkpoint {run} --images {damaged_jpeg} --out {out}", 1, ("a.jpg", "a damaged JPEG")
    ),
    "predict: into its own images": Bad(
        "predict --checkpoint {run} --images {empty} --out {empty}/out", 2, ("--out", "below --images")
    ),
    "predict: every n-th photograph": Bad(
        "predict --checkpoint {run} --images {empty} --out {out} --every 2",
        2,
        ("--every 2", "for videos", "leave it out"),
    ),
    "predict: no video": Bad(
        "predict --checkpoint {run} --images {empty}/none.mp4 --out {out}", 1, ("none.mp4", "no such file")
    ),
    "export: size": Bad(
        "export --checkpoint {run} --format torch-export --out {out}/f --size 50 50",
        2,
        ("--size (50, 50)", "multiples"),
    ),
    "export: a mean of one": Bad(
        "export --checkpoint {run} --format weights --out {out}/f --average {run}", 2, ("--average", "once")
    ),
    "stylize: nothing given": Bad("stylize", 2, ("give train, apply or show",)),
    "stylize: a misspelt command": Bad("stylize aply --to fog", 2, ("stylize aply", "give train, apply or show")),
    "stylize: no rows": Bad(
        "stylize show --network {run} --data {town} --out {out}.png --to fog --rows 0", 2, ("--rows 0", "at least 1")
    ),
    "stylize: one target twice": Bad(
        "stylize apply --network {run} --data {town} --out {out} --to fog fog", 2, ("--to fog fog", "once")
    ),
    "style: no encoder": Bad(
        "stylize train --data.uri {town} --data.train_conditions day --style.conditions night --checkpoint.uri {out}",
        2,
        ("model.pretrained = None", "needs a trained encoder"),
    ),
    "style: no style network": Bad(
        TRAIN + " --style.network {run} --style.conditions night", 1, ("of pspnet, not of a style network",)
    ),
    "style: unknown target": Bad(
        "stylize apply --network {run} --data {town} --out {out} --to fog", 1, ("not of a style network",)
    ),
    # runs
    "runs not writable": Bad(
        "train --config {config} --checkpoint.uri {file}/runs", 1, ("file/runs", "a file where a directory")
    ),
    "resume of nothing": Bad("train --resume {empty}", 1, ("/empty", "run.json", "run's directory")),
    "resume of a damaged run": Bad("train --resume {run_with_bad_about}", 1, ("run.json", "damaged", "new run")),
    "resume of a damaged config": Bad(
        "train --resume {run_with_bad_config}", 1, ("config.json", "optim.lr = -1", "new run")
    ),
    "resume with all checkpoints damaged": Bad(
        "train --resume {run_damaged} --optim.max_steps 2", 1, ("run_damaged", "none of its 1 checkpoints", "new run")
    ),
    "resume with another learning rate": Bad(
        "train --resume {run} --optim.lr 0.5", 2, ("optim.lr = 0.5", "has 0.01", "new run")
    ),
    "resume on other data": Bad(
        "train --resume {run} --data.uri {fewer_classes}", 1, ("fewer_classes", "manifest changed")
    ),
    "no cluster": Bad(TRAIN, 1, ("RAY_ADDRESS = 127.0.0.1:1", "no Ray cluster answers", "start one")),
    "GPU without Ray": Bad(ALONE + " --scaling.gpu True", 1, ("scaling.gpu = True", "no GPU"), alone=True),
    "tune: nothing asked": Bad("tune", 2, ("--resume URI", "a space")),
    "tune: no such space": Bad("tune pyramids", 2, ("'pyramids'", "no such space", "known here are adapt, aux_loss")),
    "tune: resume of nothing": Bad("tune --resume {empty}", 1, ("/empty", "search.json", "give the search's")),
    "tune: unknown option": Bad("tune --resume {empty} --trials 3", 2, ("--trials", "keeps its configuration")),
    "job: unreachable": Bad(
        "cluster.submit --address http://127.0.0.1:1 -- true", 1, ("http://127.0.0.1:1", "--address")
    ),
}


@each_of(CASES)
def test_one_line_and_the_exit_code(case: Bad, fails_and_leaves_nothing: Fails) -> None:
    fails_and_leaves_nothing(case)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "--scaling.num_workers 64 --data.batch_size 64",
            ("scaling.num_workers = 64", "1 machines, 2 CPUs, 0 GPUs", "can hold 2 workers", "lower"),
        ),
        ("--scaling.gpu True", ("scaling.num_workers = 2", "0 GPUs", "1 CPU and 1 GPU")),
        ("--data.uri {flipped_bytes}", (FIRST_SHARD, "train_", ".png is not as packed")),
    ],
    ids=["too-many-workers", "no-GPU", "byte-flipped"],
)
def test_on_a_ray_cluster(
    arguments: str, words: tuple[str, ...], ray_cluster: dict[str, str], places: Places, tmp_path: Path
) -> None:
    base = ["--config", str(places["config"]), "--checkpoint.uri", str(tmp_path / "runs")]
    rest = [argument.format_map(places) for argument in arguments.split()]
    ended = programs.run(tmp_path, ray_cluster, "distseg.train", *base, *rest)
    assert ended.code == 1, ended.err
    assert_one_line(without_ray_logs(ended.err), words)
    if "flipped" not in arguments:
        assert not (tmp_path / "runs").exists()


def without_ray_logs(error: str) -> str:
    """Ray shows what its own processes log, marked with their number."""
    return "\n".join(line for line in error.splitlines() if not re.search(r"\(\w+ pid=\d+", line))
