"""infra/mlflow_server.sh without MLflow: what it writes for it, what it says if it ends at once, and which it ends."""

import configparser
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY, free_port

PASSWORD = "100% a;b 'c' $HOME"

HEALTHY = f"""#!{sys.executable}
import http.server, sys

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

if sys.argv[1] != "-c":
    host, port = sys.argv[sys.argv.index("--host") + 1], sys.argv[sys.argv.index("--port") + 1]
    http.server.HTTPServer((host, int(port)), Answer).serve_forever()
"""


def call(command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    stores = {"MLFLOW_BACKEND_STORE_URI": "postgresql://db/mlflow", "AWS_ACCESS_KEY_ID": "key"}
    return subprocess.run(
        [str(REPOSITORY / "infra/mlflow_server.sh"), command],
        env={name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")} | stores | settings,
        capture_output=True,
        text=True,
        timeout=120,  # it waits for a living one for 300 s
    )


def test_a_server_that_ends_at_once_is_not_waited_for_and_any_password_is_kept(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" != -c ] || exit 0\necho "no such database" >&2\nexit 1\n')
    python.chmod(0o755)
    (tmp_path / "password").write_text(f" {PASSWORD} \r\n")
    settings = {
        "MLFLOW_STATE": str(tmp_path / "state"),
        "MLFLOW_PORT": str(free_port()),
        "MLFLOW_PASSWORD_FILE": str(tmp_path / "password"),
        "PYTHON": str(python),
    }
    ended = call("start", **settings)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "no such database\nmlflow_server.sh: did not start; see " in ended.stderr
    written = configparser.ConfigParser()  # as MLflow reads it
    written.read(tmp_path / "state" / "auth.ini")
    assert written["mlflow"]["admin_password"] == PASSWORD


def test_a_server_is_known_by_its_directory_whatever_address_is_asked_for_later(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(HEALTHY)
    python.chmod(0o755)
    settings = {"MLFLOW_STATE": str(tmp_path / "state"), "PYTHON": str(python)}
    started = call("start", MLFLOW_HOST="127.0.0.2", MLFLOW_PORT=str(free_port()), **settings)
    try:
        assert started.returncode == 0, started.stderr
        pid = (tmp_path / "state/pid").read_text()
        assert call("status", **settings).stdout == "mlflow: running\n"
        assert call("start", MLFLOW_PORT=str(free_port()), **settings).stdout == "mlflow: running\n"
        assert (tmp_path / "state/pid").read_text() == pid
    finally:
        call("stop", **settings)
    assert not Path(f"/proc/{pid.strip()}/exe").exists()
    assert call("status", **settings).stdout == "mlflow: stopped\n"
