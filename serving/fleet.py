"""Fleets: several servers of one model, brought from one order into another, all of them or none.

    push ──> prove on every instance ──> serves N
      └── any fails, or the push is killed ──> N withdrawn everywhere ──> serves what it served before

The push is in fleet_push.py, what is remembered in fleet_state.py, how servers are asked in fleet_instances.py. Here is what
brings a model's servers to a goal, and what people do by hand: promote, roll back.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from serving.errors import StoreError
from serving.fleet_config import CANARY, STABLE, CanaryRule, FleetConfig, Instance
from serving.fleet_instances import Connect, Instances, Row, Server, connect
from serving.fleet_reload import configuration, unknown_models, write_serving_config
from serving.fleet_state import Goal, State, Withdrawal, changing_fleets, read_goal, read_state, write_goal, write_state
from serving.fleet_storage import folders, places_of, withdraw
from serving.fleet_table import FleetError
from serving.store import VersionStore
from serving.version_folder import check_model_name

__all__ = ["FleetError", "go_for", "look", "open_instances", "promote", "put_labels", "recover", "rollback", "settle"]


def open_instances(fleet: FleetConfig | None, connect: Connect = connect) -> Instances:
    """Connections to a fleet's instances; to none without a fleet."""
    return Instances(fleet.instances if fleet else (), connect)


def recover(store: Path, model: str, connect: Connect = connect, fleet: FleetConfig | None = None) -> list[Row]:
    """Brings in order what a change that was killed left behind; within `changing_fleets`.

    Args:
        store: Root of the store.
        model: The model's name.
        connect: How to connect.
        fleet: The instances to ask, where they are others now than those of the change.

    Returns:
        A row for each instance; [] when nothing was left.

    Raises:
        FleetError: Instances that answer do not serve what they should; the next change tries again.
        StoreError: A version cannot be withdrawn.
    """
    goal = read_goal(store, model)
    if goal is None:
        return []
    if fleet is not None and goal.state.fleet is not None:
        goal = goal.model_copy(update={"state": goal.state.model_copy(update={"fleet": fleet})})
    with open_instances(goal.state.fleet, connect) as instances:
        rows = go_for(store, model, goal, instances)
    if any(row.problem for row in rows):
        raise FleetError(f"{model}: what was left of an unfinished change ({goal.action}) cannot be brought in order.", rows)
    return rows


def go_for(store: Path, model: str, goal: Goal, instances: Instances) -> list[Row]:
    """Brings storage, servers and state to a goal; within `changing_fleets`. May be repeated.

    Returns:
        A row for each instance, with a problem where it answers and is not where it should be: then the goal stays written down.

    Raises:
        StoreError: A version cannot be withdrawn.
    """
    state = withdraw_for(store, model, goal)
    seconds = state.fleet.deadline_seconds if state.fleet else 0.0
    problems = put_labels(store, model, state, instances, seconds) if goal.reload else {}
    rows = [
        replace(row, problem=row.problem or (problems.get(row.name, "") if row.serves is not None else ""))
        for row in instances.wait(model, goal.serves, seconds)
    ]
    if not any(row.problem for row in rows):
        settle(store, model, state, rows)
    return rows


def withdraw_for(store: Path, model: str, goal: Goal) -> State:
    """Does what a goal says of storage, and returns its state with what was withdrawn; the files of both stay as they are."""
    known = {(each.version, each.digest): each for each in (*read_state(store, model).withdrawn, *goal.state.withdrawn)}
    for folder in goal.places:
        for version, digest in withdraw(Path(folder), digest=goal.digest, above=goal.above):
            if Path(folder).resolve() == (store / model).resolve():
                known[version, digest] = Withdrawal(version=version, digest=digest, why=goal.why, at=datetime.now(UTC))
    return goal.state.model_copy(update={"withdrawn": tuple(known.values())})


