"""Threads that answer requests for an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

_Job = tuple[Callable[[], Any], asyncio.Future[Any], asyncio.AbstractEventLoop]


class Workers:
    """Threads that take jobs from one queue. An executor of the standard library does the same at twice the cost a job."""

    def __init__(self, threads: int, name: str) -> None:
        """Starts the threads.

        Args:
            threads: How many, at least one.
            name: What they are called in a debugger.
        """
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, name=f"{name}-{index}", daemon=True) for index in range(max(1, threads))]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """Has a thread make the call. The future belongs to the running loop; someone else may settle it before."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._jobs.put((call, future, loop))
        return future

    def close(self) -> None:
        """Lets the threads end when the queue is empty; does not wait for them."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, future, loop = job
            try:
                result, error = call(), None
            except BaseException as raised:  # it goes to who waits for the answer
                result, error = None, raised
            try:
                loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:
                return  # The loop is closed: nobody waits any more.
            del call, future, result, error, job


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
