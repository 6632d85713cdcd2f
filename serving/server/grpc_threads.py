"""The threads that answer gRPC: few while requests are short, more as soon as one has to wait for others that are not.

A thread of Python that computes holds up all others (the GIL), so eight threads answer a small model at half the rate of three.
But a thread that is inside a large model, or waits for a reload, holds up nobody, and then there have to be more.

    submit ──> a steady thread that is idle ──> run
        └────> waiting ──> a steady thread when it is done with its own
                   └─────> a thread of its own, when nothing of what waits has moved for PATIENCE
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 0.002
"""Seconds; longer than a small model takes."""

_Work = tuple[Future[Any], Callable[[], None]]


class FewThreads(Executor):
    """An executor with some steady threads, and extra ones for what would wait for long.

    The queue is C's and what is counted is counted in deques, whose append and pop are atomic: a condition of Python's would cost
    as much as a tenth of a request.
    """

    def __init__(self, steady: int, most: int, name: str) -> None:
        """Starts no thread yet.

        Args:
            steady: Threads that stay; at most `most`.
            most: Threads at a time.
            name: What their names begin with.
        """
        self._steady, self._most, self._name = min(steady, most), most, name
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._threads: set[threading.Thread] = set()
        self._busy: deque[None] = deque()
        self._taken = 0
        self._lock = threading.Lock()
        self._closed = False
        self._asleep = False
        self._wake = threading.Semaphore(0)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See concurrent.futures.Executor; RuntimeError after `shutdown`."""
        future: Future[T] = Future()

        def task() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:
                    future.set_exception(error)

        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._queue.put((future, task))
            if len(self._threads) < self._steady and len(self._busy) == len(self._threads):
                self._start(self._steadily)
                if len(self._threads) == self._steady < self._most:
                    threading.Thread(target=self._watch, name=f"{self._name}-watch", daemon=True).start()
        if self._asleep and len(self._busy) + self._queue.qsize() > self._steady:
            self._wake.release()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See concurrent.futures.Executor."""
        with self._lock:
            if not self._closed:
                self._closed = True
                if cancel_futures:
                    self._cancel()
                # Every steady thread, and those extra ones that have not yet taken anything, finds one.
                for _ in range(self._most):
                    self._queue.put(None)
                self._wake.release()
            threads = list(self._threads)
        for thread in threads if wait else ():
            thread.join()

    def _cancel(self) -> None:
        with suppress(Empty):
            while True:
                if work := self._queue.get_nowait():
                    work[0].cancel()

    def _start(self, run: Callable[[], None]) -> None:
        """Under the lock."""

        def thread() -> None:
            try:
                run()
            finally:
                with self._lock:
                    self._threads.discard(threading.current_thread())

        made = threading.Thread(target=thread, name=self._name, daemon=True)
        self._threads.add(made)
        made.start()

    def _steadily(self) -> None:
        while (work := self._queue.get()) is not None:
            self._do(work)

    def _once(self) -> None:
        with suppress(Empty):
            if work := self._queue.get_nowait():
                self._do(work)

    def _do(self, work: _Work) -> None:
        self._busy.append(None)
        self._taken += 1
        if self._asleep and not self._queue.empty():  # `submit` may have counted this one neither here nor there
            self._wake.release()
        work[1]()
        self._busy.pop()

    def _watch(self) -> None:
        """Gives what waits a thread of its own when nothing was taken for a while."""
        while not self._closed:
            if self._queue.empty():
                self._asleep = True
                if self._queue.empty():
                    self._wake.acquire()
                self._asleep = False
            taken = self._taken
            time.sleep(PATIENCE)
            if self._taken == taken and not self._queue.empty():
                with self._lock:
                    if len(self._threads) < self._most and not self._closed:
                        self._start(self._once)
