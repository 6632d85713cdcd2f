"""Runs one function in a process of its own, so that a crash or a hang there is an error here and nothing worse.

Converters and loaders of native code can end a process (the TFLite converter is known for segmentation faults), and a model
that has to prove that it loads on its own must not meet the state of the process that trained it.

That process is a fresh interpreter, or, which saves importing TensorFlow, a fork of a copy that `copy_kept` made of this process
when it had no threads yet: forked later, a lock that some thread holds would never be released.

    this process ── copy_kept ──> its copy ── one fork a function ──> the function
                 <─── socket: file names, time limit / exit code ───>
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from components.errors import TflineError

# The child takes over this process's sys.path before it imports anything of ours, wherever it was started.
_START = """
import ctypes, gc, json, pathlib, signal, sys
# The objects that TensorFlow's import makes stay: looking through them again and again, and once more at the end, is two seconds.
gc.set_threshold(50_000, 20, 100)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: whoever asked is gone, so is the question
request, answer = map(pathlib.Path, sys.argv[1:])
sys.path[:] = json.loads(request.read_text(encoding="utf-8"))["path"]
from components.isolate import serve
serve(request, answer)
gc.freeze()
"""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_FROM_OTHERS = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

# How to ask the copy, by the process that was copied: a fork of that process inherits this, but not the copy.
_copies: dict[int, socket.socket] = {}


class IsolatedError(TflineError):
    """The function raised, the process died, or it took longer than allowed; the message says which, and how."""


class ProcessLost(IsolatedError):
    """The process died or had to be stopped: the function neither returned nor raised."""


class ProcessCrashed(ProcessLost):
    """The process ended itself by a signal, such as a segmentation fault; SIGKILL and SIGTERM come from others."""


@contextmanager
def copy_kept() -> Iterator[None]:
    """For a while keeps a copy of this process, as it is now, which is what `run_isolated(..., fork=True)` forks.

    Side effects:
        One process more. None where forking could hang, because this process has threads already, or where it cannot be done.
    """
    tasks = Path("/proc/self/task")
    if not tasks.is_dir() or len(list(tasks.iterdir())) > 1:
        yield
        return
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    copy = os.fork()
    if copy == 0:
        _end_with(parent)
        ours.close()
        _fork_on_request(theirs)
        os._exit(0)
    theirs.close()
    _copies[parent] = ours
    try:
        yield
    finally:
        _copies.pop(parent).close()
        os.waitpid(copy, 0)


def run_isolated(
    function: str, arguments: dict[str, Any], *, timeout_seconds: float, log: Path | None = None, fork: bool = False
) -> Any:
    """Calls `module:function(**arguments)` in a process of its own and returns its JSON-able result.

    Args:
        function: "package.module:name" of a module-level function, importable with this process's sys.path.
        arguments: Keyword arguments; must survive JSON.
        timeout_seconds: The process is killed after this many seconds.
        log: File that the child's output is appended to; None: this process's standard error.
        fork: Whether a fork of the copy that `copy_kept` made will do, which is as this process was then, its environment
            included; without a copy it is a fresh interpreter nevertheless.

    Returns:
        What the function returned, after a round trip through JSON.

    Raises:
        IsolatedError: With what the function raised, or why its result could not be sent.
        ProcessLost: With the signal that killed the process, its exit code, or the time limit.

    """
    with tempfile.TemporaryDirectory(prefix="tfline-isolated-") as folder:
        request, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        request.write_text(json.dumps({"function": function, "arguments": arguments, "path": sys.path}), encoding="utf-8")
        ask = _ask_copy if fork and os.getpid() in _copies else _ask_fresh_interpreter
        code = ask(request, answer, log, timeout_seconds)
        if code is None:
            raise ProcessLost(f"{function} took longer than {timeout_seconds:g} s and was stopped")
        if code < 0:
            kind = ProcessLost if -code in _FROM_OTHERS else ProcessCrashed
            raise kind(f"{function} crashed: its process was killed by {_signal_name(-code)}")
        if not answer.exists():
            raise ProcessLost(f"{function} ended its process with exit code {code} and no answer")
        reply = json.loads(answer.read_text(encoding="utf-8"))
        if "error" in reply:
            raise IsolatedError(reply["error"])
        return reply["result"]


def _ask_fresh_interpreter(request: Path, answer: Path, log: Path | None, timeout_seconds: float) -> int | None:
    """The process's exit code, negative for a signal; None when it had to be stopped."""
    command = [sys.executable, "-P", "-c", _START, str(request), str(answer)]
    with log.open("a", encoding="utf-8") if log else nullcontext(2) as output:
        try:
            return subprocess.run(command, stdout=output, stderr=output, timeout=timeout_seconds, check=False).returncode
        except subprocess.TimeoutExpired:
            return None


def _ask_copy(request: Path, answer: Path, log: Path | None, timeout_seconds: float) -> int | None:
    """As `_ask_fresh_interpreter`."""
    line = json.dumps([str(request), str(answer), str(log) if log else None, timeout_seconds])
    with _copies[os.getpid()].makefile("rw", encoding="utf-8") as channel:
        channel.write(line + "\n")
        channel.flush()
        told = channel.readline()
    if not told:
        raise ProcessLost("the copy of this process that forks for it is gone")
    code: int | None = json.loads(told)
    return code


def _fork_on_request(requests: socket.socket) -> None:
    """The life of the copy: one fork a request, one after the other, until who asks has ended."""
    with requests.makefile("rw", encoding="utf-8") as channel:
        for line in channel:
            request, answer, log, timeout_seconds = json.loads(line)
            parent = os.getpid()
            child = os.fork()
            if child == 0:
                _answer_and_end(Path(request), Path(answer), log, parent)
            handle = os.pidfd_open(child)
            ended, _, _ = select.select([handle], [], [], timeout_seconds)
            if not ended:
                os.kill(child, signal.SIGKILL)
            os.close(handle)
            _, status = os.waitpid(child, 0)
            channel.write(json.dumps(os.waitstatus_to_exitcode(status) if ended else None) + "\n")
            channel.flush()


def _answer_and_end(request: Path, answer: Path, log: str | None, parent: int) -> None:
    code = 1
    try:
        _end_with(parent)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if log else 2
        os.dup2(output, 1)
        os.dup2(output, 2)
        serve(request, answer)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not back into the copy's loop, and not through the exit handlers of the process that was copied.
        os._exit(code)


def _end_with(parent: int) -> None:
    """From now on this process is killed when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def serve(request: Path, answer: Path) -> None:
    """Answers one request; this is the child's side of `run_isolated`."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    sys.path[:] = asked["path"]
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    module, name = asked["function"].split(":")
    try:
        # Encoded in here, because a result that is not JSON is an error to be told like any other.
        text = json.dumps({"result": getattr(importlib.import_module(module), name)(**asked["arguments"])})
    except Exception as error:
        traceback.print_exc()
        text = json.dumps({"error": str(error) if isinstance(error, TflineError) else f"{type(error).__name__}: {error}"})
    answer.write_text(text, encoding="utf-8")


def _signal_name(number: int) -> str:
    """`SIGSEGV` for 11; a real-time signal between the named ones as its number."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
