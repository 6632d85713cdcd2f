"""--processes: several servers that share the ports by SO_REUSEPORT, since Python computes in one thread at a time.

The kernel deals out connections, not requests, so that it takes several clients or channels to keep all of them busy. Each
process loads every model. What goes to one process only, a Unix socket and HandleReloadConfigRequest, is refused; use
--model_config_file_poll_wait_seconds. GetModelStatus and metrics are those of the process that happens to be asked.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from serving.server.options import ServerOptions
from serving.server.status import StatusError, invalid

WORKER = "TFLINE_SERVER_WORKER"
"""Set in the environment of the processes that are started here."""

_log = logging.getLogger(__name__)


def supervise(argv: Sequence[str], options: ServerOptions, events: queue.SimpleQueue[str | StatusError]) -> int:
    """Runs the processes until a signal comes; ends all of them when one of them ends.

    Args:
        argv: The command line; every process gets the same.
        options: The same, parsed.
        events: Where signals arrive.

    Returns:
        The exit code: 0 after a signal, or that of the process that ended by itself.

    Raises:
        StatusError: INVALID_ARGUMENT with flags that several processes cannot share.
    """
    if options.grpc_socket_path:
        raise invalid("--grpc_socket_path cannot be shared by several --processes")
    command = [sys.executable, "-m", "serving.server.main", *argv]
    environment = {**os.environ, WORKER: "1"}
    # The pipe is never written to: its end tells a worker that nobody is left who would end it.
    workers = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)
        for _ in range(options.processes)
    ]
    for worker in workers:
        threading.Thread(target=_tell_of_end, args=(worker, events), daemon=True).start()
    asked = events.get() == "signal"
    ended = [worker.poll() for worker in workers]
    if not asked:
        _log.error("One of the %d server processes ended by itself; ending the others", options.processes)
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    while any(worker.poll() is None for worker in workers):
        if events.get() == "signal":  # a second one is passed on as well
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
    return 0 if asked else next((code for code in ended if code is not None), 1) & 255


def end_with_parent(events: queue.SimpleQueue[str | StatusError]) -> None:
    """In a worker: makes an event like a signal when the process that started it is gone."""

    def watch() -> None:
        sys.stdin.buffer.read()
        events.put("signal")

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _tell_of_end(worker: subprocess.Popen[bytes], events: queue.SimpleQueue[str | StatusError]) -> None:
    worker.wait()
    events.put("ended")