def settle(store: Path, model: str, state: State, rows: Sequence[Row]) -> None:
    """Writes down that a change is finished: the state, and what each instance serves."""
    serves = {row.name: row.serves for row in rows if row.serves is not None}
    old = read_state(store, model)
    since = old.since if (old.serves, old.fleet) == (serves, state.fleet) and old.since else datetime.now(UTC)
    state = state.model_copy(update={"serves": serves, "since": since})
    write_state(store, model, state)
    write_serving_config(store, model, state)
    write_goal(store, model, None)


def put_labels(
    store: Path,
    model: str,
    state: State,
    instances: Instances,
    seconds: float,
    *,
    also: Collection[int] = (),
) -> dict[str, str]:
    """Gives the servers the versions that the labels of a state stand for, and the labels.

    Args:
        store, model: Which one.
        state: Has the labels; without any, servers get their newest version and no label.
        instances: The servers.
        seconds: For all together.
        also: Versions to load beside those.

    Returns:
        What went wrong, by the instance's name.
    """
    ends = time.monotonic() + seconds

    def left() -> float:
        return max(0.0, ends - time.monotonic())

    labels = state.numbers()
    versions = {*labels.values(), *also} if labels else set(also)

    def configs(labels: Mapping[str, int]) -> dict[str, object]:
        return {each.name: configuration(store, model, each, versions, labels) for each in instances.all}

    final = configs(labels)
    problems = instances.reload(final, left())
    if not problems or not labels:
        return problems
    # A label needs its version loaded, and a server that was restarted has only the newest.
    behind = instances.only(problems)
    problems = behind.reload(configs({}), left())
    for version in sorted(set(labels.values())):
        behind = behind.only({each.name for each in behind.all} - problems.keys())
        problems |= {row.name: row.problem for row in behind.prove(model, version, (), CanaryRule(), left()) if row.problem}
    return problems | behind.only({each.name for each in behind.all} - problems.keys()).reload(final, left())


def look(store: Path, model: str, instances: Instances, *, reload: bool) -> list[Row]:
    """What each instance serves, before anything is changed; a problem where a reload would take other models away."""

    def check(each: Instance, _: Server) -> str:
        return unknown_models(each, configuration(store, model, each, (), {})) if reload else ""

    problems = instances.each(check)
    return [replace(row, problem=problems[row.name]) for row in instances.wait(model, {}, 0)]


def promote(store: Path, model: str, version: int | None = None, *, connect: Connect = connect) -> tuple[int, list[Row]]:
    """Makes a version the stable one: the canary, unless one is named.

    Without a fleet the label is for the embedded server, which `tfline serve MODEL` starts with it.

    Returns:
        The version, and a row for each instance.

    Raises:
        StoreError: There is no such version.
        FleetError: The fleet has no labels, or not every instance took the new ones; then they have the old ones.
    """
    models = VersionStore(store, check_model_name(model))
    with changing_fleets(store, f"promote {model}"):
        recover(store, model, connect)
        state = read_state(store, model)
        if state.fleet and not state.fleet.labels:
            raise FleetError(
                f"The fleet of {model} has no labels: every push serves at once. `push.fleet.labels: true` changes that."
            )
        chosen = _candidate(models, state) if version is None else version
        models.get(chosen)
        latest = models.latest()
        canary = state.numbers().get(CANARY) or (latest.number if latest else chosen)
        after = state.labelled({STABLE: chosen, CANARY: max(chosen, canary)})
        with open_instances(state.fleet, connect) as instances:
            _refuse_silent(model, look(store, model, instances, reload=True))
            back = Goal(
                action=f"promote {chosen}",
                serves={name: state.expected(served) for name, served in state.serves.items()},
                reload=True,
                state=state,
            )
            write_goal(store, model, back)
            try:
                rows = _put(store, model, state, after, instances)
            except BaseException as error:
                rows = go_for(store, model, back, instances)
                if isinstance(error, FleetError):
                    raise FleetError(
                        f"{model}: version {chosen} is not stable now; the labels are as before.", error.rows
                    ) from None
                raise
            settle(store, model, after, rows)
            return chosen, rows


