"""Who answers, and how many requests are inside: what every request passes through.

A request takes no lock. It reads a table that is never changed but replaced, and is counted in a deque, whose append, pop and
length are atomic in CPython: a lock would cost more than all the rest of a hold. Loading, warming and unloading stand in nobody's
way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from serving.server.lifecycle import Loaded
from serving.server.servable import Servable
from serving.server.status import invalid, not_found


class HeldVersion:
    """A loaded version and the requests that are inside it.

    A request first counts itself and then looks whether the version is still open; `retire` first closes it and then looks
    whether anyone is inside. So one of the two sees the other, and no request is inside when `drained` is called.

    Args:
        drained: Called once, in whatever thread it happens, when after `retire` no request is inside any more.
    """

    __slots__ = ("_drained", "_inside", "_once", "_open", "loaded")

    def __init__(self, name: str, version: int, servable: Servable, drained: Callable[[], None]) -> None:
        self.loaded = Loaded(name, version, servable)
        self._drained = drained
        self._inside: deque[None] = deque()
        self._open = True
        self._once = threading.Lock()

    def enter(self) -> bool:
        """Lets a request in; False when the version is retired."""
        self._inside.append(None)
        if self._open:
            return True
        self.leave()
        return False

    def leave(self) -> None:
        """Lets go of what `enter` took."""
        self._inside.pop()
        if not self._open and not self._inside:
            self._tell()

    def retire(self) -> None:
        """Lets no further request in. The table must not name this version any more, or requests that find it would spin."""
        self._open = False
        if not self._inside:
            self._tell()

    @property
    def inside(self) -> int:
        """How many requests hold this version."""
        return len(self._inside)

    def _tell(self) -> None:
        """Calls `drained` for the first of those who saw that nobody is inside; the lock is never given back."""
        if self._once.acquire(blocking=False):
            self._drained()


class Row:
    """The versions of one model that answer; `latest` is the highest."""

    __slots__ = ("by_number", "latest")

    def __init__(self, versions: Sequence[HeldVersion]) -> None:
        self.by_number = {held.loaded.version: held for held in versions}
        self.latest = self.by_number[max(self.by_number)]


class Table:
    """All that answers now. Both mappings are replaced, never changed, so that readers need no lock.

    Attributes:
        rows: By model; a model without an available version has none.
        labels: By model, then label; each stands for a version, which need not be available.
    """

    __slots__ = ("labels", "rows")

    def __init__(self) -> None:
        self.rows: Mapping[str, Row] = {}
        self.labels: Mapping[str, Mapping[str, int]] = {}

    def put(self, name: str, versions: Sequence[HeldVersion]) -> None:
        """Replaces what answers for a model; the caller sees to it that only one thread does so at a time."""
        others = {other: row for other, row in self.rows.items() if other != name}
        self.rows = {**others, name: Row(versions)} if versions else others

    def label_version(self, name: str, label: str) -> int:
        """The version that a label stands for; StatusError INVALID_ARGUMENT when it stands for none."""
        version = self.labels.get(name, {}).get(label)
        if version is None:
            raise invalid(f"Unrecognized servable version label: {label}")
        return version

    def find(self, name: str, version: int | None) -> HeldVersion:
        """The version that answers now, not yet entered; StatusError NOT_FOUND when there is none."""
        row = self.rows.get(name)
        held = None if row is None else row.latest if version is None else row.by_number.get(version)
        if held is None:
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise not_found(f"Servable not found for request: {asked}")
        return held


class Hold:
    """The context manager of `Models.acquire`: finds and enters the version when it is entered itself."""

    __slots__ = ("_held", "_label", "_name", "_table", "_version")

    def __init__(self, table: Table, name: str, version: int | None, label: str | None) -> None:
        self._table = table
        self._name = name
        self._version = version
        self._label = label

    def __enter__(self) -> Loaded:
        """Holds the version; StatusError as `Models.acquire` says."""
        version = self._version if self._label is None else self._table.label_version(self._name, self._label)
        held = self._table.find(self._name, version)
        while not held.enter():  # retired between finding and entering; the table names its successor already
            held = self._table.find(self._name, version)
        self._held = held
        return held.loaded

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Lets go of the version."""
        self._held.leave()
