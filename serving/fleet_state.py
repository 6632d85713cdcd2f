"""What tfline remembers of a model's servers, and what it was about to do when it was killed.

    <store>/<model>/.fleet.json    the fleet, the labels, what was withdrawn: State
    <store>/<model>/.fleet-goal.json   while something is changed: where to go if it is not finished: Goal
    <store>/.fleet.lock            held by whoever changes a fleet of this store (flock: it ends with its process)

Every change first writes down the goal that a recovery would go for. For a push that is the state before, until every instance
has proved the new version; from then on it is the state after. So whoever comes next, after a kill at any moment, only has to go
for the goal that it finds (fleet.py). All files appear by rename.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from serving.errors import StoreError
from serving.fleet_config import FleetConfig
from serving.manifest import fsync_folder, write_file
from serving.store import VersionStore
from serving.version_folder import Version, check_model_name

_STATE, _GOAL, _LOCK = ".fleet.json", ".fleet-goal.json", ".fleet.lock"


class Label(BaseModel):
    """A label: the version that it stands for, and since when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    since: AwareDatetime


class Withdrawal(BaseModel):
    """A version that was taken back.

    Attributes:
        version: Its number.
        digest: Of the export that it was made from.
        why: "push": instances did not take it; "rollback": somebody said so. A model of the second kind is not pushed again.
        at: When.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    digest: str
    why: Literal["push", "rollback"]
    at: AwareDatetime


class State(BaseModel):
    """A model's servers, as tfline left them.

    Attributes:
        fleet: The fleet of the last push; None when it went into the store only.
        labels: By name.
        serves: What each instance served when it was last seen in order: versions by its name.
        since: When that was so for the first time.
        tflite: The model's folder in the TFLite store; "" when there is none.
        withdrawn: Oldest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    fleet: FleetConfig | None = None
    labels: dict[str, Label] = Field(default_factory=dict)
    serves: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    since: AwareDatetime | None = None
    tflite: str = ""
    withdrawn: tuple[Withdrawal, ...] = ()

    def wanted(self) -> tuple[int, ...]:
        """The versions that labels stand for, ascending."""
        return tuple(sorted({label.version for label in self.labels.values()}))

    def expected(self, served: Sequence[int]) -> tuple[int, ...]:
        """What a server that serves these, ascending, is to serve: an older one without a label is about to go."""
        return self.wanted() or tuple(served[-1:])

    def numbers(self) -> dict[str, int]:
        """Versions by label."""
        return {name: label.version for name, label in self.labels.items()}

    def labelled(self, versions: Mapping[str, int]) -> State:
        """The same with these labels; one that stays keeps its time."""
        now = datetime.now(UTC)
        old = self.labels
        labels = {
            name: old[name] if name in old and old[name].version == version else Label(version=version, since=now)
            for name, version in versions.items()
        }
        return self.model_copy(update={"labels": labels})


class Goal(BaseModel):
    """Where to go when a change is not finished.

    Attributes:
        action: What was being done, for people.
        why: As `Withdrawal` has it.
        digest: Versions with this digest are withdrawn, ...
        above: ... and those above this number; both only in `places`.
        places: Folders of versions, of models or TFLite files.
        serves: What each instance is to serve at the end, versions by its name; those that are not named are not waited for.
        reload: Whether the servers get their configuration, with the labels of `state`.
        state: The state at the end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    action: str
    why: Literal["push", "rollback"] = "push"
    digest: str = ""
    above: int | None = None
    places: tuple[str, ...] = ()
    serves: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    reload: bool = False
    state: State


_Record = TypeVar("_Record", State, Goal)


def read_state(store: Path, model: str) -> State:
    """What is remembered of a model; an empty State when nothing is; StoreError when the file is damaged."""
    return _read(store / check_model_name(model) / _STATE, State) or State()


def read_goal(store: Path, model: str) -> Goal | None:
    """The goal of a change that was not finished, or is under way; None when there is none."""
    return _read(store / check_model_name(model) / _GOAL, Goal)


def proved(models: VersionStore) -> list[Version]:
    """The versions that count, ascending: all but one that is being pushed to a fleet, or whose push was killed."""
    goal = read_goal(models.root, models.model)
    own = models.folder.resolve()
    left_out = goal.digest if goal and any(Path(place).resolve() == own for place in goal.places) else ""
    return [version for version in models.versions() if version.digest != left_out]


def states(store: Path) -> dict[str, State]:
    """What is remembered of every model in a store."""
    return {path.parent.name: read_state(store, path.parent.name) for path in sorted(store.glob(f"*/{_STATE}"))}


def write_state(store: Path, model: str, state: State) -> None:
    """Replaces the state; within `changing_fleets`."""
    _write(store / model / _STATE, state)


def write_goal(store: Path, model: str, goal: Goal | None) -> None:
    """Replaces the goal, or removes it; within `changing_fleets`."""
    path = store / model / _GOAL
    if goal is not None:
        _write(path, goal)
    elif path.exists():
        path.unlink()
        fsync_folder(path.parent)


@contextmanager
def changing_fleets(store: Path, action: str, timeout: float = 60.0) -> Iterator[None]:
    """Holds the lock of a store's fleets; makes the store's folder. One lock for all models, as instances may serve several.

    Raises:
        StoreError: It was not to be had within `timeout` seconds, or the folder cannot be written.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        with FileLock(store / _LOCK, timeout=timeout):
            yield
    except Timeout:
        raise StoreError(
            f"Cannot {action}: another process has been changing the servers of {store} for {timeout:g} s. "
            "Try again when it is done."
        ) from None
    except OSError as error:
        raise StoreError(f"Cannot {action}: {error}") from error


def _write(path: Path, record: BaseModel) -> None:
    part = path.with_name(f"{path.name}.part")  # only one process writes here at a time
    path.parent.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)
    write_file(part, record.model_dump_json(indent=1))
    part.replace(path)
    fsync_folder(path.parent)


def _read(path: Path, kind: type[_Record]) -> _Record | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise StoreError(
            f"{path} is damaged ({where}: {first['msg']}). Move it away; what it said of labels is then gone."
        ) from None
    except OSError as error:
        raise StoreError(f"Cannot read {path}: {error.strerror}") from error
