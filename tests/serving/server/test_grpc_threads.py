"""Few threads for short tasks, more for long ones, and never one that is forgotten."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait

import pytest

from serving.server.grpc_threads import FewThreads


@pytest.fixture
def pool() -> Iterator[FewThreads]:
    made = FewThreads(2, 6, "few")
    yield made
    made.shutdown()


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("few")]


def test_answers_and_errors(pool: FewThreads) -> None:
    assert pool.submit(divmod, 7, 2).result(5) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 7, 0).result(5)


def test_short_tasks_run_in_the_steady_threads(pool: FewThreads) -> None:
    seen: set[int] = set()
    futures = [pool.submit(lambda: seen.add(threading.get_ident())) for _ in range(500)]
    wait(futures, 10)
    assert all(future.done() for future in futures)
    assert len([name for name in names() if name == "few"]) <= 2


def test_long_tasks_get_threads_of_their_own_up_to_the_limit(pool: FewThreads) -> None:
    go_on = threading.Event()
    inside: list[Future[bool]] = [pool.submit(go_on.wait, 20) for _ in range(8)]
    end = time.monotonic() + 10
    while sum(future.running() for future in inside) < 6 and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(0.05)
    assert sum(future.running() for future in inside) == 6
    go_on.set()
    assert all(future.result(10) for future in inside)
    end = time.monotonic() + 10
    while names().count("few") > 2 and time.monotonic() < end:
        time.sleep(0.005)
    assert names().count("few") == 2
    assert pool.submit(lambda: 1).result(5) == 1


def test_many_submit_at_once(pool: FewThreads) -> None:
    done: list[int] = []

    def send(start: int) -> None:
        for number in range(start, start + 200):
            pool.submit(done.append, number)

    senders = [threading.Thread(target=send, args=(1000 * index,)) for index in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    end = time.monotonic() + 10
    while len(done) < 1600 and time.monotonic() < end:
        time.sleep(0.005)
    assert sorted(done) == [1000 * index + number for index in range(8) for number in range(200)]


def test_what_waits_at_the_shutdown_is_done_or_cancelled() -> None:
    for cancel in (False, True):
        pool, go_on = FewThreads(1, 1, "few"), threading.Event()
        first, second = pool.submit(go_on.wait, 20), pool.submit(lambda: 2)
        pool.shutdown(wait=False, cancel_futures=cancel)
        with pytest.raises(RuntimeError):
            pool.submit(lambda: 3)
        go_on.set()
        assert first.result(10)
        assert second.cancelled() if cancel else second.result(10) == 2
        pool.shutdown()
    assert not names()
