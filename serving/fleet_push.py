"""The push to a fleet: a version counts when every instance has loaded it and answers as it should; else it is withdrawn.

1  the goal is written down: as before, without this version     a kill from here on ends as before
2  the version appears in the store, then in the instances' own folders, each by one rename
3  every instance loads it, answers the canary requests, gets the labels
4  the goal is written down: as it is now                         a kill from here on ends with the new version
5  the state is written, the goal removed
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from serving.fleet import go_for, look, open_instances, put_labels, recover, settle
from serving.fleet_config import CANARY, STABLE, FleetConfig
from serving.fleet_instances import Canary, Connect, Instances, Row, connect
from serving.fleet_state import Goal, State, changing_fleets, read_goal, read_state, write_goal
from serving.fleet_storage import WITHDRAWN, folders, places_of
from serving.fleet_table import FleetError, FleetRefused
from serving.store import MODEL_DIGEST, Published, TFLiteSource, VersionStore, publish_together, tree_digest


@dataclass(frozen=True)
class Package:
    """What is pushed.

    Attributes:
        models: Store of the SavedModels.
        tflite: Store of the TFLite files; None together with `tflite_dir`.
        model_dir, tflite_dir: The folders; see `publish_together`.
        metadata: Goes into the manifests.
    """

    models: VersionStore
    tflite: VersionStore | None
    model_dir: Path
    tflite_dir: TFLiteSource | None
    metadata: Mapping[str, str]

    def publish(self, at_least: int = 1) -> Published:
        """Publishes into the store; see `publish_together`."""
        return publish_together(self.models, self.tflite, self.model_dir, self.tflite_dir, self.metadata, at_least=at_least)


def publish(
    package: Package, fleet: FleetConfig | None = None, canaries: Sequence[Canary] = (), *, connect: Connect = connect
) -> Published:
    """Publishes a model and proves it on every instance of its fleet.

    Without a fleet it is published, and gets the label "canary" if the model has labels.

    Args:
        package: What and where to.
        fleet: The instances, base paths filled in.
        canaries: What each instance is asked, of the new version.
        connect: How to connect.

    Raises:
        FleetRefused: Not every instance took the version: it was withdrawn, and all that answer serve what they did before.
            Or an instance does not answer to begin with, or the model was rolled back: nothing was changed.
        FleetError: The same, but an instance does not serve what it did before; the next push tries to bring it there.
        StoreError: As `publish_together`, for any of the folders; no instance serves the version.
    """
    store, model = package.models.root, package.models.model
    digest = tree_digest(package.model_dir)
    with changing_fleets(store, f"push {model}"):
        recover(store, model, connect, fleet)
        state = read_state(store, model)
        refuse_rolled_back(package.models, state, package.metadata.get(MODEL_DIGEST, digest))
        if fleet is None and state == State():
            return package.publish()
        with open_instances(fleet, connect) as instances:
            return _Push(package, fleet, canaries, instances, state, digest).run()


def bring_in_order(models: VersionStore, fleet: FleetConfig | None = None, *, connect: Connect = connect) -> None:
    """Recovers from a push that was killed, if there is one; before anybody looks at what the store has. See `recover`."""
    if read_goal(models.root, models.model) is not None:
        with changing_fleets(models.root, f"push {models.model}"):
            recover(models.root, models.model, connect, fleet)


def refuse_rolled_back(models: VersionStore, state: State, digest: str) -> None:
    """Refuses an export that somebody rolled back, for as long as its folder is there; FleetRefused says what to do."""
    for each in state.withdrawn:
        folder = models.folder / f"{WITHDRAWN}{each.version}"
        if each.why == "rollback" and each.digest == digest and folder.is_dir() and models.find_export(digest) is None:
            raise FleetRefused(
                f"this model was version {each.version} of {models.model}, which was rolled back on "
                f"{each.at:%Y-%m-%d %H:%M} UTC. To push it again, remove {folder}"
            )


class _Push:
    """One push, within `changing_fleets`."""

    def __init__(
        self,
        package: Package,
        fleet: FleetConfig | None,
        canaries: Sequence[Canary],
        instances: Instances,
        state: State,
        digest: str,
    ) -> None:
        self.package, self.fleet, self.canaries, self.instances = package, fleet, canaries, instances
        self.store, self.model, self.digest = package.models.root, package.models.model, digest
        twin = str(package.tflite.folder) if package.tflite else state.tflite
        self.before = state.model_copy(update={"fleet": fleet, "tflite": twin})
        self.labels = fleet is not None and fleet.labels
        # Also where labels were given up: the servers still have them.
        self.reload = self.labels or bool(self.before.labels and fleet)
        self.found = package.models.find(digest)
        self.places = [place for place in places_of(package.models, fleet) if place.find(digest) is None]
        self.seconds = fleet.deadline_seconds if fleet else 0.0

    def run(self) -> Published:
        if self.found and not self.places:
            return self._publish_again()
        lowest = max((place.next_version() for place in self.places), default=1)
        if self.found and self.found.number < lowest:
            raise FleetRefused(
                f"version {self.found.number} is to go to a further folder of the fleet, where numbers begin at {lowest}: "
                f"{', '.join(folders(self.places))}. Nothing was changed."
            )
        served = self._preflight()
        back = Goal(
            action="push",
            digest=self.digest,
            places=self._new_places(),
            serves=served,
            reload=self.reload,
            state=self.before,
        )
        write_goal(self.store, self.model, back)
        try:
            done = self.package.publish(lowest)
            for place in self.places:
                place.publish(done.model.path, metadata=done.model.metadata, version=done.model.number)
            rows = self._prove(done.model.number, served)
        except BaseException as error:
            self._go_back(back, error)
        after = self._after(done.model.number)
        serves = {row.name: row.serves for row in rows if row.serves is not None}
        write_goal(self.store, self.model, Goal(action="push", serves=serves, reload=self.reload, state=after))
        settle(self.store, self.model, after, rows)
        return done

    def _publish_again(self) -> Published:
        """For a model that is wherever it should be: completes its TFLite version, and tells the servers of labels."""
        done = self.package.publish()
        after = self._after(done.model.number)
        problems = put_labels(self.store, self.model, after, self.instances, self.seconds) if self.reload else {}
        rows = [replace(row, problem=problems.get(row.name, "")) for row in self._look()]
        if problems:
            raise FleetRefused(f"{self.model}: not every instance took the labels.", rows)
        settle(self.store, self.model, after, rows)
        return done

    def _new_places(self) -> tuple[str, ...]:
        own = [] if self.found else [self.package.models, *([self.package.tflite] if self.package.tflite else [])]
        return folders([*self.places, *own])

    def _preflight(self) -> dict[str, tuple[int, ...]]:
        """What each serves now. One whose folder is empty may not answer yet: a server opens its port when it has a model."""
        rows = look(self.store, self.model, self.instances, reload=self.reload)
        stores = (self.package.models, *self.places)
        empty = {store.folder.resolve() for store in stores if not store.versions() and not store.foreign()}
        filled = {each.name for each in self.instances.all if Path(each.base_path).resolve() not in empty}
        silent = {row.name for row in rows if row.serves is None and row.name in filled}
        rows = [replace(row, problem="does not answer" if row.name in silent else row.problem) for row in rows]
        if any(row.problem for row in rows):
            raise FleetRefused(f"{self.model}: not every instance is ready for a push; nothing was pushed.", rows)
        return {row.name: self.before.expected(row.serves) if row.serves else () for row in rows}

    def _look(self) -> list[Row]:
        return self.instances.wait(self.model, {}, 0)

    def _after(self, number: int) -> State:
        """The state with this version: the canary, where labels are. The first stable one is what was served before it."""
        labels = self.before.numbers()
        if self.labels or (labels and self.fleet is None):
            older = [version.number for version in self.package.models.versions() if version.number < number]
            stable = labels.get(STABLE) or (older[-1] if older else number)
            return self.before.labelled({STABLE: stable, CANARY: max(number, labels.get(CANARY, 0))})
        return self.before.labelled({})

    def _prove(self, number: int, served: Mapping[str, tuple[int, ...]]) -> list[Row]:
        """A row for each instance; FleetRefused when one has a problem."""
        if self.fleet is None:
            return []
        after = self._after(number)
        ends = time.monotonic() + self.seconds
        if self.labels:
            there = self.instances.only(name for name, versions in served.items() if versions)
            needed = {number, *(after.wanted() if not self.before.labels else ())}
            self._label(number, self.before, there, self._look(), ends, also=needed)
        rows = self.instances.prove(self.model, number, self.canaries, self.fleet.canary, max(0.0, ends - time.monotonic()))
        self._check(number, rows)
        if self.reload:
            # The old versions stay until every server has the new labels: going back then needs no load, and leaves no label out.
            self._label(number, after, self.instances, rows, ends, also=self.before.wanted() if self.labels else ())
            self._label(number, after, self.instances, rows, ends)
        wanted = {row.name: after.wanted() or (number,) for row in rows}
        # All have answered in time; that the old versions go may take as long again.
        serves = {row.name: row for row in self.instances.wait(self.model, wanted, self.seconds)}
        rows = [replace(row, serves=serves[row.name].serves, problem=_end(serves[row.name])) for row in rows]
        self._check(number, rows)
        return rows

    def _label(
        self, number: int, state: State, to: Instances, rows: Sequence[Row], ends: float, also: Collection[int] = ()
    ) -> None:
        left = max(0.0, ends - time.monotonic())
        problems = put_labels(self.store, self.model, state, to, left, also=also)
        self._check(number, [replace(row, problem=problems.get(row.name, "")) for row in rows])

    def _check(self, number: int, rows: Sequence[Row]) -> None:
        bad = [row for row in rows if row.problem]
        if bad:
            raise FleetRefused(
                f"version {number} of {self.model} was not taken by {len(bad)} of {len(rows)} instances "
                f"within {self.seconds:g} s.",
                rows,
            )

    def _go_back(self, back: Goal, error: BaseException) -> None:
        """Brings everything to where it was, and raises."""
        rows = go_for(self.store, self.model, back, self.instances)
        proved = {row.name: row for row in error.rows} if isinstance(error, FleetError) else {}
        stuck = [row for row in rows if row.problem]
        told = [replace(proved.get(row.name, row), serves=row.serves, problem=_both(proved.get(row.name), row)) for row in rows]
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        if stuck:
            raise FleetError(f"{first} It was withdrawn, but not every instance serves what it did before.", told) from error
        if isinstance(error, FleetError):
            raise FleetRefused(f"{first} It was withdrawn; all that answer serve what they did before.", told) from None
        raise error


def _both(proved: Row | None, back: Row) -> str:
    return "; ".join(filter(None, (proved.problem if proved else "", back.problem)))


def _end(row: Row) -> str:
    return "stopped answering" if row.serves is None else row.problem
