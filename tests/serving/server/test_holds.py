"""Counting requests in and out of versions, whatever the order in which threads come."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import cast

import pytest

from serving.server.holds import HeldVersion, Hold, Table
from serving.server.servable import Servable
from serving.server.status import StatusError

NOTHING = cast(Servable, object())


@pytest.fixture
def busy_switching() -> Iterator[None]:
    """Threads take turns every microsecond, not every five milliseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def held(calls: list[str], number: int = 1) -> HeldVersion:
    return HeldVersion("m", number, NOTHING, lambda: calls.append("drained"))


def test_a_version_is_drained_once_when_the_last_request_has_left() -> None:
    calls: list[str] = []
    version = held(calls)
    assert version.enter()
    assert version.enter()
    version.retire()
    assert version.inside == 2
    version.leave()
    assert calls == []
    assert not version.enter()
    version.leave()
    assert calls == ["drained"]
    assert not version.enter()
    version.retire()
    assert calls == ["drained"]
    assert version.inside == 0


def test_an_idle_version_is_drained_at_once() -> None:
    calls: list[str] = []
    held(calls).retire()
    assert calls == ["drained"]


def test_a_request_that_finds_a_version_which_has_just_gone_takes_its_successor() -> None:
    table = Table()

    class Going(HeldVersion):
        def enter(self) -> bool:
            table.put("m", [held([], 2)])
            self.retire()
            return super().enter()

    table.put("m", [Going("m", 1, NOTHING, lambda: None)])
    with Hold(table, "m", None, None) as loaded:
        assert loaded.version == 2
    table.put("m", [Going("m", 1, NOTHING, lambda: None)])
    with pytest.raises(StatusError, match=r"Servable not found for request: Specific\(m, 1\)"), Hold(table, "m", 1, None):
        pass


def test_what_fails_inside_lets_go_all_the_same() -> None:
    table, version = Table(), held([])
    table.put("m", [version])
    with pytest.raises(ZeroDivisionError), Hold(table, "m", None, None):
        assert version.inside == 1
        raise ZeroDivisionError
    assert version.inside == 0


@pytest.mark.usefixtures("busy_switching")
def test_nobody_is_inside_a_drained_version_whatever_the_order() -> None:
    wrong: list[str] = []
    for _ in range(300):
        gone: list[str] = []
        version, start = held(gone), threading.Barrier(4)

        def client(version: HeldVersion = version, start: threading.Barrier = start, gone: list[str] = gone) -> None:
            start.wait()
            while version.enter():
                if gone:
                    wrong.append("drained with a request inside")
                version.leave()

        threads = [threading.Thread(target=client) for _ in range(3)]
        for thread in threads:
            thread.start()
        start.wait()
        version.retire()
        for thread in threads:
            thread.join(20)
        assert gone == ["drained"]
    assert wrong == []
