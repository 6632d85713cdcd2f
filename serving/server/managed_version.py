"""What the server knows of one version, and which versions may go without taking a model's availability away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serving.server.holds import HeldVersion
from serving.server.lifecycle import State
from serving.server.status import StatusError


@dataclass(eq=False)
class ManagedVersion:
    """A version between the first wish and its end.

    Attributes:
        aspired: Whether it is still wanted.
        attempts: How often loading it was begun.
        attempting: Whether a thread is loading it now, which cannot be broken off.
        retry_at: time.monotonic() of the next attempt; None when none is to come.
        failure: Why the last attempt failed.
        held: What requests hold; there from AVAILABLE to UNLOADING.
    """

    name: str
    number: int
    folder: Path
    aspired: bool = True
    state: State = State.START
    attempts: int = 0
    attempting: bool = False
    retry_at: float | None = None
    failure: StatusError | None = None
    held: HeldVersion | None = None

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.number}}}"


def to_unload(versions: Iterable[ManagedVersion]) -> list[ManagedVersion]:
    """Those versions of one model that can go without taking its availability away, lowest first.

    They are those that are not wanted any more, once a wanted one is available or when none is wanted at all; until then the
    highest of them stays (tensorflow_serving/core/availability_preserving_policy.cc).
    """
    versions = list(versions)
    available = [version for version in versions if version.state is State.AVAILABLE]
    leaving = sorted((version for version in available if not version.aspired), key=lambda version: version.number)
    replaced = any(version.aspired for version in available) or not any(version.aspired for version in versions)
    return leaving if replaced else leaving[:-1]
