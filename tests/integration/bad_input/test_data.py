"""Data that are not there, damaged or not those that were meant: packed, to be packed, and in S3."""

import re

import pytest

from distseg.storage import retries
from tests.conftest import make_bucket, use_environment
from tests.integration.bad_input.calling import ALONE, TRAIN, Bad, Fails, call, each_of
from tests.integration.bad_input.places import FIRST_SHARD, Places

pytestmark = pytest.mark.timeout(1200)

CASES = {
    # packed
    "no data": Bad(TRAIN + " --data.uri ''", 2, ("data.uri", "distseg.pack")),
    "unknown scheme": Bad(TRAIN + " --data.uri gs://bucket/data", 1, ("gs://bucket/data", "s3://")),
    "no manifest": Bad(TRAIN + " --data.uri {empty}", 1, ("no manifest.json", "/empty", "distseg.pack")),
    "manifest cut short": Bad(TRAIN + " --data.uri {cut_manifest}", 1, ("cut_manifest/manifest.json", "not JSON")),
    "manifest edited": Bad(TRAIN + " --data.uri {edited_manifest}", 1, ("edited_manifest/manifest.json", "digest")),
    "unknown split": Bad(TRAIN + " --data.train_split trian", 1, ("'trian'", "train, val")),
    "unknown condition": Bad(TRAIN + " --data.train_conditions fog", 1, ("'fog'", "day, night")),
    "unknown condition to evaluate": Bad(TRAIN + " --data.val_conditions train/fog", 1, ("'fog'", "'train'")),
    "trained and evaluated on": Bad(
        TRAIN + " --data.val_conditions train/day", 2, ("data.val_conditions", "train/day-town", "both")
    ),
    "mixed data of other classes": Bad(
        TRAIN + " --data.mix {other_split}", 1, ("data.mix: class 2 of", "(other) is tram", "(toy) car", "--relabel")
    ),
    "mixed data of fewer classes": Bad(
        TRAIN + " --data.mix {fewer_classes}", 1, ("data.mix: class 2 of", "is none", "car", "--relabel")
    ),
    "mixed data that is the same": Bad(TRAIN + " --data.mix {moved}", 1, ("/moved is the same data as", "weight")),
    "mixed data without the split": Bad(TRAIN + " --data.mix {val_only}", 1, ("/val_only", "no split 'train'")),
    "mixed data that is not there": Bad(TRAIN + " --data.mix {empty}", 1, ("no manifest.json", "/empty")),
    "mixed data twice": Bad(TRAIN + " --data.mix {town}", 2, ("data.mix", "once")),
    "weights of a mixture": Bad(
        TRAIN + " --data.mix {moved} --data.mix_weights 1", 2, ("data.mix_weights = (1.0,)", "2 weights")
    ),
    "shard missing": Bad(ALONE + " --data.uri {missing_shard}", 1, (FIRST_SHARD, "no such file"), alone=True),
    "shard cut short": Bad(ALONE + " --data.uri {cut_shard}", 1, (FIRST_SHARD, "truncated", "train_"), alone=True),
    "index edited": Bad(ALONE + " --data.uri {edited_index}", 1, (FIRST_SHARD, "index"), alone=True),
    "byte flipped in an image": Bad(
        ALONE + " --data.uri {flipped_bytes}", 1, (FIRST_SHARD, "train_", ".png is not as packed"), alone=True
    ),
    "label outside the label space": Bad(
        ALONE + " --data.uri {fewer_classes}", 1, ("train/", "/train_", "label ids [2]", "0 to 1"), alone=True
    ),
    "unreadable image": Bad(
        ALONE + " --data.uri {cut_images}", 1, ("train/", "/train_", "not a readable image"), alone=True
    ),
    # packing
    "pack: no folder": Bad("pack camvid --root {empty} --out {out}", 1, ("empty/train", "CamVid")),
    "pack: unknown split": Bad("pack camvid --root {camvid} --splits all --out {out}", 1, ("camvid/all", "no such")),
    "pack: annotation missing": Bad(
        "pack camvid --root {camvid_without_annotation} --splits train --out {out}", 1, ("0001TP_006690.png", "missing")
    ),
    "pack: label outside the label space": Bad(
        "pack camvid --root {camvid_wrong_label} --splits train --out {out}", 1, ("0001TP_006690", "[77]", "camvid")
    ),
    "pack: unreadable image": Bad(
        "pack camvid --root {camvid_unreadable} --splits train --out {out}",
        1,
        ("0001TP_006690", "not a readable image"),
    ),
    "pack: sizes differ": Bad(
        "pack camvid --root {camvid_wrong_size} --splits train --out {out}", 1, ("0001TP_006690", "40x31", "40x32")
    ),
    "pack: nothing": Bad("pack town --train 0 --val 0 --out {out}", 2, ("nothing to pack",)),
    "pack: occupied": Bad("pack town --train 1 --val 0 --out {town}", 1, ("already holds", "--overwrite")),
    "pack: unfinished before": Bad(
        "pack town --train 1 --val 0 --out {unfinished_pack}", 1, ("did not finish", "--overwrite")
    ),
    "pack: not writable": Bad(
        "pack town --train 1 --val 0 --out {file}/data", 1, ("file/data", "a file where a directory")
    ),
    "pack: unknown data set": Bad(
        "pack kitti --root {empty} --out {out}",
        2,
        ("'kitti'", "camvid, cityscapes", "voc, webdataset, verify or inspect"),
    ),
    "inspect: no manifest": Bad("pack inspect {empty}", 1, ("no manifest.json", "/empty")),
}


