"""Runs one function in a fresh Python process, so that a crash or a hang there is an error here and nothing worse.

Converters and loaders of native code can end a process (the TFLite converter is known for segmentation faults), and a model
that has to prove that it loads on its own must not meet the state of the process that trained it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from components.errors import TflineError

# The child takes over this process's sys.path before it imports anything of ours, wherever it was started.
_START = """
import ctypes, json, pathlib, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: whoever asked is gone, so is the question
request, answer = map(pathlib.Path, sys.argv[1:])
sys.path[:] = json.loads(request.read_text(encoding="utf-8"))["path"]
from components.isolate import serve
serve(request, answer)
"""


class IsolatedError(TflineError):
    """The function raised, the process died, or it took longer than allowed; the message says which, and how."""


class ProcessLost(IsolatedError):
    """The process died or had to be stopped: the function neither returned nor raised."""


def run_isolated(function: str, arguments: dict[str, Any], *, timeout_seconds: float, log: Path | None = None) -> Any:
    """Calls `module:function(**arguments)` in a fresh interpreter and returns its JSON-able result.

    Args:
        function: "package.module:name" of a module-level function, importable with this process's sys.path.
        arguments: Keyword arguments; must survive JSON.
        timeout_seconds: The process is killed after this many seconds.
        log: File that the child's output is appended to; None: this process's standard error.

    Returns:
        What the function returned, after a round trip through JSON.

    Raises:
        IsolatedError: With what the function raised, or why its result could not be sent.
        ProcessLost: With the signal that killed the process, its exit code, or the time limit.

    """
    opened = log.open("a", encoding="utf-8") if log else nullcontext(2)
    with tempfile.TemporaryDirectory(prefix="tfline-isolated-") as folder, opened as output:
        request, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        request.write_text(json.dumps({"function": function, "arguments": arguments, "path": sys.path}), encoding="utf-8")
        command = [sys.executable, "-P", "-c", _START, str(request), str(answer)]
        try:
            done = subprocess.run(command, stdout=output, stderr=output, timeout=timeout_seconds, check=False)
        except subprocess.TimeoutExpired:
            raise ProcessLost(f"{function} took longer than {timeout_seconds:g} s and was stopped") from None
        if done.returncode < 0:
            raise ProcessLost(f"{function} crashed: its process was killed by {_signal_name(-done.returncode)}")
        if not answer.exists():
            raise ProcessLost(f"{function} ended its process with exit code {done.returncode} and no answer")
        reply = json.loads(answer.read_text(encoding="utf-8"))
        if "error" in reply:
            raise IsolatedError(reply["error"])
        return reply["result"]


def serve(request: Path, answer: Path) -> None:
    """Answers one request; this is the child's side of `run_isolated`."""
    asked = json.loads(request.read_text(encoding="utf-8"))
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
