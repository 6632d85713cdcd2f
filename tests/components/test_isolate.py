"""run_isolated, with functions of this file: each test starts one small interpreter, without TensorFlow."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from components.errors import TflineError, UsageError
from components.isolate import IsolatedError, ProcessLost, run_isolated


def echo(**arguments: Any) -> dict[str, Any]:
    print("noise on standard output")
    return {**arguments, "pid": os.getpid(), "keras": os.environ["TF_USE_LEGACY_KERAS"]}


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def leave(code: int) -> None:
    sys.exit(code)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def fail_plainly() -> None:
    raise ValueError("three is not two")


def fail_for_the_user() -> None:
    raise UsageError("expected two, received three")


def unsendable() -> Any:
    return {Path("a"), Path("b")}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    # importmode=importlib gives this module another name; the child imports it by its file's.
    assert importlib.util.find_spec("test_isolate") is not None


def call(name: str, timeout_seconds: float = 60, **arguments: Any) -> Any:
    return run_isolated(f"test_isolate:{name}", arguments, timeout_seconds=timeout_seconds)


def test_result_comes_back_from_another_process() -> None:
    answer = call("echo", text="ä\n", numbers=[1, 2.5, None])
    assert answer.pop("pid") != os.getpid()
    assert answer == {"text": "ä\n", "numbers": [1, 2.5, None], "keras": "1"}


def test_setting_of_the_caller_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    assert call("echo")["keras"] == "0"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fail_plainly", "ValueError: three is not two"),
        ("fail_for_the_user", "expected two, received three"),
        ("unsendable", "TypeError: Object of type set is not JSON serializable"),
        ("missing", "AttributeError: module 'test_isolate' has no attribute 'missing'"),
    ],
)
def test_error_of_the_function_is_told(name: str, message: str) -> None:
    with pytest.raises(IsolatedError) as caught:
        call(name)
    assert str(caught.value) == message
    assert not isinstance(caught.value, ProcessLost)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGKILL, "SIGKILL"), (40, "signal 40")])
def test_signal_that_killed_the_process_is_named(number: int, name: str) -> None:
    with pytest.raises(ProcessLost, match=f"test_isolate:die crashed: its process was killed by {name}"):
        call("die", number=int(number))


@pytest.mark.parametrize("code", [0, 7])
def test_leaving_without_an_answer_is_an_error(code: int) -> None:
    with pytest.raises(ProcessLost, match=f"ended its process with exit code {code} and no answer"):
        call("leave", code=code)


def test_hang_is_stopped() -> None:
    started = time.monotonic()
    with pytest.raises(ProcessLost, match="test_isolate:sleep took longer than 1 s and was stopped"):
        call("sleep", timeout_seconds=1, seconds=60)
    assert time.monotonic() - started < 20


def test_arguments_have_to_be_json() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        call("echo", path=Path("x"))


def test_lost_process_is_an_error_for_users() -> None:
    assert issubclass(ProcessLost, TflineError)
