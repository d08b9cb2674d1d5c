"""The doctor finds what is planted: each misconfiguration is one line that names it and says what to do."""

import argparse
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest

from cluster import submit
from cluster.doctor import __main__ as doctor
from cluster.doctor import exchange, findings, machine, nodes, upload, verdicts
from cluster.doctor.findings import FAILED, OK, SKIPPED, Finding
from cluster.doctor.machine import Facts
from tests.conftest import REPOSITORY

SOUND = Facts(
    where="a",
    versions={"python": "3.11.2", "ray": "2.60.0", "torch": "2.14.1+cu130", "distseg": "0.1.0 (00112233)"},
    temp_dir="/tmp",
    disk_free=100 << 30,
    shm_size=8 << 30,
    shm_free=8 << 30,
    gpus=["H200"],
    cuda="13.0",
    ray_gpus=1,
    ray_cpus=8,
    ray_store=1 << 30,
)
HERE = replace(SOUND, where="here", gpus=[], cuda="")
OTHER = replace(SOUND, where="b")


def failures(found: list[Finding]) -> list[str]:
    return [findings.line(each) for each in found if each.status == FAILED]


def with_version(facts: Facts, name: str, version: str) -> Facts:
    return replace(facts, versions={**facts.versions, name: version})


# ---- what the machines have


def test_a_sound_cluster_has_no_failures_and_each_check_is_one_line() -> None:
    found = verdicts.verdicts(HERE, [SOUND, OTHER], gpu=True)
    assert failures(found) == []
    names = [each.name for each in found]
    assert len(names) == len(set(names))
    assert {"workers", "python", "ray", "torch", "distseg", "GPUs", "clocks", "disk", "shared memory"} <= set(names)


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        (with_version(OTHER, "python", "3.12.1"), "3.11.2 here; 3.11.2 on a; 3.12.1 on b: install the same"),
        (with_version(OTHER, "ray", "2.56.0"), "2.60.0 here; 2.56.0 on b; 2.60.0 on a: install the same"),
        (with_version(OTHER, "torch", "2.14.1+cpu"), "2.14.1+cpu on b; 2.14.1+cu130 on a: install the same"),
        (with_version(OTHER, "torch", "none"), "none on b: install the same"),
        (with_version(OTHER, "distseg", "0.1.0 (ffff0000)"), "0.1.0 (ffff0000) on b: install the same"),
        (
            replace(OTHER, gpus=[]),
            "Ray counts 1, torch sees 0 [b]: look at nvidia-smi: the driver must be one for CUDA 13",
        ),
        (replace(OTHER, gpus=[], cuda=""), "torch sees 0 [b]: this torch is a build for CPUs"),
        (replace(OTHER, ray_gpus=0), "Ray counts 0, torch sees 1 [b]: start Ray there with --num-gpus 1"),
        (replace(OTHER, clock_s=-90.0), "90 s behind the head's [b]: run an NTP service"),
        (replace(OTHER, clock_s=6.0), "6 s ahead of the head's [b]: run an NTP service"),
        (replace(OTHER, disk_free=1 << 30), "1.0 GiB free in /tmp, 10 are needed [b]: free some, set TMPDIR"),
        (replace(OTHER, shm_size=64 << 20, shm_free=63 << 20), "64 MiB in all, 63 free"),
        (replace(OTHER, shm_free=1 << 20), "8192 MiB in all, 1 free"),
    ],
)
def test_one_machine_that_differs_is_the_only_failure(planted: Facts, expected: str) -> None:
    (line,) = failures(verdicts.verdicts(HERE, [SOUND, planted], gpu=True))
    assert expected in line
    assert "\n" not in line


def test_how_much_disk_is_enough_can_be_given() -> None:
    small = replace(SOUND, disk_free=2 << 30)
    (line,) = failures(verdicts.verdicts(HERE, [small], gpu=False))
    assert "2.0 GiB free in /tmp, 10 are needed" in line
    assert "--min-disk" in line
    assert failures(verdicts.verdicts(HERE, [small], gpu=False, min_disk_gib=1.5)) == []


def test_a_cluster_without_gpus_fails_only_if_they_are_wanted() -> None:
    bare = [replace(each, gpus=[], ray_gpus=0) for each in (SOUND, OTHER)]
    assert failures(verdicts.verdicts(HERE, bare, gpu=False)) == []
    (line,) = failures(verdicts.verdicts(HERE, bare, gpu=True))
    assert "no machine of the cluster has one: leave out --gpu" in line