@each_of(CASES)
def test_one_line_and_the_exit_code(case: Bad, fails_and_leaves_nothing: Fails) -> None:
    fails_and_leaves_nothing(case)


# ---- S3


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "no credentials; set AWS_ACCESS_KEY_ID"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
            "cannot reach http://127.0.0.1:1 (connection refused); is it running, is AWS_ENDPOINT_URL right?",
        ),
    ],
    ids=["no-credentials", "no-endpoint"],
)
def test_an_s3_server_that_cannot_be_used(
    environment: dict[str, str], expected: str, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_environment(environment, monkeypatch)
    monkeypatch.setattr(retries, "FIRST_CONTACT_S", 0.5)
    fails(Bad(TRAIN + " --data.uri s3://bucket/data", 1, ("s3://bucket/data", expected)))


def test_no_bucket_and_no_data_in_a_bucket(moto_s3: str, fails: Fails) -> None:
    fails(Bad(TRAIN + " --data.uri s3://no-such-bucket/d", 1, ("s3://no-such-bucket/d", "no such bucket")))
    fails(Bad(TRAIN + f" --data.uri {moto_s3}/d", 1, (f"no manifest.json under {moto_s3}/d", "distseg.pack")))
    fails(Bad("train --config {config} --checkpoint.uri s3://no-such-bucket/r", 1, ("no such bucket",)))


@pytest.mark.servers
def test_wrong_credentials(s3_server: dict[str, str], fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    use_environment(s3_server, monkeypatch)
    uri = f"{make_bucket()}/d"
    use_environment(s3_server | {"AWS_SECRET_ACCESS_KEY": "hunter2"}, monkeypatch)
    fails(Bad(TRAIN + f" --data.uri {uri}", 1, (uri, "wrong credentials", "AWS_SECRET_ACCESS_KEY")))
    use_environment(s3_server | {"AWS_ACCESS_KEY_ID": "nobody"}, monkeypatch)
    fails(Bad(TRAIN + f" --data.uri {uri}", 1, (uri, "does not know the key id", "AWS_ACCESS_KEY_ID")))


# ---- what `verify` finds is a list


@pytest.mark.parametrize("name", ["missing_shard", "cut_shard", "edited_index", "flipped_bytes"])
def test_verify_lists_the_damaged_shard(
    name: str, places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call("pack", ["verify", str(places[name])], monkeypatch)
    *problems, verdict = capsys.readouterr().out.splitlines()
    assert code == 1
    assert problems and all(FIRST_SHARD.removesuffix(".tar") in problem for problem in problems)
    assert re.fullmatch(rf".*/{name}: \d+ problems?", verdict)