def rollback(
    store: Path, model: str, version: int | None = None, *, tflite: Path | None = None, connect: Connect = connect
) -> tuple[int, list[Row]]:
    """Goes back to an earlier version: all above it are withdrawn everywhere, and labels that stood for them now stand for it.

    Instances that do not answer are not waited for: they find the versions gone when they are back.

    Args:
        store, model: Which one.
        version: None for the stable one where labels are and a newer one is the canary, else the one before the newest.
        tflite: Root of the TFLite store, where the state does not know it.
        connect: How to connect.

    Returns:
        The version, and a row for each instance; those that serve something else have a problem.

    Raises:
        StoreError: There is no such version here or at an instance; nothing was changed.
    """
    models = VersionStore(store, check_model_name(model))
    with changing_fleets(store, f"roll back {model}"):
        goal = read_goal(store, model)
        if goal is not None:  # its withdrawals; its waiting is ours now
            write_state(store, model, withdraw_for(store, model, goal))
            write_goal(store, model, None)
        state = read_state(store, model)
        chosen = _before(models, state) if version is None else version
        places = places_of(models, state.fleet)
        for place in (models, *places):
            place.get(chosen)
        labels = {name: min(number, chosen) for name, number in state.numbers().items()}
        after = state.labelled(labels)
        twin = Path(state.tflite) if state.tflite else (tflite / model if tflite else None)
        forward = Goal(
            action=f"roll back to {chosen}",
            why="rollback",
            above=chosen,
            places=(*folders([models, *places]), *([str(twin)] if twin else [])),
            serves={each.name: after.wanted() or (chosen,) for each in (state.fleet.instances if state.fleet else ())},
            reload=bool(state.fleet and state.labels),
            state=after,
        )
        write_goal(store, model, forward)
        with open_instances(state.fleet, connect) as instances:
            return chosen, go_for(store, model, forward, instances)


def _put(store: Path, model: str, before: State, after: State, instances: Instances) -> list[Row]:
    """Loads what the new labels need beside the old ones, then moves the labels; FleetError when an instance does not."""
    seconds = before.fleet.deadline_seconds if before.fleet else 0.0
    fresh = sorted(set(after.wanted()) - set(before.wanted()))
    problems = put_labels(store, model, before, instances, seconds, also=fresh) if fresh else {}
    rows: list[Row] = []
    for version in fresh:
        rows = instances.prove(model, version, (), CanaryRule(), seconds)
        problems |= {row.name: row.problem for row in rows if row.problem}
    # The old versions stay until every server has the new labels: going back then needs no load, and leaves no label out.
    problems = problems or put_labels(store, model, after, instances, seconds, also=before.wanted())
    problems = problems or put_labels(store, model, after, instances, seconds)
    rows = instances.wait(model, {} if problems else {each.name: after.wanted() for each in instances.all}, seconds)
    rows = [replace(row, problem=problems.get(row.name, row.problem or _silent(row))) for row in rows]
    if any(row.problem for row in rows):
        raise FleetError("", rows)
    return rows


def _refuse_silent(model: str, rows: Sequence[Row]) -> None:
    rows = [replace(row, problem=_silent(row) or row.problem) for row in rows]
    if any(row.problem for row in rows):
        raise FleetError(f"{model}: not every instance is ready for a change; nothing was changed.", rows)


def _silent(row: Row) -> str:
    return "does not answer" if row.serves is None else ""


def _candidate(models: VersionStore, state: State) -> int:
    latest = models.latest()
    if latest is None:
        raise StoreError(f"{models.model} has no version in {models.root}.")
    return state.numbers().get(CANARY, latest.number)


def _before(models: VersionStore, state: State) -> int:
    numbers = [version.number for version in models.versions()]
    stable = state.numbers().get(STABLE)
    if stable is not None and numbers and stable < numbers[-1] and stable in numbers:
        return stable
    if len(numbers) < 2:
        raise StoreError(
            f"{models.model} has no version to go back to in {models.root}: {numbers[0] if numbers else 'none'} is all."
        )
    return numbers[-2]
