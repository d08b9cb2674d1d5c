"""Jobs on real hosts: `cluster.submit` ends as the job did."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.canaries import canary, found
from tests.conftest import REPOSITORY, run_script

pytestmark = [pytest.mark.servers, pytest.mark.ray]

SECRET = canary("job")
SCRIPT = """
import os, sys, time
print("greeting", os.environ.get("GREETING"), len(os.environ.get("SECRET", "")), flush=True)
try:
    time.sleep(float(sys.argv[2]))
except KeyboardInterrupt:
    print("tidied up", flush=True)
    sys.exit(130)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def working_dir(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text(SCRIPT)
    return tmp_path


def start(
    hosts: dict[str, str], working_dir: Path, *arguments: str, command: tuple[str, ...], **env: str
) -> subprocess.Popen[str]:
    options = ["--working-dir", str(working_dir), *arguments, "--", "python", "job.py", *command]
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.submit", *options],
        cwd=REPOSITORY,
        env={**os.environ, **hosts, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_output(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"ended without {text!r}")


def test_success_failure_and_environment(ray_hosts: dict[str, str], working_dir: Path) -> None:
    named = ("--env", "GREETING", "--env", "SECRET")
    asked = start(ray_hosts, working_dir, *named, command=("0", "0"), GREETING="hush-hush", SECRET=SECRET)
    unasked = start(ray_hosts, working_dir, command=("3", "0"), GREETING="hush-hush")
    code, out, err = outcome(asked)
    assert (code, f"greeting hush-hush {len(SECRET)}" in out, "hush-hush" in err) == (0, True, False)
    assert "succeeded" in err
    code, out, err = outcome(unasked)
    assert (code, "greeting None 0" in out) == (3, True)
    assert "failed with exit code 3" in err


def test_ctrl_c_stops_the_job(ray_hosts: dict[str, str], working_dir: Path) -> None:
    process = start(ray_hosts, working_dir, command=("0", "300"))
    wait_for_output(process, "greeting")
    process.send_signal(signal.SIGINT)
    code, out, err = outcome(process)
    assert code == 130
    assert "tidied up" in out
    assert "stopped" in err


def test_a_job_stopped_elsewhere(ray_hosts: dict[str, str], working_dir: Path) -> None:
    process = start(ray_hosts, working_dir, "--submission-id", "elsewhere", command=("0", "300"))
    wait_for_output(process, "greeting")
    ray = Path(sys.executable).parent / "ray"
    subprocess.run([ray, "job", "stop", "elsewhere"], env={**os.environ, **ray_hosts}, check=True, capture_output=True)
    assert outcome(process)[0] == 130


def test_a_cut_cable_does_not_lose_the_outcome(ray_hosts: dict[str, str], working_dir: Path) -> None:
    process = start(ray_hosts, working_dir, command=("5", "12"))
    wait_for_output(process, "greeting")
    run_script("cluster/local_hosts.sh", "cut", "0", env=ray_hosts)
    time.sleep(2)  # shorter than the cluster takes to give up a host
    run_script("cluster/local_hosts.sh", "heal", "0", env=ray_hosts)
    assert outcome(process)[0] == 5


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token"),
        ({"RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_TOKEN_PATH": ""}, "refuses this token"),
        ({"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"}, "cannot reach a Ray cluster at http://127.0.0.1:1"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    ray_hosts: dict[str, str], working_dir: Path, changed: dict[str, str], expected: str
) -> None:
    code, out, err = outcome(start({**ray_hosts, **changed}, working_dir, command=("0", "0")))
    assert (code, out) == (1, "")
    assert re.fullmatch(f"error: .*{re.escape(expected)}.*\n", err)


def test_no_log_of_the_cluster_has_what_a_job_was_given(ray_hosts: dict[str, str]) -> None:
    """Of the first job here. At level info Ray would have logged it once the job's last process had ended."""
    assert found([SECRET], Path(ray_hosts["HOSTS_STATE"])) == []
