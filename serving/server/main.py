"""The server's process: reads the flags, starts a server, and ends it in good order when a signal comes.

`python -m serving.server.main` and `tfline serve` are the same. Importing this module loads nothing heavy.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from serving.server.flags import check, parse, start_failure
from serving.server.processes import WORKER, end_with_parent, supervise
from serving.server.status import Code, StatusError

if TYPE_CHECKING:
    from serving.server.model_server import ModelServer

_UNLOAD_SECONDS = 5.0
_log = logging.getLogger("serving.server.main")  # also when this module is __main__


def serve(argv: Sequence[str], *, program: str = "tfline serve") -> int:
    """Runs a server until SIGTERM or SIGINT; a second signal cuts the draining short.

    Side effects: takes over both signals; logs on stderr, in TensorFlow's form. For the main thread. When requests or loads hang
    on, the process ends here, with the exit code, since Python would wait for their threads.

    Args:
        argv: The flags of tensorflow_model_server, and our own.
        program: The name that the usage text shows.

    Returns:
        The exit code: 0 after a signal, 255 when the server cannot start; then `Failed to start server. Error: …` is on stdout.

    Raises:
        SystemExit: After `--help`, `--version` or a bad value, see `flags.parse`.
    """
    options = parse(argv, program=program)
    _log_to_stderr()
    # SimpleQueue.put is one of the few things that a signal handler may do.
    events: queue.SimpleQueue[str | StatusError] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: events.put("signal"))
    try:
        check(options)
        if WORKER in os.environ:
            end_with_parent(events)
        elif options.processes > 1:
            return supervise(argv, options, events)
        # Nobody is served by TensorFlow's remarks on the machine's instruction set.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
        from serving.server.model_server import ModelServer

        server = ModelServer(options)
    except StatusError as error:
        return _failed(error)
    threading.Thread(target=_start, args=(server, events), name="start", daemon=True).start()
    event = events.get()
    if event == "started":
        event = events.get()
    if isinstance(event, StatusError):
        server.stop()
        return _leave(_failed(event), clean=server.unload(0))
    return _shut_down(server, options.drain_seconds, events)


def _start(server: ModelServer, events: queue.SimpleQueue[str | StatusError]) -> None:
    try:
        server.start()
    except StatusError as error:
        events.put(error)
    except Exception as error:
        _log.exception("the server cannot start")
        events.put(StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}"))
    else:
        events.put("started")


def _shut_down(server: ModelServer, seconds: float, events: queue.SimpleQueue[str | StatusError]) -> int:
    _log.info("Shutting down: requests have %g s to finish", seconds)
    done: list[bool] = []

    def drain() -> None:
        done.append(server.drain(seconds))
        events.put("drained")

    threading.Thread(target=drain, name="drain", daemon=True).start()
    # A server that was just starting may still say so, or why it did not; a second signal is impatience.
    while events.get() not in ("drained", "signal"):
        pass
    server.stop()
    clean = server.unload(_UNLOAD_SECONDS if done == [True] else 0)
    _log.info("Server stopped%s", "" if done == [True] else "; requests that had not finished were cut off")
    return _leave(0, clean=clean and done == [True])


def _failed(error: StatusError) -> int:
    print(start_failure(error), flush=True)
    return 255


def _leave(code: int, *, clean: bool) -> int:
    if not clean:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


class _Form(logging.Formatter):
    """`2026-07-01 12:00:00.123456: I serving/server/main.py:42] text`, as TensorFlow logs."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1e6)
        where = f"{record.name.replace('.', '/')}.py:{record.lineno}"
        text = f"{when}.{micros:06d}: {record.levelname[0]} {where}] {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Form())
    ours = logging.getLogger("serving")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.INFO)


if __name__ == "__main__":
    raise SystemExit(serve(sys.argv[1:], program="python -m serving.server.main"))
