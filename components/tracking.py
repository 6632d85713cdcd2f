"""Copies the journal of runs into MLflow, in a process of its own.

    python -m components.tracking watch --home DIR --run ID    follows one run; the runner starts it beside the run
    python -m components.tracking ui --home DIR [--port N]     MLflow's page over the records

The journal (records.py) is the truth, MLflow gets a copy: a tracking server that is down costs one warning, and what it missed is
written by the next run's watch, or by `tfline track`, which calls `sync`. Nothing here raises because of a tracking server.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import filelock
from pydantic import BaseModel, ConfigDict

from components.errors import TflineError, UsageError
from components.records import Journal
from components.tracking_store import (
    artifact_location,
    connected,
    explain,
    is_server,
    load,
    tracking_uri,
    ui_server,
    without_credentials,
)
from components.tracking_sync import Ledger, effective_run, lock, run_ids, snapshot

__all__ = ["SyncResult", "sync", "tracking_uri", "ui_command", "waiting", "watch", "watch_command"]

_LONGEST_PAUSE = 30.0


class SyncResult(BaseModel):
    """What one call of `sync` did.

    Attributes:
        uri: The store, without credentials.
        runs: The ids of the runs that were written, in the order of writing.
        stages: How many stages were written.
        waiting: The ids of the runs whose present state could not be written.
        reached: False when the store did not answer (or nothing had to be asked of it, with `waiting` empty).
        error: Why runs wait, "" when none does.
        notes: What people should know of the written runs, one line each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    runs: tuple[str, ...] = ()
    stages: int = 0
    waiting: tuple[str, ...] = ()
    reached: bool = False
    error: str = ""
    notes: tuple[str, ...] = ()


def waiting(home: Path) -> list[str]:
    """The ids of the runs whose present state the store does not have, the oldest first. Cheap: MLflow is not imported."""
    journal = Journal(home)
    return [run_id for run_id in run_ids(journal) if _is_behind(journal, run_id, without_credentials(tracking_uri(home)))]


def sync(home: Path, *, run_ids: Sequence[str] | None = None) -> SyncResult:
    """Writes to MLflow what it does not have yet of the runs; twice the same writes nothing twice.

    Args:
        home: The folder of the journal.
        run_ids: The runs to look at; None for all, the oldest first.

    Returns:
        What was done. Errors of the store or of a single run are told there, never raised; one run's error does not keep the
        others from being written.

    Side effects:
        Writes to the store and to tracked.json of each run written. With nothing to write, MLflow and the store are left alone.
    """
    uri, journal = tracking_uri(home), Journal(home)
    address = without_credentials(uri)
    behind = waiting(home) if run_ids is None else [run_id for run_id in run_ids if _is_behind(journal, run_id, address)]
    if not behind:
        return SyncResult(uri=address)
    written: list[str] = []
    errors: dict[str, str] = {}
    notes: list[str] = []
    stages = 0
    try:
        with connected(home) as client:
            for run_id in behind:
                try:
                    count, note = _write(client, home, run_id, address)
                except Exception as error:
                    errors[run_id] = f"run {run_id}: {explain(error, uri)}"
                    # Is it this run's fault or the store's? With a dead store, the other runs need not be tried.
                    client.search_experiments(max_results=1)
                    continue
                written.append(run_id)
                stages += count
                notes += [f"run {run_id}: {note}"] if note else []
    except Exception as error:
        left = tuple(run_id for run_id in behind if run_id not in written)
        return SyncResult(
            uri=address, runs=tuple(written), stages=stages, waiting=left, error=explain(error, uri), notes=tuple(notes)
        )
    return SyncResult(
        uri=address,
        runs=tuple(written),
        stages=stages,
        waiting=tuple(errors),
        reached=True,
        error="; ".join(errors.values()),
        notes=tuple(notes),
    )


