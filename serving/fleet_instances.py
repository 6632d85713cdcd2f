"""A fleet's servers, as one asks them: which versions they serve, whether a version answers as it should, new labels.

All of them are asked at once, each in a thread. What a server does not answer is a result here, not an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, TypeVar

from serving.client.errors import RequestError
from serving.errors import ServingError
from serving.fleet_config import CanaryRule, Instance
from serving.server.lifecycle import State, VersionStatus
from serving.server.status import Code

T = TypeVar("T")

POLL_SECONDS = 0.2
"""Between two looks at a server that is not ready."""
_ASK_SECONDS = 3.0
GONE_SECONDS = 2.0
"""How long a server may not answer before nobody waits any more for it to come back to an old version."""


class Server(Protocol):
    """What is used of `serving.client.Client`."""

    def status(self, model: str, version: int | None = None, *, timeout: float | None = None) -> list[VersionStatus]:
        """The versions that the server knows."""

    def predict(
        self, model: str, inputs: Any, *, version: int | None, signature: str, timeout: float | None
    ) -> Mapping[str, Any]:
        """Outputs by name."""

    def reload(self, config: Any, *, timeout: float | None = None) -> None:
        """Replaces the configuration."""

    def close(self) -> None:
        """Closes the connection."""


Connect = Callable[[Instance], Server]
"""Makes a Server of an address."""


@dataclass(frozen=True)
class Canary:
    """A request and what it has to be answered.

    Attributes:
        signature: Which one is called.
        inputs, outputs: Array by name; outputs that are not named may be anything.
    """

    signature: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """What came of one instance.

    Attributes:
        name, address: Which one.
        state: Of the version in question: AVAILABLE, LOADING, END…, or "no answer".
        canary: "ok", "failed", or "-" when it was not asked.
        problem: What went wrong; "" when nothing did.
        serves: The versions that it serves at the end; None: it does not answer.
    """

    name: str
    address: str
    state: str = "-"
    canary: str = "-"
    problem: str = ""
    serves: tuple[int, ...] | None = None


def connect(instance: Instance) -> Server:
    """A client of one server, which says at once when nobody answers: who asks here asks again."""
    from serving.client.client import Client
    from serving.client.endpoints import Retry

    try:
        return Client(instance.address, retry=Retry(rounds=1), tls=instance.tls)
    except (OSError, ValueError) as error:
        raise ServingError(f"push.fleet: the certificates of instance {instance.name} cannot be used: {error}") from error


class Instances:
    """Open connections to the instances of a fleet; to be used in a `with`."""

    def __init__(self, instances: Iterable[Instance], connect: Connect = connect) -> None:
        """Args: the instances; how to connect."""
        self.all = tuple(instances)
        self._servers = {instance.name: connect(instance) for instance in self.all}
        self._threads = ThreadPoolExecutor(max(1, len(self.all)), thread_name_prefix="fleet")

    def each(self, ask: Callable[[Instance, Server], T]) -> dict[str, T]:
        """Asks all at once; the answers by the instance's name."""
        futures = {instance.name: self._threads.submit(ask, instance, self._servers[instance.name]) for instance in self.all}
        return {name: future.result() for name, future in futures.items()}

    def serving(self, model: str) -> dict[str, tuple[int, ...] | None]:
        """The versions of a model that each serves, ascending; None: it does not answer."""
        return self.each(lambda _, server: available(server, model))

    def prove(self, model: str, version: int, canaries: Sequence[Canary], rule: CanaryRule, seconds: float) -> list[Row]:
        """Waits until each has loaded a version and answers as it should; a row for each, with a problem where it does not."""
        ends = time.monotonic() + seconds

        def prove(instance: Instance, server: Server) -> Row:
            row = self._loaded(Row(instance.name, instance.address), server, model, version, ends)
            if row.problem or not canaries:
                return row
            problem = _ask_canaries(server, model, version, canaries, rule, ends)
            return replace(row, canary="failed" if problem else "ok", problem=problem)

        return list(self.each(prove).values())

    def wait(self, model: str, wanted: Mapping[str, Sequence[int]], seconds: float) -> list[Row]:
        """Waits until each serves the wanted versions, and none above them; those that do not answer are not waited for long.

        Args:
            model: Its name.
            wanted: Versions by the instance's name; one that is not in it, only what it serves is told of.
            seconds: For all together.

        Returns:
            A row for each; a problem where one that answers serves something else at the end.
        """
        ends = time.monotonic() + seconds

        def wait(instance: Instance, server: Server) -> Row:
            versions, silent = wanted.get(instance.name), time.monotonic() + GONE_SECONDS
            while True:
                found = available(server, model)
                row = Row(instance.name, instance.address, serves=found)
                good = found is not None and (
                    versions is None or (set(versions) <= set(found) and max(found, default=0) == max(versions, default=0))
                )
                if good:
                    return row
                if found is not None:
                    silent = time.monotonic() + GONE_SECONDS
                if time.monotonic() > min(ends, silent):
                    told = f"serves {_listed(found)}, not {_listed(versions or ())}" if found is not None else ""
                    return replace(row, problem=told)
                time.sleep(POLL_SECONDS)

        return list(self.each(wait).values())

    def reload(self, configs: Mapping[str, Any], seconds: float) -> dict[str, str]:
        """Gives each its configuration; what went wrong, by the instance's name."""

        def reload(instance: Instance, server: Server) -> str:
            try:
                server.reload(configs[instance.name], timeout=seconds)
            except RequestError as error:
                return f"{error.code.name}: {error.message}"
            return ""

        return {name: problem for name, problem in self.each(reload).items() if problem}

    def only(self, names: Iterable[str]) -> Instances:
        """Some of them, by the same connections, which stay this object's to close."""
        chosen, wanted = copy(self), set(names)
        chosen.all = tuple(instance for instance in self.all if instance.name in wanted)
        return chosen

    def close(self) -> None:
        """Closes the connections."""
        self._threads.shutdown()
        for server in self._servers.values():
            server.close()

    def __enter__(self) -> Instances:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _loaded(self, row: Row, server: Server, model: str, version: int, ends: float) -> Row:
        while True:
            state, problem, final = _state(server, model, version)
            if state == State.AVAILABLE.name or final:
                return replace(row, state=state, problem=problem)
            if time.monotonic() > ends:
                return replace(row, state=state, problem=problem or f"version {version} is still {state} at the deadline")
            time.sleep(POLL_SECONDS)