def test_it_is_said_that_no_worker_was_looked_at() -> None:
    head = replace(SOUND, gpus=[], ray_gpus=0, ray_cpus=0)
    (line,) = [findings.line(f) for f in verdicts.verdicts(HERE, [head], gpu=False) if f.status == SKIPPED]
    assert "none has joined, so no worker was looked at" in line
    (line,) = [findings.line(f) for f in verdicts.verdicts(HERE, [head, OTHER], gpu=False) if f.name == "workers"]
    assert line.endswith("CPUs for work: 8 [b]")


def test_the_longest_name_does_not_touch_what_was_seen() -> None:
    assert "pyarrow  s3://" in findings.line(findings.ok("checkpoints, Ray Tune's pyarrow", "s3://b/runs: written"))


def test_this_machine_may_have_another_build_of_torch_and_a_later_patch_of_python_but_no_other_version() -> None:
    laptop = with_version(with_version(HERE, "torch", "2.14.1+cpu"), "python", "3.11.9")
    assert failures(verdicts.verdicts(laptop, [SOUND, OTHER], gpu=False)) == []
    (line,) = failures(verdicts.verdicts(with_version(HERE, "torch", "2.9.0"), [SOUND, OTHER], gpu=False))
    assert "2.9.0 here; 2.14.1+cu130 on a, b" in line


def test_the_clock_of_this_machine_is_compared_too() -> None:
    (line,) = failures(verdicts.verdicts(replace(HERE, clock_s=3600.0), [SOUND], gpu=False))
    assert "3600 s ahead of the head's [here]" in line


def test_a_slow_network_fails_and_a_fast_one_does_not() -> None:
    seconds = exchange.NUM_BYTES / 100e6  # of two workers each sends all of it once
    assert round(exchange.bandwidth(seconds, 2)) == 100_000_000
    assert exchange.verdict(seconds, 2, 2, gpu=False, min_mb_s=99).status == OK
    slow = exchange.verdict(seconds, 2, 2, gpu=False, min_mb_s=101)
    assert slow.status == FAILED
    assert "GLOO_SOCKET_IFNAME" in slow.remedy


def test_gpus_that_other_jobs_hold_are_no_fault_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 8.0, "GPU": 1.0})
    found = nodes._exchange([replace(SOUND, ray_gpus=8), replace(OTHER, ray_gpus=8)], {}, {}, argparse.Namespace())
    assert (found.status, found.seen) == (
        SKIPPED,
        "15 of 16 GPUs are in use by other jobs; ask again when they are free",
    )


def test_the_facts_of_this_machine() -> None:
    found = machine.facts("x", ray_store=7)
    assert found.versions.keys() == SOUND.versions.keys()
    assert "none" not in found.versions.values()
    assert found.disk_free > 0
    assert Facts(**json.loads(json.dumps(asdict(found)))) == found


def test_another_byte_of_code_is_another_digest(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    before = machine.code_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert machine.code_digest(tmp_path) == before
    (tmp_path / "a.py").write_text("x = 2")
    assert machine.code_digest(tmp_path) != before


# ---- the working directory


def test_a_working_directory_that_is_too_large_names_its_largest_files(tmp_path: Path) -> None:
    (tmp_path / "cluster" / "doctor").mkdir(parents=True)
    with (tmp_path / "shards.tar").open("wb") as file:
        file.truncate(upload.MAX_BYTES)
    found = upload.check_working_dir(tmp_path, "here")
    assert found.status == FAILED
    assert "shards.tar (500 MiB)" in found.seen
    assert ".gitignore" in found.remedy


def test_a_working_directory_without_the_doctor(tmp_path: Path) -> None:
    assert "give a clone of distseg" in upload.check_working_dir(tmp_path, "here").remedy


def test_the_clone_travels_without_what_gitignore_names() -> None:
    found = upload.check_working_dir(REPOSITORY, "here")
    assert found.status == OK, found
    assert not [path for path in upload._files(REPOSITORY) if ".venv" in path.parts or "__pycache__" in path.parts]


# ---- the report


def test_alike_failures_are_one_line_and_unlike_ones_are_two() -> None:
    found = findings.merged(
        [
            findings.failed("x", "broken", "mend it", "a"),
            findings.ok("x", "fine", "b"),
            findings.failed("x", "broken", "mend it", "c"),
            findings.failed("x", "gone", "buy one", "d"),
            findings.ok("y", "fine", "a"),
            findings.ok("y", "fine", "b"),
        ]
    )
    assert [(each.name, each.status, each.where) for each in found] == [
        ("x", FAILED, ("a", "c")),
        ("x", FAILED, ("d",)),
        ("y", OK, ("a", "b")),
    ]
    assert findings.machines([*"abcdefgh"]) == "a, b, c and 5 more"


def test_no_secret_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary/1+2")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/a/path")
    leaking = findings.failed("x", "http://user:canary3@h canary%2F1%2B2\ncanary/1+2", "canary4 at /a/path")
    (clean,) = findings.redacted_here([leaking], {"MLFLOW_TRACKING_PASSWORD": "canary4"})
    assert "canary" not in str(clean)
    assert "\n" not in clean.seen
    assert "/a/path" in clean.remedy


