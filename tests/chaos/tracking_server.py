"""An MLflow server for tests that take it away."""

import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from tests import programs
from tests.conftest import free_port


class Server:
    """An MLflow server on SQLite that can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._running = ExitStack()

    def start(self) -> None:
        environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        stores = [
            f"--backend-store-uri=sqlite:///{self.folder / 'mlflow.db'}",
            f"--artifacts-destination={self.folder}",
        ]
        address = ["--host=127.0.0.1", f"--port={self.port}", "--workers=1"]
        self._running.enter_context(
            programs.start(
                self.folder, programs.plain_environment() | environment, "mlflow", "server", *address, *stores
            )
        )
        end_s = time.monotonic() + programs.PATIENCE_S
        while not self.is_up():
            assert time.monotonic() < end_s, (self.folder / "err").read_text()
            time.sleep(0.1)

    def is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        self._running.close()
