"""Commands that ask for what is not there, and configurations that do not hold together."""

from pathlib import Path

import pytest

from tests import programs
from tests.integration.bad_input.calling import ALONE, TRAIN, Bad, Fails, assert_one_line, each_of

pytestmark = pytest.mark.timeout(1200)

CASES = {
    "unknown field": Bad(TRAIN + " --optim.learning 1", 2, ("--optim.learning", "--help")),
    "bad type": Bad(TRAIN + " --optim.lr fast", 2, ("--optim.lr", "fast", "float")),
    "bad choice": Bad(TRAIN + " --model.pool median", 2, ("--model.pool", "median", "avg")),
    "out of range": Bad(TRAIN + " --model.dropout 1.5", 2, ("model.dropout = 1.5", "[0, 1)")),
    "not a finite number": Bad(TRAIN + " --optim.lr inf", 2, ("optim.lr = inf", "must be a finite number")),
    "a seed of more than 64 bits": Bad(TRAIN + f" --seed {2**64}", 2, (f"seed = {2**64}", "must be below 2^63")),
    "fields that do not fit": Bad(TRAIN + " --optim.warmup_steps 9", 2, ("optim.warmup_steps = 9", "below max_steps")),
    "missing value": Bad("evaluate --data {town}", 2, ("--checkpoint", "required")),
    "two configurations": Bad("train town --config {config}", 2, ("only one of", "name and config")),
    "unknown recipe": Bad("train tonw", 2, ("'tonw'", "did you mean 'town'")),
    "recipe without function": Bad("train --recipe mine", 2, ("--recipe 'mine'", "module:function")),
    "recipe of no module": Bad("train --recipe no_such_module:f", 2, ("cannot import no_such_module",)),
    "recipe that is not there": Bad("train --recipe distseg.config.recipes:none", 2, ("has no function none",)),
    "recipe that is no function": Bad("train --recipe mine:NUMBER", 2, ("mine:NUMBER", "int", "function")),
    "recipe of a wrong type": Bad("train --recipe mine:recipe", 2, ("returned dict", "RunConfig")),
    "config not JSON": Bad("train --config {config_not_json}", 2, ("config_not_json", "not JSON")),
    "config with an unknown field": Bad(
        "train --config {config_unknown_field}", 2, ("optim.learning_rate", "no such field")
    ),
    "config of a wrong type": Bad("train --config {config_wrong_type}", 2, ("data.crop_px = 'large'", "list")),
    "config that is not there": Bad("train --config {out}/c.json", 2, ("out/c.json", "no such file")),
    "batch not divisible": Bad(TRAIN + " --data.batch_size 5", 2, ("data.batch_size = 5", "2 workers", "4 or 6")),
    "batch too small for a bin of 1": Bad(
        TRAIN + " --data.batch_size 1 --scaling.num_workers 1", 2, ("data.batch_size", "1", "at least 2")
    ),
    "password in the tracking URI": Bad(
        TRAIN + " --tracking.uri http://me:hunter2@host", 2, ("tracking.uri", "MLFLOW_TRACKING_PASSWORD")
    ),
    "train: auto without data": Bad("train auto", 2, ("auto", "--data.uri")),
    "train: a network's name": Bad("train unet", 2, ("'unet'", "--model.name unet", "auto --data.uri")),
    "a field the network lacks": Bad(
        TRAIN + " --model.recurrence 3", 2, ("model.recurrence = 3", "pspnet has no such option")
    ),
    "self-training without a teacher": Bad(
        TRAIN + " --adapt.conditions night --adapt.weight 1", 2, ("optim.ema_decay = None", "adapt.weight")
    ),
    "targets without a use": Bad(TRAIN + " --adapt.conditions night", 2, ("adapt.conditions", "adapt.fourier")),
    "models: unknown": Bad("models.__main__ --only vgg", 2, ("--only vgg", "known are", "fcn-32s vgg16")),
    "study: unknown": Bad("study no-such", 2, ("no-such", "give one of dawn")),
}


@each_of(CASES)
def test_one_line_and_the_exit_code(case: Bad, fails_and_leaves_nothing: Fails) -> None:
    fails_and_leaves_nothing(case)


def test_a_batch_that_torchruns_ranks_cannot_share(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    fails(Bad(ALONE, 2, ("data.batch_size = 4", "3 workers", "3 or 6"), alone=True))


def test_a_real_process_ends_with_the_code(tmp_path: Path) -> None:
    ended = programs.run(tmp_path, programs.plain_environment(), "distseg.train", "--optim.lr", "fast")
    assert (ended.code, ended.out) == (2, "")
    assert_one_line(ended.err, ("--optim.lr", "fast"))
