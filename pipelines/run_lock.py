"""One run of a pipeline at a time: a lock file in the home folder that says who holds it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from components.errors import TflineError
from components.records import write_atomically


@contextmanager
def run_lock(home: Path, pipeline: str, run_id: str) -> Iterator[None]:
    """Holds the lock of a pipeline.

    The lock is the kernel's (flock): it ends with the process, however that ends.

    Raises:
        TflineError: Another run holds it; the message says which process, run and since when.

    Side effects:
        Makes `<home>/locks/<pipeline>.lock`, and `.json` beside it with the holder.
    """
    folder = home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    holder_file = folder / f"{pipeline}.json"
    lock = FileLock(folder / f"{pipeline}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TflineError(_refusal(holder_file, pipeline)) from None
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "run_id": run_id, "since": time.time()}
        write_atomically(holder_file, json.dumps(holder))
        yield
    finally:
        lock.release()


def _refusal(holder_file: Path, pipeline: str) -> str:
    try:
        holder = json.loads(holder_file.read_text(encoding="utf-8"))
        since = time.strftime("%H:%M:%S", time.localtime(holder["since"]))
        who = f"process {holder['pid']} on {holder['host']} since {since} (run {holder['run_id']})"
    except (OSError, ValueError, KeyError):
        who = "another process, which has not written down who it is"
    return f"a run of pipeline '{pipeline}' is under way: {who} holds its lock. Wait for it, or stop that process."
