"""Versions that come, go, break and are mended in any order, and requests in many threads meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from shutil import rmtree
from typing import cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from serving.server.aspired import AspiredVersions
from serving.server.holds import Hold
from serving.server.lifecycle import Loaded, State, VersionStatus
from serving.server.sources import All, Latest, Policy, Source, look
from serving.server.status import Code, StatusError
from tests.serving.server.fake_loading import PATIENCE, FakeServable, History, Loader, publish, until


def aspired(load: Loader, *observers: Callable[[str, VersionStatus], None], retries: int = 0) -> AspiredVersions:
    return AspiredVersions(load, load_threads=0, unload_threads=0, max_retries=retries, retry_seconds=0.0, observers=observers)


def test_no_request_fails_and_none_meets_a_closed_model_during_200_swaps(tmp_path: Path) -> None:
    load, history = Loader(), History()
    versions = aspired(load, history)
    folders = {number: publish(tmp_path, number) for number in range(1, 202)}
    versions.aspire("m", {1: folders[1]})
    until(lambda: versions.available("m", 1))
    stop, problems, served = threading.Event(), [], [0] * 8

    def client(index: int) -> None:
        newest = 0
        while not stop.is_set():
            try:
                with Hold(versions.table, "m", None, None) as loaded:
                    newest, before = loaded.version, newest
                    loaded.servable.run("s", {}, ["y"])
                    if newest < before:
                        problems.append(f"back from {before} to {newest}")
                    if served[index] % 50 == 0:
                        time.sleep(0.001)
                    loaded.servable.run("s", {}, ["y"])
                served[index] += 1
            except Exception as error:
                problems.append(repr(error))

    threads = [threading.Thread(target=client, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for number in range(2, 202):
        versions.aspire("m", {number: folders[number]})
        until(lambda number=number: versions.available("m", number))  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert problems == []
    assert min(served) > 0
    assert versions.close(PATIENCE)
    assert history.wrong == []
    assert [servable.closed for _, _, servable in load.loaded] == [1] * 201


def test_a_version_that_is_wanted_again_while_its_cancelled_load_is_cleared_away_is_loaded_anew(tmp_path: Path) -> None:
    load, history = Loader(), History()
    versions, folder = aspired(load, history), publish(tmp_path, 1)
    load.gate.clear()
    versions.aspire("m", {1: folder})
    until(lambda: load.running)
    versions.aspire("m", {})
    load.close_gate.clear()
    load.gate.set()
    until(lambda: load.loaded)
    until(lambda: load.loaded[0][2].closed)
    versions.aspire("m", {1: folder})
    load.close_gate.set()
    until(lambda: versions.available("m", 1))
    assert [servable.closed for _, _, servable in load.loaded] == [1, 0]
    assert versions.close(PATIENCE)
    assert history.wrong == load.wrong == []


def test_a_version_that_is_wanted_again_while_a_request_holds_it_comes_again_after_it(tmp_path: Path) -> None:
    load, history = Loader(), History()
    versions, folder = aspired(load, history), publish(tmp_path, 1)
    versions.aspire("m", {1: folder})
    until(lambda: versions.available("m", 1))
    with Hold(versions.table, "m", None, None):
        versions.aspire("m", {})
        versions.aspire("m", {1: folder})
        assert [status.state for status in versions.statuses("m")] == [State.UNLOADING]
    until(lambda: versions.available("m", 1))
    assert [servable.closed for _, _, servable in load.loaded] == [1, 0]
    assert versions.close(PATIENCE)
    assert history.wrong == load.wrong == []


class Life(RuleBasedStateMachine):
    """Versions come, go, break and are mended while requests hold them; loads can be stopped half way."""

    def __init__(self) -> None:
        super().__init__()
        self.load, self.history, self.wrong = Loader(), History(), cast("list[str]", [])
        self.versions = aspired(self.load, self.history, self.check_availability, retries=1)
        self.policy: Policy = Latest()
        self.wanted: set[int] = set()
        self.requests: list[tuple[ExitStack, Loaded]] = []

    def check_availability(self, name: str, status: VersionStatus) -> None:
        if status.state is State.UNLOADING and self.wanted and name not in self.versions.table.rows:
            self.wrong.append(f"version {status.version} went, and none was left")

    @property
    def base(self) -> Path:
        return BASES[-1] / str(id(self))

    @initialize()
    def begin(self) -> None:
        publish(self.base, 1)
        publish(self.base, 2)
        self.poll(patient=True)

    @rule(number=st.integers(1, 4), weights=st.sampled_from(["good", "good", "bad"]), patient=st.booleans())
    def put(self, number: int, weights: str, patient: bool) -> None:
        with suppress(OSError):
            rmtree(self.base / str(number))
        publish(self.base, number, weights)
        self.poll(patient=patient)

    @rule(number=st.integers(1, 4))
    def remove(self, number: int) -> None:
        rmtree(self.base / str(number), ignore_errors=True)

    @rule(number=st.integers(1, 4))
    def corrupt(self, number: int) -> None:
        with suppress(OSError):
            (self.base / str(number) / "weights").write_text("bad")

    @rule(policy=st.sampled_from([Latest(), Latest(2), All()]))
    def choose(self, policy: Policy) -> None:
        self.policy = policy

    @rule(patient=st.booleans())
    def poll(self, patient: bool) -> None:
        self.base.mkdir(parents=True, exist_ok=True)
        found = look(Source("m", str(self.base), self.policy)).wanted
        with self.versions.changed:
            self.wanted = set(found)
            self.versions.aspire("m", found)
        if patient and self.load.gate.is_set():
            until(self.quiet)

    @rule()
    def retry(self) -> None:
        self.versions.retry_due()

    @rule()
    def stop_loads(self) -> None:
        self.load.gate.clear()

    @rule()
    def go_on(self) -> None:
        self.load.gate.set()

    @rule(version=st.one_of(st.none(), st.integers(1, 4)))
    def acquire(self, version: int | None) -> None:
        stack = ExitStack()
        try:
            loaded = stack.enter_context(Hold(self.versions.table, "m", version, None))
        except StatusError as error:
            assert error.code == Code.NOT_FOUND
        else:
            assert version in (None, loaded.version)
            self.requests.append((stack, loaded))

    @rule(index=st.integers(0, 100))
    def release(self, index: int) -> None:
        if self.requests:  # no precondition, as whether `acquire` found something depends on threads
            self.requests.pop(index % len(self.requests))[0].close()

    @rule()
    def settle(self) -> None:
        """When nothing is under way any more, what is wanted is there or has failed, and nothing else is but the last resort."""
        self.load.gate.set()
        until(self.quiet)
        now = {status.version: status for status in self.versions.statuses("m")}
        available = {number for number, status in now.items() if status.state is State.AVAILABLE}
        failed = {number for number in self.wanted if now[number].state is State.END and now[number].code != Code.OK}
        gone = {number for number in self.wanted if now[number].state is State.UNLOADING}  # wanted again, but still held
        assert self.wanted == (available & self.wanted) | failed | gone
        assert len(available - self.wanted) <= (1 if self.wanted and not available & self.wanted else 0)
        held = {loaded.version for _, loaded in self.requests}
        assert {number for number, status in now.items() if status.state is State.UNLOADING} <= held

    def quiet(self) -> bool:
        self.versions.retry_due()
        held = {loaded.version for _, loaded in self.requests}
        return all(
            status.state in (State.AVAILABLE, State.END) or (status.state is State.UNLOADING and status.version in held)
            for status in self.versions.statuses("m")
        )

    @invariant()
    def nothing_is_wrong(self) -> None:
        assert self.load.wrong == self.history.wrong == self.wrong == []
        assert all(not cast(FakeServable, loaded.servable).closed for _, loaded in self.requests)

    def teardown(self) -> None:
        self.load.gate.set()
        while self.requests:
            self.requests.pop()[0].close()
        self.wanted = set()
        assert self.versions.close(PATIENCE)
        self.nothing_is_wrong()
        assert [servable.closed for _, _, servable in self.load.loaded] == [1] * len(self.load.loaded)
        rmtree(self.base, ignore_errors=True)


BASES: list[Path] = []
"""Hypothesis makes its machines without arguments."""


def test_the_life_of_versions(tmp_path: Path) -> None:
    BASES.append(tmp_path)
    try:
        run_state_machine_as_test(
            Life,
            settings=settings(max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)),
        )
    finally:
        BASES.pop()