def test_a_variable_that_is_not_passed_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3")
    fails = findings.failed("data", "no credentials", "set them", "b")
    works = [findings.ok("data", "read", "here")]
    assert "it works here, so try --env AWS_ENDPOINT_URL" in doctor.with_hint(fails, works, {}).remedy
    assert doctor.with_hint(fails, works, {"AWS_ENDPOINT_URL": "x"}) == fails
    assert doctor.with_hint(fails, [replace(fails, where=("here",))], {}) == fails


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> nodes.Report:
    """A cluster of two machines that are like this one. Tests change what it reports."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sound = machine.facts("a", ray_gpus=0, ray_cpus=1)
    sound = replace(sound, gpus=[], disk_free=100 << 30, shm_size=8 << 30, shm_free=8 << 30)
    report = nodes.Report("a", [sound, replace(sound, where="b")], [])
    monkeypatch.setattr(submit, "connect", lambda _: cast(Any, None))
    monkeypatch.setattr(doctor, "run_job", lambda *_: report)
    monkeypatch.setattr(doctor, "clock_ahead_s", lambda _: 0.0)
    return report


def test_the_exit_code_and_the_lines(cluster: nodes.Report, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--working-dir", str(REPOSITORY)]
    assert doctor.main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "0 failed" in printed[-1]
    assert any(line.startswith(SKIPPED) and "give --data URI" in line for line in printed)
    cluster.findings.append(nodes._silent("c", "no answer within 150 s"))
    assert doctor.main(arguments) == 1
    assert (
        f"FAILED  {'node':{findings.NAME_WIDTH}}no answer within 150 s [c]: look at Ray's logs"
        in capsys.readouterr().out
    )
    assert doctor.main([*arguments, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert {"name", "status", "seen", "remedy", "where"} == report["checks"][0].keys()


def test_a_sqlite_file_is_refused_where_there_are_two_machines(
    cluster: nodes.Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--working-dir", str(REPOSITORY), "--tracking", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    assert doctor.main(arguments) == 1
    assert "a SQLite file is of one machine: give the URL of an MLflow server" in capsys.readouterr().out
    del cluster.nodes[1]
    assert doctor.main(arguments) == 0


def test_a_cluster_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere:1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert doctor.main(["--address", "http://127.0.0.1:1", "--working-dir", str(REPOSITORY)]) == 1
    printed = capsys.readouterr().out
    assert (
        f"FAILED  {'cluster':{findings.NAME_WIDTH}}cannot reach a Ray cluster at http://127.0.0.1:1: is it up"
        in printed
    )
    assert "working directory" in printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--address", "head"], "--address head: must begin with http://"),
        (["--env", "NOT_SET_HERE"], "--env NOT_SET_HERE: not set"),
        (["--tracking", "http://u:canary@h"], "--tracking carries a user or password"),
        (["--working-dir", "/no/such"], "no such directory"),
        (["--data", "ftp://x/y"], "ftp://x/y"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        doctor.main(arguments)
    error = capsys.readouterr().err
    assert (stopped.value.code, expected in error, "canary" in error) == (2, True, False)


def test_a_report_survives_the_output_of_a_job() -> None:
    report = nodes.Report("a", [SOUND], [findings.failed("x", "broken", "mend it", "a")])
    text = f"a warning\n{nodes.MARK}{json.dumps(asdict(report))}\nanother\n"
    assert nodes.report_of(text) == report
    assert nodes.report_of("a traceback\n") is None
