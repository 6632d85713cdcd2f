"""What a store and its servers have of a model, and what may be removed of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from serving.errors import StoreError
from serving.fleet import open_instances, recover
from serving.fleet_instances import Connect, connect
from serving.fleet_state import State, changing_fleets, read_state
from serving.fleet_storage import places_of, withdrawn_in
from serving.fleet_table import FleetError
from serving.store import VersionStore, prune_together
from serving.version_folder import Version, check_model_name


@dataclass(frozen=True)
class Line:
    """One version.

    Attributes:
        version: The version in the store.
        labels: That stand for it.
        served_by: Names of the instances that serve it.
        since: When its newest label was given; without labels, when the instances that serve it began to; else None.
    """

    version: Version
    labels: tuple[str, ...]
    served_by: tuple[str, ...]
    since: datetime | None


@dataclass(frozen=True)
class Overview:
    """A model.

    Attributes:
        lines: Its versions, the newest first.
        serving: Versions by the instance's name; None: it does not answer.
        asked: Whether the instances were asked; else it is what they served when they were last seen in order.
        withdrawn: Names of the folders of versions that were taken back, in the store.
        state: What is remembered.
    """

    lines: tuple[Line, ...]
    serving: Mapping[str, tuple[int, ...] | None]
    asked: bool
    withdrawn: tuple[str, ...]
    state: State


def overview(store: Path, model: str, *, offline: bool = False, connect: Connect = connect) -> Overview:
    """Looks at a model; changes nothing, takes no lock, and needs no server.

    Args:
        store, model: Which one.
        offline: Whether the instances are left alone.
        connect: How to connect.

    Raises:
        StoreError: The store has nothing of this model.
    """
    models = VersionStore(store, check_model_name(model))
    if not models.folder.is_dir():
        known = sorted(path.name for path in store.iterdir() if path.is_dir()) if store.is_dir() else []
        raise StoreError(f"{store} has no model {model!r}; it has {', '.join(known) or 'none'}.")
    state = read_state(store, model)
    serving: dict[str, tuple[int, ...] | None] = dict(state.serves)
    if state.fleet and not offline:
        with open_instances(state.fleet, connect) as instances:
            serving = instances.serving(model)
    lines = tuple(_line(version, state, serving) for version in reversed(models.versions()))
    return Overview(lines, serving, bool(state.fleet and not offline), tuple(withdrawn_in(models.folder)), state)


def prune(
    store: Path,
    model: str,
    keep: int,
    *,
    tflite: Path | None = None,
    offline: bool = False,
    connect: Connect = connect,
) -> list[int]:
    """Removes all versions but the newest `keep`, those with a label, and those that an instance serves.

    Args:
        store, model: Which one.
        keep: At least 1.
        tflite: Root of the TFLite store, where the state does not know it.
        offline: Whether to go by what instances served when they were last seen in order, for those that do not answer.
        connect: How to connect.

    Returns:
        What was removed from the store, ascending.

    Raises:
        FleetError: An instance does not answer, and `offline` is not set; nothing was removed.
        StoreError: As `VersionStore.prune`.
    """
    models = VersionStore(store, check_model_name(model))
    with changing_fleets(store, f"prune {model}"):
        if not offline:
            recover(store, model, connect)
        state = read_state(store, model)
        protected = {*state.wanted(), *(number for versions in state.serves.values() for number in versions)}
        with open_instances(state.fleet, connect) as instances:
            rows = instances.wait(model, {}, 0)
        silent = [row.name for row in rows if row.serves is None]
        if silent and not offline:
            raise FleetError(
                f"{model}: {', '.join(silent)} cannot be asked what it serves; nothing was removed. "
                "--offline goes by what it served last.",
                rows,
            )
        protected |= {number for row in rows for number in row.serves or ()}
        for place in places_of(models, state.fleet):
            place.prune(keep, protect=protected)
        twin = Path(state.tflite) if state.tflite else (tflite / model if tflite else None)
        if twin is None or not twin.is_dir():
            return models.prune(keep, protect=protected)
        return prune_together(models, VersionStore(twin.parent, twin.name), keep, protect=protected)


def _line(version: Version, state: State, serving: Mapping[str, tuple[int, ...] | None]) -> Line:
    labels = tuple(sorted(name for name, label in state.labels.items() if label.version == version.number))
    served_by = tuple(name for name, versions in serving.items() if version.number in (versions or ()))
    times = [state.labels[name].since for name in labels] or ([state.since] if served_by and state.since else [])
    return Line(version, labels, served_by, max(times, default=None))
