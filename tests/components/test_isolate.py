"""run_isolated, with functions of this file: each test starts a small interpreter, or two, without TensorFlow."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from components import isolate
from components.errors import TflineError, UsageError
from components.isolate import IsolatedError, ProcessCrashed, ProcessLost, run_isolated


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


def parents() -> list[int]:
    """This process's parent and that one's."""
    parent = os.getppid()
    status = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8")
    return [parent, int(status.rpartition(")")[2].split()[1])]


def unsendable() -> Any:
    return {Path("a"), Path("b")}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    # importmode=importlib gives this module another name; the child imports it by its file's.
    assert importlib.util.find_spec("test_isolate") is not None


class Call(Protocol):
    def __call__(self, name: str, timeout_seconds: float = 60, **arguments: Any) -> Any: ...


@pytest.fixture(params=[False, True], ids=["fresh", "fork"])
def call(request: pytest.FixtureRequest, copy: None) -> Call:
    def call(name: str, timeout_seconds: float = 60, **arguments: Any) -> Any:
        return run_isolated(f"test_isolate:{name}", arguments, timeout_seconds=timeout_seconds, fork=request.param)

    return call


@pytest.fixture
def copy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has this process copied, threads or not: none that pytest may have holds a lock that these functions need."""
    kept = isolate.copy_kept()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda _: iter(()))
        kept.__enter__()
    yield
    kept.__exit__(None, None, None)
    assert os.getpid() not in isolate._copies


def test_result_comes_back_from_another_process(call: Call) -> None:
    answer = call("echo", text="ä\n", numbers=[1, 2.5, None])
    assert answer.pop("pid") != os.getpid()
    assert answer == {"text": "ä\n", "numbers": [1, 2.5, None], "keras": "1"}


def test_setting_of_the_caller_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    assert run_isolated("test_isolate:echo", {}, timeout_seconds=60)["keras"] == "0"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fail_plainly", "ValueError: three is not two"),
        ("fail_for_the_user", "expected two, received three"),
        ("unsendable", "TypeError: Object of type set is not JSON serializable"),
        ("missing", "AttributeError: module 'test_isolate' has no attribute 'missing'"),
    ],
)
def test_error_of_the_function_is_told(call: Call, name: str, message: str) -> None:
    with pytest.raises(IsolatedError) as caught:
        call(name)
    assert str(caught.value) == message
    assert not isinstance(caught.value, ProcessLost)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGKILL, "SIGKILL"), (40, "signal 40")])
def test_signal_that_killed_the_process_is_named(call: Call, number: int, name: str) -> None:
    with pytest.raises(ProcessLost, match=f"test_isolate:die crashed: its process was killed by {name}") as caught:
        call("die", number=int(number))
    assert isinstance(caught.value, ProcessCrashed) == (number != signal.SIGKILL), "which others send, as when memory is short"


@pytest.mark.parametrize("code", [0, 7])
def test_leaving_without_an_answer_is_an_error(call: Call, code: int) -> None:
    with pytest.raises(ProcessLost, match=f"ended its process with exit code {code} and no answer"):
        call("leave", code=code)


def test_hang_is_stopped(call: Call) -> None:
    started = time.monotonic()
    with pytest.raises(ProcessLost, match="test_isolate:sleep took longer than 1 s and was stopped"):
        call("sleep", timeout_seconds=1, seconds=60)
    assert time.monotonic() - started < 20


def test_arguments_have_to_be_json(call: Call) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        call("echo", path=Path("x"))


def test_lost_process_is_an_error_for_users() -> None:
    assert issubclass(ProcessLost, TflineError)


def test_fork_is_of_the_copy(copy: None) -> None:
    first, second = (run_isolated("test_isolate:parents", {}, timeout_seconds=60, fork=True) for _ in range(2))
    assert first == second
    assert first[1] == os.getpid()
    assert run_isolated("test_isolate:parents", {}, timeout_seconds=60)[0] == os.getpid()


def test_process_with_threads_is_not_copied() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    with isolate.copy_kept():
        done.set()
        thread.join()
        assert run_isolated("test_isolate:parents", {}, timeout_seconds=60, fork=True)[0] == os.getpid()
