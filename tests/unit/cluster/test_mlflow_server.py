"""infra/mlflow_server.sh without a server: what it writes for it, and what it says if the server ends at once."""

import configparser
import os
import subprocess
from pathlib import Path

from tests.conftest import REPOSITORY, free_port

PASSWORD = "100% a;b 'c' $HOME"


def test_a_server_that_ends_at_once_is_not_waited_for_and_any_password_is_kept(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" != -c ] || exit 0\necho "no such database" >&2\nexit 1\n')
    python.chmod(0o755)
    (tmp_path / "password").write_text(f" {PASSWORD} \r\n")
    settings = {
        "MLFLOW_STATE": str(tmp_path / "state"),
        "MLFLOW_PORT": str(free_port()),
        "MLFLOW_PASSWORD_FILE": str(tmp_path / "password"),
        "MLFLOW_BACKEND_STORE_URI": "postgresql://db/mlflow",
        "AWS_ACCESS_KEY_ID": "key",
        "PYTHON": str(python),
    }
    ended = subprocess.run(
        [str(REPOSITORY / "infra/mlflow_server.sh"), "start"],
        env={name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")} | settings,
        capture_output=True,
        text=True,
        timeout=120,  # it waits for a living one for 300 s
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "no such database\nmlflow_server.sh: did not start; see " in ended.stderr
    written = configparser.ConfigParser()  # as MLflow reads it
    written.read(tmp_path / "state" / "auth.ini")
    assert written["mlflow"]["admin_password"] == PASSWORD