def watch(home: Path, run_id: str, *, poll_seconds: float = 0.5) -> None:
    """Follows a run until it has ended and all is written, or has ended and the store is out of reach; earlier runs come first.

    Args:
        home: The folder of the journal.
        run_id: A run that has a record.
        poll_seconds: The pause between two looks at the journal.

    Side effects:
        Writes to the store. At the first trouble prints one line, beginning with "warning: ", to standard output, and none after
        it; tries again with pauses of up to 30 seconds while the run lasts, and once at its end.
    """
    journal = Journal(home)
    chosen: list[str] | None = None
    warned, pause, next_try = False, 0.0, 0.0
    while True:
        # Asked before the writing: whatever was noted before the end is then part of the last writing.
        ended = _has_ended(journal, run_id)
        if ended or time.monotonic() >= next_try:
            result = sync(home, run_ids=chosen)
            if result.error and not warned:
                print(f"warning: tracking: {result.error} (the next run or `tfline track` writes what is missing)", flush=True)
                warned = True
            pause = min(_LONGEST_PAUSE, pause * 2 or 1.0) if result.error else 0.0
            next_try = time.monotonic() + pause
            chosen = [run_id] if result.reached else chosen
        if ended:
            return
        time.sleep(poll_seconds)


def watch_command(home: Path, run_id: str) -> list[str]:
    """The command that follows a run; -P: a folder `components` where the user happens to be must not stand in for ours."""
    return [sys.executable, "-P", "-m", "components.tracking", "watch", "--home", str(home.resolve()), "--run", run_id]


def ui_command(home: Path, port: int = 0) -> list[str]:
    """The command that shows the records in a browser, on 127.0.0.1; port 0 takes a free one.

    Raises:
        UsageError: When MLFLOW_TRACKING_URI names a server: that one has the page.
    """
    uri = tracking_uri(home)
    if is_server(uri):
        raise UsageError(f"the records are kept by the tracking server of MLFLOW_TRACKING_URI: open {without_credentials(uri)}")
    if port == 0:
        # MLflow takes no port 0. Between here and its start the port may be taken by somebody else: it then says so and ends.
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    return [sys.executable, "-P", "-m", "components.tracking", "ui", "--home", str(home.resolve()), "--port", str(port)]


def _write(client: object, home: Path, run_id: str, address: str) -> tuple[int, str]:
    from components.tracking_mlflow import copy_run

    journal = Journal(home)
    try:
        with lock(journal):
            # Read under the lock: another process may just have written this run.
            try:
                ledger, records = Ledger(journal.run_dir(run_id), address), snapshot(journal, run_id)
            except (OSError, ValueError, TflineError) as error:
                raise TflineError(f"its records cannot be read: {' '.join(str(error).split())[:300]}") from error
            return copy_run(client, records, ledger, artifact_location(home))
    except filelock.Timeout:
        raise TflineError("another process has been writing to MLflow for this home for 30 seconds") from None


def _is_behind(journal: Journal, run_id: str, address: str) -> bool:
    try:
        return Ledger(journal.run_dir(run_id), address).note.digest != snapshot(journal, run_id).digest
    except (OSError, ValueError, TflineError):
        # What cannot be read is no reason to stop here: the writing will say what is wrong with it.
        return True


def _has_ended(journal: Journal, run_id: str) -> bool:
    try:
        return effective_run(journal, run_id).state != "running"
    except (OSError, ValueError, TflineError):
        # The run's folder was removed or broken: there is nothing to follow.
        return True


def main(arguments: Sequence[str] | None = None) -> int:
    """The two commands above; exit code 0 whatever the store does, 2 for bad usage."""
    parser = argparse.ArgumentParser(prog="python -m components.tracking", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    watching, showing = commands.add_parser("watch"), commands.add_parser("ui")
    for command in (watching, showing):
        command.add_argument("--home", type=Path, required=True)
    watching.add_argument("--run", required=True)
    watching.add_argument("--await-begin", action="store_true", help="Load MLflow, then wait for a line on standard input.")
    showing.add_argument("--port", type=int, default=5000)
    asked = parser.parse_args(arguments)
    if asked.command == "watch":
        if asked.await_begin:
            load(asked.home)
            if not sys.stdin.readline():
                return 0
        if not (Journal(asked.home).run_dir(asked.run) / "run.json").exists():
            parser.error(f"there is no run {asked.run!r} under {asked.home / 'runs'}")
        # Ctrl-C reaches every process of the terminal; the runner notes the interruption, and that is to be written, too.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        watch(asked.home, asked.run)
        return 0
    try:
        command_line, environment = ui_server(asked.home, asked.port)
    except TflineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    # In place of this process, so that whoever stops it stops the server.
    return os.execve(command_line[0], command_line, environment)  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
