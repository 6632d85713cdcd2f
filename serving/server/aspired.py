"""The life of versions, from the wish that one be loaded to its end (tensorflow_serving/core/aspired_versions_manager.cc).

    aspire ──▶ START ──▶ LOADING ──▶ AVAILABLE ──▶ UNLOADING ──▶ END
                 │          │ ▲ retry                             ▲
                 └──────────┴─┴── failed, or not wanted any more ─┘

A version that nobody wants any more is unloaded only when a wanted one is available, or when none is wanted at all
(availability_preserving_policy.cc). One that failed for good stays END for as long as it is wanted: it is not tried again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from serving.server.holds import HeldVersion, Table
from serving.server.lifecycle import State, VersionStatus
from serving.server.managed_version import ManagedVersion, to_unload
from serving.server.servable import Servable
from serving.server.status import Code, StatusError

_LOG = logging.getLogger(__name__)

Load = Callable[[str, int, Path], Servable]
"""Loads and warms up a version: name, number, folder. What it raises fails the attempt."""

Observer = Callable[[str, VersionStatus], None]
"""Is told of every change of state, in order, with the manager's lock held: it must be quick and must not call the manager."""


class AspiredVersions:
    """Brings the versions that are loaded in line with those that are wanted.

    Args:
        load: Called in a thread of its own pool, never twice at once for a version.
        load_threads: How many loads run at a time; 0 is one, as the loads then follow each other in TensorFlow Serving too.
        unload_threads: The same for `Servable.close`.
        max_retries: How often an attempt that failed is repeated.
        retry_seconds: Time between two attempts; the thread is free meanwhile.
        observers: See `Observer`.

    Attributes:
        table: What requests see.
        changed: Guards everything here and is notified of every change.
    """

    def __init__(
        self,
        load: Load,
        *,
        load_threads: int,
        unload_threads: int,
        max_retries: int,
        retry_seconds: float,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.table = Table()
        self.changed = threading.Condition()
        self._load = load
        self._max_retries = max_retries
        self._retry_seconds = retry_seconds
        self._observers = observers
        self._wanted: dict[str, Mapping[int, Path]] = {}
        self._managed: dict[str, dict[int, ManagedVersion]] = {}
        self._statuses: dict[str, dict[int, VersionStatus]] = {}
        self._loaders = ThreadPoolExecutor(max(1, load_threads), thread_name_prefix="load")
        self._unloaders = ThreadPoolExecutor(max(1, unload_threads), thread_name_prefix="unload")
        self._closing = False

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        """Says which versions of a model are wanted from now on, all others not; returns before anything is loaded."""
        with self.changed:
            if not self._closing:
                self._wanted[name] = dict(versions)
                self._settle(name)

    def statuses(self, name: str) -> list[VersionStatus]:
        """Of every version of a model that there ever was, descending; as in TensorFlow Serving, END entries stay."""
        with self.changed:
            found = self._statuses.get(name, {})
            return [found[number] for number in sorted(found, reverse=True)]

    def available(self, name: str, number: int) -> bool:
        """Whether a version answers now."""
        row = self.table.rows.get(name)
        return row is not None and number in row.by_number

    def busy(self, name: str) -> bool:
        """Whether a version of the model is to come, is there, or is going."""
        with self.changed:
            return any(version.state is not State.END for version in self._managed.get(name, {}).values())

    def failed(self, name: str) -> list[ManagedVersion]:
        """The versions that could not be loaded, descending, if nothing else of the model is available or still to come."""
        with self.changed:
            managed = self._managed.get(name, {})
            return [] if self.busy(name) else [managed[number] for number in sorted(managed, reverse=True)]

    def failing(self, name: str) -> bool:
        """Whether every version of the model that is to come has failed at least once; more attempts may follow."""
        with self.changed:
            coming = [version for version in self._managed.get(name, {}).values() if version.state is not State.END]
            return bool(coming) and all(version.failure for version in coming)

    def retry_due(self) -> float | None:
        """Begins the attempts whose time has come; returns the seconds to the next one, None when there is none to come."""
        with self.changed:
            waiting = [each for model in self._managed.values() for each in model.values() if each.retry_at is not None]
            now = time.monotonic()
            for version in waiting:
                if version.retry_at is not None and version.retry_at <= now:
                    version.retry_at = None
                    self._submit(version)
            return min((each.retry_at - now for each in waiting if each.retry_at is not None), default=None)

    def close(self, drain_seconds: float) -> bool:
        """Unloads everything; nothing is loaded afterwards.

        Args:
            drain_seconds: How long requests and a load that is under way get to finish.

        Returns:
            Whether all ended in time. If not, a thread is still inside the model, and Python would wait for it at its own end.
        """
        with self.changed:
            self._closing = True
            self._loaders.shutdown(wait=False, cancel_futures=True)
            for name in list(self._managed):
                self._wanted[name] = {}
                self._settle(name)
            done = self.changed.wait_for(lambda: not self._managed, drain_seconds)
        self._unloaders.shutdown(wait=False)
        return done

    def _settle(self, name: str) -> None:
        """Compares what a model has with what is wanted of it, and begins what follows from that."""
        wanted = self._wanted.get(name, {})
        managed = self._managed.setdefault(name, {})
        for version in list(managed.values()):
            version.aspired = version.number in wanted
            moved = version.aspired and wanted[version.number] != version.folder
            if version.state is State.END and (moved or not version.aspired):
                del managed[version.number]
            elif not version.aspired and not version.attempting and version.state in (State.START, State.LOADING):
                self._drop(version)
        for number in sorted(wanted.keys() - managed.keys(), reverse=True):
            version = managed[number] = ManagedVersion(name, number, wanted[number])
            self._set(version, State.START)
            self._submit(version)
        for version in to_unload(managed.values()):
            self._unload(version)
        if not managed:
            del self._managed[name]
        if not wanted:
            self._wanted.pop(name, None)
        self.changed.notify_all()

    def _drop(self, version: ManagedVersion) -> None:
        """Ends a version that waits for an attempt."""
        failure = version.failure or StatusError(Code.CANCELLED, "Loading of servable cancelled")
        version.retry_at = None
        del self._managed[version.name][version.number]
        self._set(version, State.END, failure)

    def _submit(self, version: ManagedVersion) -> None:
        if not self._closing:
            self._loaders.submit(self._attempt, version)

    def _attempt(self, version: ManagedVersion) -> None:
        """Loads a version, in a thread of the pool."""
        with self.changed:
            if version.state is State.END:  # dropped while it was in the queue
                return
            version.attempting = True
            version.attempts += 1
            if version.state is State.START:
                self._set(version, State.LOADING)
        try:
            servable = self._load(version.name, version.number, version.folder)
        except StatusError as error:
            self._failed(version, error)
        except Exception as error:
            self._failed(version, StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}"))
        else:
            self._loaded(version, servable)

    def _loaded(self, version: ManagedVersion, servable: Servable) -> None:
        with self.changed:
            if version.aspired and not self._closing:
                version.attempting = False
                held = HeldVersion(version.name, version.number, servable, partial(self._drained, version, servable))
                version.held = held
                self._show(version.name)
                self._set(version, State.AVAILABLE)
                self._settle(version.name)
                return
        _close(version, servable)
        with self.changed:
            self._end(version, StatusError(Code.CANCELLED, "Loading of servable cancelled"))

    def _failed(self, version: ManagedVersion, error: StatusError) -> None:
        _LOG.error("Loading servable: %s failed: %s: %s", version, error.code.name, error.message)
        with self.changed:
            # A new exception, as the frames of the one raised hold what was loaded so far, and the version may wait for long.
            version.failure = StatusError(error.code, error.message)
            version.attempting = False
            wanted = version.aspired and not self._closing
            if wanted and version.attempts <= self._max_retries:
                version.retry_at = time.monotonic() + max(0.0, self._retry_seconds)
                self.changed.notify_all()
            else:
                self._end(version, version.failure, keep=wanted)

    def _unload(self, version: ManagedVersion) -> None:
        """Takes a version out of the table; when the last request has left it, it is closed."""
        held, version.held = version.held, None
        assert held is not None
        self._show(version.name)
        self._set(version, State.UNLOADING)
        held.retire()

    def _drained(self, version: ManagedVersion, servable: Servable) -> None:
        """Called by the last request that leaves, which shall not wait for the model to be torn down."""
        try:
            self._unloaders.submit(self._tear_down, version, servable)
        except RuntimeError:  # a request that outlived `close`
            self._tear_down(version, servable)

    def _tear_down(self, version: ManagedVersion, servable: Servable) -> None:
        _close(version, servable)
        with self.changed:
            self._end(version, None)

    def _end(self, version: ManagedVersion, failure: StatusError | None, *, keep: bool = False) -> None:
        """Ends a version; with `keep` it stays known, so that one that failed and is still wanted is not begun anew."""
        version.attempting = False
        if not keep:
            del self._managed[version.name][version.number]
        self._set(version, State.END, failure)
        self._settle(version.name)

    def _show(self, name: str) -> None:
        """Puts into the table what answers for a model now."""
        self.table.put(name, [each.held for each in self._managed[name].values() if each.held is not None])

    def _set(self, version: ManagedVersion, state: State, failure: StatusError | None = None) -> None:
        version.state = state
        code, message = (failure.code, failure.message) if failure else (Code.OK, "")
        status = VersionStatus(version.number, state, code, message)
        self._statuses.setdefault(version.name, {})[version.number] = status
        _LOG.info("Servable version %s: %s%s", version, state.name, f" ({code.name}: {message})" if failure else "")
        for observer in self._observers:
            try:
                observer(version.name, status)
            except Exception:
                _LOG.exception("An observer of version states failed.")
        self.changed.notify_all()


def _close(version: ManagedVersion, servable: Servable) -> None:
    """Closes a servable; what it raises is logged, as the version ends all the same."""
    try:
        servable.close()
    except Exception:
        _LOG.exception("Unloading servable version %s failed; its memory may not be free.", version)
