"""From the start to the end of a server's models: loading, swapping, retrying, failing, unloading."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree
from typing import cast

import pytest

from serving.server.lifecycle import Models, State, VersionStatus
from serving.server.manager import Manager
from serving.server.options import ServerOptions
from serving.server.status import Code
from tests.serving.server.fake_loading import (
    PATIENCE,
    FakeServable,
    Loader,
    config_of,
    model,
    publish,
    refused,
    rig,
    serving,
    states,
    until,
    written,
)


def test_the_newest_version_answers_and_goes_through_all_states(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    publish(tmp_path, 2)
    with rig(tmp_path) as it:
        it.start()
        assert serving(it.manager, "m") == 2
        assert states(it.manager, "m") == {2: State.AVAILABLE}
        assert it.manager.names() == ["m"]
        assert it.manager.ready()
        assert it.manager.config() == it.configs[0] == config_of(model("m", tmp_path))
    assert it.history.states == {("m", 2): [State.START, State.LOADING, State.AVAILABLE, State.UNLOADING, State.END]}
    assert not it.manager.ready()


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with rig(tmp_path) as it:
        it.start()
        manager = it.manager
        with refused(Code.NOT_FOUND, "Servable not found for request: Latest(x)"):
            serving(manager, "x")
        with refused(Code.NOT_FOUND, "Servable not found for request: Specific(m, 99)"):
            serving(manager, "m", 99)
        with refused(Code.INVALID_ARGUMENT, "Unrecognized servable version label: L"):
            serving(manager, "m", label="L")
        with refused(Code.INVALID_ARGUMENT, "Unrecognized servable version label: L"):
            manager.label_version("m", "L")
        with refused(Code.NOT_FOUND, "Could not find any versions of model x"):
            manager.statuses("x")
        with refused(Code.NOT_FOUND, "Could not find version 9 of model m"):
            manager.statuses("m", 9)
        assert manager.statuses("m", 1) == [VersionStatus(1, State.AVAILABLE)]


def test_a_swap_waits_for_the_new_version_and_for_requests_in_flight(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with rig(tmp_path) as it:
        it.start()
        it.load.gate.clear()
        with it.manager.acquire("m") as old:
            publish(tmp_path, 2)
            until(lambda: it.load.running)
            assert states(it.manager, "m") == {2: State.LOADING, 1: State.AVAILABLE}
            assert serving(it.manager, "m") == 1  # while the other loads
            it.load.gate.set()
            until(lambda: states(it.manager, "m") == {2: State.AVAILABLE, 1: State.UNLOADING})
            assert serving(it.manager, "m") == 2
            with refused(Code.NOT_FOUND, "Servable not found for request: Specific(m, 1)"):
                serving(it.manager, "m", 1)
            assert not cast(FakeServable, old.servable).closed
        until(lambda: states(it.manager, "m") == {2: State.AVAILABLE, 1: State.END})
        assert cast(FakeServable, old.servable).closed
        assert [status.version for status in it.manager.statuses("m")] == [2, 1]
    available, unloading = ("m", 2, State.AVAILABLE), ("m", 1, State.UNLOADING)
    assert it.history.events.index(available) < it.history.events.index(unloading)


@pytest.mark.parametrize("spoil", ["corrupt", "half", "file"])
def test_a_bad_new_version_leaves_the_old_one_serving(tmp_path: Path, spoil: str) -> None:
    publish(tmp_path, 1)
    with rig(tmp_path, max_num_load_retries=2) as it:
        it.start()
        if spoil == "corrupt":
            publish(tmp_path, 2, "bad")
        elif spoil == "half":
            (tmp_path / "2/variables").mkdir(parents=True)
        else:
            (tmp_path / "2").write_text("")
        until(lambda: State.END in states(it.manager, "m").values())
        code, message = (
            (Code.INTERNAL, "OSError: Read less bytes than requested")
            if spoil == "corrupt"
            else (Code.INVALID_ARGUMENT, "no model in 2")
        )
        assert it.manager.statuses("m") == [VersionStatus(2, State.END, code, message), VersionStatus(1, State.AVAILABLE)]
        assert serving(it.manager, "m") == 1
        assert it.manager.ready()
        assert it.load.attempts.count(("m", 2)) == 3
        publish(tmp_path, 3)
        until(lambda: states(it.manager, "m") == {3: State.AVAILABLE, 2: State.END, 1: State.END})


def test_a_version_that_failed_is_loaded_again_when_it_comes_again(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with rig(tmp_path) as it:
        it.start()
        bad = publish(tmp_path, 2, "bad")
        until(lambda: states(it.manager, "m").get(2) is State.END)
        looks = len(it.load.attempts)
        time.sleep(0.1)
        assert len(it.load.attempts) == looks  # it is not tried again while it is there
        rmtree(bad)
        time.sleep(0.1)
        publish(tmp_path, 2)
        until(lambda: states(it.manager, "m") == {2: State.AVAILABLE, 1: State.END})


def test_a_version_that_vanishes_gives_way_to_the_one_before(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    newest = publish(tmp_path, 2)
    with rig(tmp_path) as it:
        it.start()
        rmtree(newest)
        until(lambda: states(it.manager, "m") == {2: State.END, 1: State.AVAILABLE})
        assert serving(it.manager, "m") == 1


@pytest.mark.parametrize("keep", [False, True])
def test_an_emptied_base_path_unloads_unless_told_to_keep(tmp_path: Path, keep: bool) -> None:
    base = tmp_path / "base"
    publish(base, 1)
    with rig(base, keep_loaded_when_storage_vanishes=keep) as it:
        it.start()
        (base / "1").rename(tmp_path / "away")
        if keep:
            time.sleep(0.1)
            assert serving(it.manager, "m") == 1
            (tmp_path / "away").rename(base / "1")
            publish(base, 2)
            until(lambda: states(it.manager, "m") == {2: State.AVAILABLE, 1: State.END})
        else:
            until(lambda: states(it.manager, "m") == {1: State.END})
            assert not it.manager.ready()
            (tmp_path / "away").rename(base / "1")
            until(it.manager.ready)


def test_a_missing_base_path_is_logged_once_and_unloads_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = tmp_path / "base"
    publish(base, 1)
    with rig(base) as it:
        it.start()
        base.rename(tmp_path / "away")
        message = f"Could not find base path {base} for servable m with error NOT_FOUND: {base} not found"
        until(lambda: message in caplog.text)
        time.sleep(0.1)
        assert caplog.text.count(message) == 1
        assert serving(it.manager, "m") == 1


def test_failed_loads_are_retried_without_blocking_other_models(tmp_path: Path) -> None:
    publish(tmp_path / "a", 1, "bad")
    publish(tmp_path / "b", 1)
    file = written(tmp_path, model("a", tmp_path / "a"), model("b", tmp_path / "b"))
    with rig(model_config_file=file, max_num_load_retries=5, retry_seconds=0.2) as it:
        it.manager.start()
        until(lambda: it.load.attempts.count(("a", 1)) == 2)
        assert states(it.manager, "a") == {1: State.LOADING}
        assert serving(it.manager, "b") == 1
        assert not it.manager.ready()
        (tmp_path / "a/1/weights").write_text("good")
        it.manager.wait_until_loaded(PATIENCE)
        assert serving(it.manager, "a") == 1
        assert it.manager.ready()
        assert 2 <= it.load.attempts.count(("a", 1)) <= 4


def test_a_version_that_goes_while_it_waits_for_a_retry_ends_with_its_error(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with rig(tmp_path, max_num_load_retries=5, retry_seconds=3600.0) as it:
        it.start()
        bad = publish(tmp_path, 2, "bad")
        until(lambda: it.load.attempts == [("m", 1), ("m", 2)] and not it.load.running)
        rmtree(bad)
        until(lambda: states(it.manager, "m").get(2) is State.END)
        assert it.manager.statuses("m", 2)[0].message == "OSError: Read less bytes than requested"
        assert serving(it.manager, "m") == 1


def test_a_version_that_is_not_wanted_any_more_while_it_loads_never_answers(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with rig(tmp_path) as it:
        it.start()
        it.load.gate.clear()
        publish(tmp_path, 2)
        until(lambda: it.load.running)
        it.manager.reload(config_of(model("m", tmp_path, "model_version_policy { specific { versions: 1 } }")))
        time.sleep(0.1)  # for the manager to look
        it.load.gate.set()
        until(lambda: states(it.manager, "m") == {2: State.END, 1: State.AVAILABLE})
        assert it.manager.statuses("m", 2) == [VersionStatus(2, State.END, Code.CANCELLED, "Loading of servable cancelled")]
        assert [(number, servable.closed) for _, number, servable in it.load.loaded] == [(1, 0), (2, 1)]
    assert it.history.states["m", 2] == [State.START, State.LOADING, State.END]


def test_a_version_that_is_wanted_again_while_it_loads_is_loaded_once(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with rig(tmp_path) as it:
        it.start()
        it.load.gate.clear()
        newest = publish(tmp_path, 2)
        until(lambda: it.load.running)
        newest.rename(tmp_path / "away")
        time.sleep(0.1)
        (tmp_path / "away").rename(newest)
        time.sleep(0.1)
        it.load.gate.set()
        until(lambda: states(it.manager, "m") == {2: State.AVAILABLE, 1: State.END})
        assert it.load.attempts == [("m", 1), ("m", 2)]


@pytest.mark.parametrize(("threads", "together"), [(0, 1), (1, 1), (3, 3)])
def test_load_threads(tmp_path: Path, threads: int, together: int) -> None:
    for number in range(1, 6):
        publish(tmp_path / "m", number)
    file = written(tmp_path, model("m", tmp_path / "m", "model_version_policy { all {} }"))
    with rig(model_config_file=file, num_load_threads=threads, num_unload_threads=threads) as it:
        it.load.gate.clear()
        it.manager.start()
        until(lambda: len(it.load.running) == together)
        time.sleep(0.05)
        assert {number for _, number in it.load.running} == set(range(6 - together, 6))  # the highest first
        it.load.gate.set()
        until(lambda: set(states(it.manager, "m").values()) == {State.AVAILABLE})
        assert [serving(it.manager, "m", number) for number in (None, 1, 5)] == [5, 1, 5]


def test_versions_in_the_queue_that_go_are_never_loaded(tmp_path: Path) -> None:
    first, second = publish(tmp_path, 1), publish(tmp_path, 2)
    file = written(tmp_path / "c", model("m", tmp_path, "model_version_policy { all {} }"))
    with rig(model_config_file=file) as it:
        it.load.gate.clear()
        it.manager.start()
        until(lambda: it.load.running == {("m", 2)})
        rmtree(first)
        until(lambda: states(it.manager, "m") == {2: State.LOADING, 1: State.END})
        it.load.gate.set()
        until(lambda: states(it.manager, "m") == {2: State.AVAILABLE, 1: State.END})
        assert it.load.attempts == [("m", 2)]
        assert second.is_dir()


def test_a_model_that_cannot_be_loaded_stops_the_start(tmp_path: Path) -> None:
    publish(tmp_path / "a", 3, "bad")
    publish(tmp_path / "b", 1)
    file = written(tmp_path, model("a", tmp_path / "a"), model("b", tmp_path / "b"))
    said = (
        "1 model(s) did not become available: {{{name: a version: 3} due to error: INTERNAL: OSError: Read less bytes than "
        "requested}, }"
    )
    with rig(model_config_file=file, max_num_load_retries=1) as it:
        it.manager.start()
        with refused(Code.UNKNOWN, said):
            it.manager.wait_until_loaded(PATIENCE)
        assert it.load.attempts.count(("a", 3)) == 2


@pytest.mark.parametrize("spoil", ["corrupt", "empty", "missing"])
def test_one_bad_model_does_not_stop_the_others_when_told_so(tmp_path: Path, spoil: str) -> None:
    if spoil == "corrupt":
        publish(tmp_path / "a", 3, "bad")
    if spoil == "empty":
        (tmp_path / "a").mkdir()
    publish(tmp_path / "b", 1)
    file = written(tmp_path, model("a", tmp_path / "a"), model("b", tmp_path / "b"))
    with rig(model_config_file=file, tolerate_failed_models=True) as it:
        it.start()
        assert serving(it.manager, "b") == 1
        assert not it.manager.ready()
        publish(tmp_path / "a", 4)
        until(it.manager.ready)
        assert serving(it.manager, "a") == 4


def test_a_bad_model_is_tried_again_while_the_others_serve(tmp_path: Path) -> None:
    publish(tmp_path / "a", 3, "bad")
    publish(tmp_path / "b", 1)
    file = written(tmp_path, model("a", tmp_path / "a"), model("b", tmp_path / "b"))
    with rig(model_config_file=file, tolerate_failed_models=True, max_num_load_retries=5, retry_seconds=3600) as it:
        it.start()
        assert serving(it.manager, "b") == 1
        assert states(it.manager, "a") == {3: State.LOADING}


def test_the_start_waits_for_a_model_that_is_not_there_yet(tmp_path: Path) -> None:
    with rig(tmp_path / "later") as it:
        it.manager.start()
        with refused(Code.DEADLINE_EXCEEDED, "Still waiting for these models to become available: m"):
            it.manager.wait_until_loaded(0.05)
        publish(tmp_path / "later", 1)
        it.manager.wait_until_loaded(PATIENCE)
        assert it.manager.ready()


def test_closing_ends_the_wait(tmp_path: Path) -> None:
    with rig(tmp_path) as it:
        it.manager.start()
        closer = threading.Timer(0.05, it.manager.close)
        closer.start()
        with refused(Code.CANCELLED, "The server is shutting down."):
            it.manager.wait_until_loaded(PATIENCE)
        closer.join(PATIENCE)
        assert not closer.is_alive()


def test_looking_once_and_never(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with rig(tmp_path, seconds=0) as it:
        it.start()
        publish(tmp_path, 2)
        time.sleep(0.1)
        assert states(it.manager, "m") == {1: State.AVAILABLE}
        it.manager.reload(config_of(model("m", tmp_path, "model_version_policy { latest { num_versions: 2 } }")))
        until(lambda: states(it.manager, "m") == {2: State.AVAILABLE, 1: State.AVAILABLE})  # a changed source is looked at anew
    with rig(tmp_path, seconds=-1) as it:
        it.manager.start()
        time.sleep(0.1)
        assert it.load.attempts == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "/", "a/b", "..", "x" * 5000, "ä\n{}"])
def test_names_of_models_are_only_names(tmp_path: Path, name: str) -> None:
    publish(tmp_path, 1)
    with rig(tmp_path, seconds=0) as it:
        it.start()
        config = config_of(model("m", tmp_path))
        config.model_config_list.config[0].name = name
        it.manager.reload(config, PATIENCE)
        assert serving(it.manager, name) == 1
        assert sorted(child.name for child in tmp_path.iterdir()) == ["1"]


def test_an_observer_that_fails_harms_nobody(tmp_path: Path) -> None:
    publish(tmp_path, 1)

    def bad(name: str, status: VersionStatus) -> None:
        raise RuntimeError

    load = Loader()
    manager = Manager(ServerOptions(model_name="m", model_base_path=str(tmp_path)), load, observers=[bad])
    manager.start()
    manager.wait_until_loaded(PATIENCE)
    assert serving(manager, "m") == 1
    assert manager.close(PATIENCE)


def test_a_servable_that_cannot_be_closed_ends_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def close(servable: FakeServable) -> None:
        servable.closed += 1
        raise RuntimeError

    monkeypatch.setattr(FakeServable, "close", close)
    publish(tmp_path, 1)
    with rig(tmp_path) as it:
        it.start()
        publish(tmp_path, 2)
        until(lambda: states(it.manager, "m") == {2: State.AVAILABLE, 1: State.END})
        with it.manager.acquire("m") as loaded:
            assert loaded.version == 2


def test_closing_waits_for_requests_and_says_when_they_took_too_long(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with rig(tmp_path) as it:
        it.start()
        with ExitStack() as request:
            loaded = request.enter_context(it.manager.acquire("m"))
            begun = time.monotonic()
            assert it.manager.close(0.1) is False
            assert 0.1 <= time.monotonic() - begun < 5
            assert not cast(FakeServable, loaded.servable).closed
            with refused(Code.NOT_FOUND, "Servable not found for request: Latest(m)"):
                serving(it.manager, "m")
        until(lambda: cast(FakeServable, loaded.servable).closed)
        assert it.manager.close(PATIENCE) is True


def test_closing_does_not_wait_for_ever_for_a_load(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with rig(tmp_path) as it:
        it.load.gate.clear()
        it.manager.start()
        until(lambda: it.load.running)
        assert it.manager.close(0.1) is False
        it.load.gate.set()
        assert it.manager.close(PATIENCE) is True
        assert it.manager.statuses("m") == [VersionStatus(1, State.END, Code.CANCELLED, "Loading of servable cancelled")]


def test_the_manager_is_what_the_predictor_expects(tmp_path: Path) -> None:
    models: Models = Manager(ServerOptions(model_base_path=str(tmp_path)), Loader())
    assert models.names() == []
    assert not models.ready()
