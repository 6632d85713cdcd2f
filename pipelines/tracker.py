"""The process that copies a run into MLflow while the run goes on, so that nothing of MLflow holds it up."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

from components.records import Journal
from components.tracking import watch_command

# A tracking server that answers slowly must not keep a finished run from telling its result; what is left is written later.
FINISH_SECONDS = 60.0


class Tracker:
    """Starts on construction and imports MLflow; follows the run from `begin`; `finish` waits for it, after the final record.

    As a context it ends the process, if that has not begun, when the run could not start.
    """

    def __init__(self, home: Path, run_id: str) -> None:
        self.warnings: list[str] = []
        log = Journal(home).log_path(run_id, "tracking")
        with log.open("a", encoding="utf-8") as file:
            command = [*watch_command(home, run_id), "--await-begin"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True
            )

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin:
            self._tell("")
            self._process.wait()

    def begin(self) -> None:
        """To be called when the run has a record."""
        self._tell("begin\n")

    def _tell(self, line: str) -> None:
        # A tracking process that died is no reason for the run to end.
        with suppress(BrokenPipeError), self._process.stdin as pipe:  # type: ignore[union-attr]
            pipe.write(line)
        self._process.stdin = None

    def finish(self) -> None:
        """Waits until everything is written, or for a minute; keeps what the process has to say in `warnings`."""
        try:
            said, _ = self._process.communicate(timeout=FINISH_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            said, _ = self._process.communicate()
            said += "warning: MLflow is slow; `tfline track` writes what is missing\n"
        self.warnings = [line for line in said.splitlines() if line.strip()]
