"""The process that copies a run into MLflow while the run goes on, so that nothing of MLflow holds it up."""

from __future__ import annotations

import subprocess
from pathlib import Path

from components.records import Journal
from components.tracking import watch_command

# A tracking server that answers slowly must not keep a finished run from telling its result; what is left is written later.
FINISH_SECONDS = 60.0


class Tracker:
    """Starts on construction; `finish` waits for it, after the run's final record was written."""

    def __init__(self, home: Path, run_id: str) -> None:
        self.warnings: list[str] = []
        log = Journal(home).log_path(run_id, "tracking")
        with log.open("a", encoding="utf-8") as file:
            command = watch_command(home, run_id)
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True
            )

    def finish(self) -> None:
        """Waits until everything is written, or for a minute; keeps what the process has to say in `warnings`."""
        try:
            said, _ = self._process.communicate(timeout=FINISH_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            said, _ = self._process.communicate()
            said += "warning: MLflow is slow; `tfline track` writes what is missing\n"
        self.warnings = [line for line in said.splitlines() if line.strip()]