def available(server: Server, model: str) -> tuple[int, ...] | None:
    """The versions that a server serves, ascending; None when it does not answer."""
    try:
        statuses = server.status(model, timeout=_ASK_SECONDS)
    except RequestError as error:
        return () if error.code is Code.NOT_FOUND else None
    return tuple(sorted(status.version for status in statuses if status.state is State.AVAILABLE))


def _state(server: Server, model: str, version: int) -> tuple[str, str, bool]:
    """State of a version, what is wrong with it, and whether that is its end."""
    try:
        found = [status for status in server.status(model, timeout=_ASK_SECONDS) if status.version == version]
    except RequestError as error:
        if error.code is not Code.NOT_FOUND:
            return "no answer", f"{error.code.name}: {error.message}", False
        found = []
    if not found:
        return "not seen", "", False
    # Without an error END is what the version was before: a server that is told to serve it again may take until its next look
    # at the folder to begin.
    problem = f"{found[0].code.name}: {found[0].message}" if found[0].code is not Code.OK else ""
    return found[0].state.name, problem, bool(problem) and found[0].state is State.END


def _ask_canaries(server: Server, model: str, version: int, canaries: Sequence[Canary], rule: CanaryRule, ends: float) -> str:
    """What is wrong with the answers; "" when nothing is."""
    for canary in canaries:
        try:
            answer = server.predict(
                model,
                canary.inputs,
                version=version,
                signature=canary.signature,
                timeout=max(0.1, ends - time.monotonic()),
            )
        except (RequestError, ValueError) as error:
            told = f"{error.code.name}: {error.message}" if isinstance(error, RequestError) else str(error)
            return f"{canary.signature}: {told}"
        for name, expected in canary.outputs.items():
            problem = difference(expected, answer.get(name), rule.tolerance)
            if problem:
                return f"{canary.signature}/{name}: {problem}"
    return ""


def difference(expected: Any, got: Any, tolerance: float) -> str:
    """How an array differs from the expected one; "" when it does not, within the tolerance (absolute plus relative)."""
    import numpy as np  # here: a configuration with a fleet is read without it

    if got is None:
        return "not in the answer"
    expected, got = np.asarray(expected), np.asarray(got)
    if expected.shape != got.shape:
        return f"expected shape {list(expected.shape)}, got {list(got.shape)}"
    if expected.dtype.kind in "fc" and got.dtype.kind in "fc":
        same = np.isclose(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
        if same.all():
            return ""
        at = tuple(int(index) for index in np.argwhere(~same)[0])
        far = f"{int((~same).sum())} of {same.size} numbers differ by more than {tolerance:g}"
        return f"{far}: {expected[at]:g} expected, {got[at]:g} came"
    if expected.dtype.kind in "SO":  # fixed-width bytes have lost the zeros at their end
        expected, got = (np.asarray([bytes(item).rstrip(b"\0") for item in array.ravel()]) for array in (expected, got))
    wrong = int(np.sum(expected != got))
    return f"{wrong} of {expected.size} values differ" if wrong else ""


def _listed(versions: Sequence[int]) -> str:
    return ", ".join(map(str, versions)) or "nothing"
