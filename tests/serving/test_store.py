"""The version store under kills, races and hands: versions stay whole and in order whatever happens to whoever writes them."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import multiprocessing
import os
import shutil
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving.manifest import MANIFEST, MAX_VERSION, FileEntry, digest_of, read_manifest
from serving.store import (
    MODEL_DIGEST,
    Published,
    StoreError,
    VersionStore,
    check_model_name,
    prune_together,
    publish_together,
    tree_digest,
)

KILLED = 9


def saved_model(folder: Path, content: object) -> Path:
    """A folder laid out like a SavedModel: an empty folder, a nested file, a file larger than a write buffer."""
    (folder / "variables").mkdir(parents=True)
    (folder / "assets").mkdir()
    (folder / "saved_model.pb").write_bytes(f"graph {content}".encode() * 2000)
    (folder / "variables" / "variables.index").write_text(f"weights {content}")
    return folder


def tflite_model(folder: Path, content: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_text(f"flatbuffer {content}")
    return folder


def run_killed(action: Callable[[], object], kill_at: int, *, torn: bool = False) -> int:
    """Runs an action in a fork that dies before its `kill_at`-th change of the file system; returns the exit code: KILLED, or 0.

    An audit hook sees every change whatever function makes it, and os._exit lets no finally and no buffer flush run. With
    `torn`, a death at an fsync cuts that file in half first, and one at a truncating open empties it, as a death in the middle of
    the write would have left it.
    """
    child = os.fork()
    if child == 0:
        try:
            _die_at(kill_at, torn)
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), f"the child failed instead of dying: {code}"
    return code


def _die_at(kill_at: int, torn: bool) -> None:
    count = itertools.count(1)
    changes = {"os.rename", "os.mkdir", "os.remove", "os.rmdir"}
    fsync = os.fsync

    def hook(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (event in changes or writes) and next(count) == kill_at:
            if torn and event == "open" and args[2] & os.O_TRUNC and Path(args[0]).exists():
                os.truncate(args[0], 0)
            os._exit(KILLED)

    def counted_fsync(fd: Any) -> None:
        if next(count) == kill_at:
            status = os.fstat(fd)
            if torn and stat.S_ISREG(status.st_mode):
                os.ftruncate(fd, status.st_size // 2)
            os._exit(KILLED)
        fsync(fd)

    os.fsync = counted_fsync
    sys.addaudithook(hook)


def leftovers(store: VersionStore) -> list[str]:
    return sorted(path.name for path in store.folder.glob(".*") if path.name not in (".lock", ".mark.json"))


class Line:
    """A model store and its TFLite store in one folder, with sources to publish from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = VersionStore(folder / "models", "digits")
        self.tflite = VersionStore(folder / "tflite", "digits")

    def sources(self, content: object) -> tuple[Path, Path]:
        model, tflite = self.folder / f"model-{content}", self.folder / f"tflite-{content}"
        if not model.exists():
            saved_model(model, content)
            tflite_model(tflite, content)
        return model, tflite

    def push(self, content: object) -> Published:
        return publish_together(self.models, self.tflite, *self.sources(content), {"run": f"run-{content}"})

    def check(self) -> None:
        """What holds at any moment: visible versions are whole, no model is there twice, each has its whole TFLite version."""
        versions = self.models.versions()
        digests = [self.models.verify(version.number).digest for version in versions]
        assert len(set(digests)) == len(digests)
        for version in versions:
            assert self.tflite.verify(version.number).metadata[MODEL_DIGEST] == version.digest
        for version in self.tflite.versions():
            self.tflite.verify(version.number)
        assert self.tflite.foreign() == []


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore(tmp_path / "store", "digits")


CONTENTS = st.integers(0, 4)
KILL_AT = st.integers(1, 45)


class StoreMachine(RuleBasedStateMachine):
    """Pushes, prunes, sweeps, kills in any of them, and hands in the folder, in any order."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tfline-test-store-"))
        self.line = Line(self.folder)
        self.alive: dict[int, int] = {}  # version -> content: what must be visible
        self.highest = 0  # of all models that were ever visible, by push or by hand
        self.tflite_seen: set[int] = set()
        self.by_hand: dict[int, str] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def holder(self, content: int) -> int | None:
        return next((number for number, held in self.alive.items() if held == content), None)

    def observe(self, content: int) -> None:
        """Takes note of the model version that a push of `content` may have brought."""
        come = {version.number for version in self.line.models.versions()} - set(self.alive)
        assert len(come) <= (self.holder(content) is None)
        for number in come:
            assert number > self.highest
            assert self.line.models.get(number).digest == tree_digest(self.line.sources(content)[0])
            self.alive[number], self.highest = content, number

    @rule(content=CONTENTS)
    def push(self, content: int) -> None:
        before = self.holder(content)
        published = self.line.push(content)
        assert published.new == (before is None)
        assert before in (None, published.model.number)
        assert published.tflite is not None
        assert published.tflite.number == published.model.number
        self.observe(content)
        assert self.holder(content) == published.model.number
        assert leftovers(self.line.models) == leftovers(self.line.tflite) == []

    @rule(content=CONTENTS, kill_at=KILL_AT, torn=st.booleans())
    def push_killed(self, content: int, kill_at: int, torn: bool) -> None:
        self.line.sources(content)
        run_killed(lambda: self.line.push(content), kill_at, torn=torn)
        self.observe(content)

    @rule(keep=st.integers(1, 3), protect=st.integers(1, 8))
    def prune(self, keep: int, protect: int) -> None:
        doomed = [number for number in sorted(self.alive)[:-keep] if number != protect]
        assert prune_together(self.line.models, self.line.tflite, keep, protect=[protect]) == doomed
        self.alive = {number: content for number, content in self.alive.items() if number not in doomed}
        assert leftovers(self.line.models) == []

    @rule(keep=st.integers(1, 3), kill_at=st.integers(1, 32))
    def prune_killed(self, keep: int, kill_at: int) -> None:
        run_killed(lambda: prune_together(self.line.models, self.line.tflite, keep), kill_at)
        left = {version.number for version in self.line.models.versions()}
        assert set(self.alive) - left <= set(sorted(self.alive)[:-keep])
        self.alive = {number: content for number, content in self.alive.items() if number in left}

    @precondition(lambda self: self.alive)
    @rule()
    def delete_newest_by_hand(self) -> None:
        number = max(self.alive)
        shutil.rmtree(self.line.models.get(number).path)
        del self.alive[number]

    @precondition(lambda self: len(self.by_hand) < 2)
    @rule(ahead=st.integers(0, 2), empty=st.booleans())
    def put_by_hand(self, ahead: int, empty: bool) -> None:
        number = self.line.models.next_version() + ahead
        folder = self.line.models.folder / str(number)
        folder.mkdir(parents=True)
        self.by_hand[number] = "" if empty else "saved_model.pb"
        if not empty:
            (folder / "saved_model.pb").write_text("by hand")
        self.highest = number

    @rule()
    def sweep(self) -> None:
        for store in (self.line.models, self.line.tflite):
            expected = leftovers(store)
            assert store.sweep() == expected
            assert leftovers(store) == []

    @rule(kill_at=st.integers(1, 8))
    def sweep_killed(self, kill_at: int) -> None:
        run_killed(self.line.models.sweep, kill_at)

    @invariant()
    def versions_are_whole_and_ordered(self) -> None:
        self.line.check()
        assert [version.number for version in self.line.models.versions()] == sorted(self.alive)
        assert self.line.models.next_version() > self.highest

    @invariant()
    def tflite_versions_grow(self) -> None:
        seen = {version.number for version in self.line.tflite.versions()}
        assert all(number > max(self.tflite_seen, default=0) for number in seen - self.tflite_seen)
        self.tflite_seen |= seen

    @invariant()
    def hands_work_is_untouched(self) -> None:
        assert [foreign.number for foreign in self.line.models.foreign()] == sorted(self.by_hand)
        for foreign in self.line.models.foreign():
            assert "".join(path.name for path in foreign.path.iterdir()) == self.by_hand[foreign.number]


StoreMachine.TestCase.settings = settings(
    max_examples=50, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStoreMachine = pytest.mark.slow(StoreMachine.TestCase)


@pytest.mark.parametrize("torn", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("then", ["same", pytest.param("other", marks=pytest.mark.slow)])
def test_push_killed_at_every_operation(tmp_path: Path, then: str, torn: bool) -> None:
    outcomes = set()
    for kill_at in itertools.count(1):
        line = Line(tmp_path / str(kill_at))
        line.push("first")
        line.sources("killed")
        code = run_killed(lambda line=line: line.push("killed"), kill_at, torn=torn)  # type: ignore[misc]
        line.check()
        models, tflite = [[version.number for version in store.versions()] for store in (line.models, line.tflite)]
        assert (models, tflite) in (([1], [1]), ([1], [1, 2]), ([1, 2], [1, 2]))
        outcomes.add((len(models), len(tflite)))

        published = line.push("killed" if then == "same" else "other")
        line.check()
        assert leftovers(line.models) == leftovers(line.tflite) == []
        assert published.new == (then == "other" or models == [1])
        if tflite == [1, 2]:  # adopted by the same model, passed over by another
            assert published.model.number == (2 if then == "same" else 3)
        if then == "same":
            assert len(line.tflite.versions()) == len(line.models.versions()) == 2
        shutil.rmtree(line.folder)
        if code == 0:
            break
    assert outcomes == {(1, 1), (1, 2), (2, 2)}
    assert kill_at > 30, "the kills missed the store's operations"


@pytest.mark.slow
def test_prune_killed_at_every_operation(tmp_path: Path) -> None:
    outcomes = set()
    for kill_at in itertools.count(1):
        line = Line(tmp_path / str(kill_at))
        for content in range(3):
            line.push(content)
        code = run_killed(lambda line=line: prune_together(line.models, line.tflite, 1), kill_at)  # type: ignore[misc]
        line.check()
        left = [version.number for version in line.models.versions()]
        assert left in ([1, 2, 3], [2, 3], [3])
        outcomes.add(len(left))
        prune_together(line.models, line.tflite, 1)
        assert [version.number for version in line.models.versions()] == [3]
        assert [version.number for version in line.tflite.versions()] == [3]
        assert leftovers(line.models) == leftovers(line.tflite) == []
        shutil.rmtree(line.folder)
        if code == 0:
            break
    assert outcomes == {1, 2, 3}


def test_publish_writes_the_folder_that_tf_serving_reads(store: VersionStore, tmp_path: Path) -> None:
    source = saved_model(tmp_path / "source", "a")
    version = store.publish(source, metadata={"run": "7"})
    assert (version.number, version.path) == (1, tmp_path / "store" / "digits" / "1")
    assert store.versions() == [version]
    assert store.latest() == store.get(1) == store.find(tree_digest(source)) == version
    assert (version.path / "saved_model.pb").read_bytes() == (source / "saved_model.pb").read_bytes()
    assert (version.path / "assets").is_dir()
    manifest = read_manifest(version.path)
    content = (source / "variables" / "variables.index").read_bytes()
    assert manifest.files["variables/variables.index"] == FileEntry(
        sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)
    )
    assert sorted(manifest.files) == ["saved_model.pb", "variables/variables.index"]
    assert (manifest.model, manifest.version, manifest.metadata) == ("digits", 1, {"run": "7"})
    assert manifest.created.utcoffset() is not None
    assert manifest.digest == tree_digest(source) == tree_digest(version.path) == digest_of(manifest.files)
    visible = [path.name for path in store.folder.iterdir() if not path.name.startswith(".")]
    assert visible == ["1"]


def test_digest_is_of_paths_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    expected = hashlib.sha256(b"x\0" + hashlib.sha256(b"1").hexdigest().encode() + b"\n").hexdigest()
    assert tree_digest(tmp_path / "a") == expected
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    renamed = tree_digest(tmp_path / "a")
    (tmp_path / "a" / "y").write_text("2")
    assert len({expected, renamed, tree_digest(tmp_path / "a")}) == 3


def test_same_files_are_not_published_twice(store: VersionStore, tmp_path: Path) -> None:
    first = store.publish(saved_model(tmp_path / "a", "same"))
    store.publish(saved_model(tmp_path / "b", "other"))
    assert store.publish(saved_model(tmp_path / "c", "same"), metadata={"run": "later"}) == first
    assert store.publish(first.path) == first  # a version is a source like any other
    assert [version.number for version in store.versions()] == [1, 2]
    with pytest.raises(StoreError, match="is version 1 of digits already: not published as 9"):
        store.publish(tmp_path / "a", version=9)


def test_numbers_given_by_the_caller_only_grow(store: VersionStore, tmp_path: Path) -> None:
    assert store.publish(saved_model(tmp_path / "a", "a"), version=1_700_000_000).number == 1_700_000_000
    assert store.publish(saved_model(tmp_path / "b", "b")).number == 1_700_000_001
    for number in (0, -1, 5, 1_700_000_001, MAX_VERSION + 1):
        with pytest.raises(StoreError, match=f"expected 1700000002 to .* got {number}"):
            store.publish(saved_model(tmp_path / f"c{number}", "c"), version=number)
    store.publish(saved_model(tmp_path / "d", "d"), version=MAX_VERSION)
    with pytest.raises(StoreError, match="no version number below"):
        store.publish(saved_model(tmp_path / "e", "e"))
    assert leftovers(store) == []


def test_numbers_grow_after_the_newest_was_deleted_by_hand(line: Line) -> None:
    line.push("a")
    line.push("b")
    shutil.rmtree(line.models.get(2).path)
    assert line.models.next_version() == 3
    assert line.push("b").model.number == 3  # version 2 was served: its number does not come back, not even for the same model
    shutil.rmtree(line.models.get(3).path)
    shutil.rmtree(line.models.get(1).path)
    assert line.push("c").model.number == 4


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/etc", "../x", "a..b", ".hidden", "-a", "a\0b", "a\n", "é", "a" * 129, "a b", "a\\b"]
)
def test_bad_model_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Bad model name") as caught:
        VersionStore(tmp_path, name)
    assert repr(name) in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", ["a", "7", "Digits_v2.1-int8", "a" * 128])
def test_good_model_names(name: str) -> None:
    assert check_model_name(name) == name


def test_verify_names_what_changed(store: VersionStore, tmp_path: Path) -> None:
    path = store.publish(saved_model(tmp_path / "a", "a")).path
    assert store.verify(1) == store.get(1)
    (path / "variables" / "variables.index").write_text("weights b")
    with pytest.raises(StoreError, match=r"variables/variables.index has changed"):
        store.verify(1)
    (path / "variables" / "variables.index").unlink()
    (path / "extra").write_text("")
    with pytest.raises(StoreError, match=r"extra is not in the manifest; variables/variables.index is missing"):
        store.verify(1)
    with pytest.raises(StoreError, match="extra is not in the manifest"):  # a push says so too, instead of vouching for it
        store.publish(tmp_path / "a")


def test_verify_finds_a_manifest_that_was_edited(store: VersionStore, tmp_path: Path) -> None:
    path = store.publish(saved_model(tmp_path / "a", "a")).path / MANIFEST
    path.write_text(path.read_text().replace(store.get(1).digest, "0" * 64))
    with pytest.raises(StoreError, match=f"its {MANIFEST} has changed"):
        store.verify(1)


def test_missing_version_says_which_there_are(store: VersionStore, tmp_path: Path) -> None:
    assert (store.versions(), store.foreign(), store.latest(), store.sweep(), store.prune(1)) == ([], [], None, [], [])
    with pytest.raises(StoreError, match=r"no version 3 in .*Versions there: none"):
        store.get(3)
    store.publish(saved_model(tmp_path / "a", "a"))
    with pytest.raises(StoreError, match=r"no version 3 in .*Versions there: 1"):
        store.get(3)


def test_foreign_versions_count_but_are_not_touched(store: VersionStore, tmp_path: Path) -> None:
    first = store.publish(saved_model(tmp_path / "a", "a"))
    shutil.copytree(first.path, store.folder / "3")  # a rollback by hand
    saved_model(store.folder / "007", "hand")  # TF Serving reads 7
    (store.folder / "9").write_text("a file")
    (store.folder / "5").symlink_to("1")
    (store.folder / "damaged").mkdir()
    shutil.copytree(first.path, store.folder / "4")
    (store.folder / "4" / MANIFEST).write_text('{"format": 2}')
    foreign = {child.number: child.reason for child in store.foreign()}
    assert sorted(foreign) == [3, 4, 5, 7, 9]
    assert "copy of version 1" in foreign[3]
    assert "damaged" in foreign[4]
    assert [version.number for version in store.versions()] == [1]
    with pytest.raises(StoreError, match=r"was not published by tfline: .*copy of version 1"):
        store.get(3)
    assert store.publish(saved_model(tmp_path / "b", "b")).number == 10
    with pytest.raises(StoreError, match="expected 11"):
        store.publish(saved_model(tmp_path / "c", "c"), version=7)
    assert store.prune(1) == [1]
    assert sorted(path.name for path in store.folder.iterdir() if path.name[0] != ".") == [
        "007",
        "10",
        "3",
        "4",
        "5",
        "9",
        "damaged",
    ]


def test_bad_sources_leave_nothing(store: VersionStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with pytest.raises(StoreError, match="found nothing"):
        store.publish(source)
    (source / "empty").mkdir(parents=True)
    with pytest.raises(StoreError, match="found none"):
        store.publish(source)
    (source / "link").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match=r"a symbolic link: .*link"):
        store.publish(source)
    (source / "link").unlink()
    os.mkfifo(source / "empty" / "pipe")
    with pytest.raises(StoreError, match=r"a special file: .*pipe"):
        store.publish(source)
    (source / "empty" / "pipe").unlink()
    (source / MANIFEST).write_text('{"short_name": "a web page"}')
    (source / "file").write_text("x")
    with pytest.raises(StoreError, match=r"the store needs that name"):
        store.publish(source)
    with pytest.raises(StoreError, match="found a file"):
        store.publish(source / "file")
    assert not store.folder.exists()


def test_source_that_changes_meanwhile(store: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved_model(tmp_path / "a", "a")
    monkeypatch.setattr("serving.store.tree_digest", lambda _: "0" * 64)
    with pytest.raises(StoreError, match="changed while it was published"):
        store.publish(source)
    assert store.versions() == []
    assert leftovers(store) == []


def test_everything_is_on_disk_before_the_rename(store: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the rename must not leave a visible version with files that were only in memory."""
    source = saved_model(tmp_path / "a", "a")
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def seen_fsync(fd: int) -> None:
        done.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    def seen_rename(path: Path, target: Path) -> Path:
        done.append(f"{path} -> {target}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "rename", seen_rename)
    version = store.publish(source)
    at = next(index for index, what in enumerate(done) if what.endswith(f"-> {version.path}"))
    staging = done[at].split(" -> ")[0]
    everything = [staging, *(f"{staging}/{path.relative_to(version.path)}" for path in version.path.rglob("*"))]
    assert set(everything) <= set(done[:at])
    last = {what: index for index, what in enumerate(done[:at])}
    assert last[f"{staging}/{MANIFEST}"] < last[staging] < last[str(store.folder)]  # a folder after the names in it
    assert str(store.folder) in done[at:]
    assert {str(store.root), str(tmp_path)} <= set(done)


def push_that_fails_at_the_commit(line: Line, content: object) -> None:
    """Leaves what a kill right before the SavedModel's rename leaves, after the next push's sweep: an orphan TFLite version."""
    with pytest.MonkeyPatch.context() as patched, pytest.raises(StoreError, match="No space left on device"):
        rename = Path.rename

        def full(path: Path, target: Path) -> Path:
            if target.parent == line.models.folder:
                raise OSError(28, "No space left on device")
            return rename(path, target)

        patched.setattr(Path, "rename", full)
        line.push(content)
    assert leftovers(line.models) == leftovers(line.tflite) == []


def test_failure_after_the_number_was_given_out(line: Line) -> None:
    push_that_fails_at_the_commit(line, "a")
    push_that_fails_at_the_commit(line, "b")
    assert [version.number for version in line.tflite.versions()] == [1, 2]
    assert line.push("a").model.number == 1  # the TFLite version that was there already is adopted
    assert publish_together(line.models, None, line.sources("c")[0], None).model.number == 3  # not 2, which is b's
    assert line.push("b").model.number == 4  # models have passed 2


def test_orphan_whose_model_was_deleted_by_hand_is_not_adopted(line: Line) -> None:
    line.push("a")
    line.push("b")
    shutil.rmtree(line.models.get(2).path)
    push_that_fails_at_the_commit(line, "c")
    assert line.push("b").model.number == 4  # 2 was served once, 3 is c's
    line.check()


def test_folder_that_appears_by_hand_during_a_push(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    give = VersionStore._give

    def give_while_somebody_works_here(store: VersionStore, source: Path, digest: str, number: int, metadata: Any) -> Any:
        (line.models.folder / str(number)).mkdir()
        return give(store, source, digest, number, metadata)

    monkeypatch.setattr(VersionStore, "_give", give_while_somebody_works_here)
    with pytest.raises(StoreError, match=r"Cannot publish version 1 of digits: .* is there already"):
        line.push("a")
    assert list((line.models.folder / "1").iterdir()) == []
    assert leftovers(line.models) == []


def test_prune_together_keeps_what_may_be_needed(line: Line) -> None:
    for content in range(4):
        line.push(content)
    (line.models.get(2).path / MANIFEST).write_text("damaged")  # no version of ours any more, but served
    push_that_fails_at_the_commit(line, "orphan")
    assert prune_together(line.models, line.tflite, 1) == [1, 3]
    assert [version.number for version in line.tflite.versions()] == [2, 4, 5]
    assert line.push("orphan").model.number == 5


def test_modes_follow_the_umask_not_the_source(store: VersionStore, tmp_path: Path) -> None:
    source = saved_model(tmp_path / "a", "a")
    for path in source.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    before = os.umask(0o022)
    try:
        version = store.publish(source)
    finally:
        os.umask(before)
    for path in (store.root, store.folder, version.path, *version.path.rglob("*"), store.folder / ".mark.json"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_lock_timeout_says_what_to_do(tmp_path: Path) -> None:
    store = VersionStore(tmp_path / "store", "digits", lock_timeout=0.1)
    store.publish(saved_model(tmp_path / "a", "a"))
    (store.folder / ".staging-1-0123abcd").mkdir()
    with (store.folder / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"Cannot publish to .*another process has been changing it for 0.1 s .*Try again"):
            store.publish(saved_model(tmp_path / "b", "b"))
        with pytest.raises(StoreError, match="Cannot prune"):
            store.prune(1)
        assert store.sweep() == []  # it is the other process's work
        assert [version.number for version in store.versions()] == [1]  # reading needs no lock
    assert store.sweep() == [".staging-1-0123abcd"]


def test_sweep_leaves_what_is_not_ours(store: VersionStore, tmp_path: Path) -> None:
    store.publish(saved_model(tmp_path / "a", "a"))
    for name in (".staging-mine", ".pruned", "notes", ".snapshot"):
        (store.folder / name).mkdir()
    for name in (".staging-12-0123abcd", ".pruned-4-12-0123abcd"):
        saved_model(store.folder / name, name)
    assert store.sweep() == [".pruned-4-12-0123abcd", ".staging-12-0123abcd"]
    assert sorted(path.name for path in store.folder.iterdir()) == [
        ".lock", ".mark.json", ".pruned", ".snapshot", ".staging-mine", "1", "notes",
    ]  # fmt: skip


def test_damaged_mark_is_an_error_not_a_restart(store: VersionStore, tmp_path: Path) -> None:
    store.publish(saved_model(tmp_path / "a", "a"))
    (store.folder / ".mark.json").write_text("")
    with pytest.raises(StoreError, match=r"\.mark\.json is damaged\. Remove it"):
        store.publish(saved_model(tmp_path / "b", "b"))
    (store.folder / ".mark.json").unlink()
    assert store.publish(tmp_path / "b").number == 2


def test_prune_keeps_the_newest_and_the_protected(store: VersionStore, tmp_path: Path) -> None:
    for content in range(6):
        store.publish(saved_model(tmp_path / str(content), content))
    assert store.prune(2, protect={2}) == [1, 3, 4]
    assert [version.number for version in store.versions()] == [2, 5, 6]
    assert store.prune(5) == []
    with pytest.raises(StoreError, match="expected to keep 1 or more, got 0"):
        store.prune(0)
    assert store.publish(tmp_path / "0").number == 7  # pruned, so not in the store any more


def test_one_number_for_both(line: Line, tmp_path: Path) -> None:
    line.tflite.publish(tflite_model(tmp_path / "alone", "alone"), version=4)
    published = line.push("a")
    assert published.tflite is not None
    assert published.model.number == published.tflite.number == 5
    assert published.tflite.metadata == {"run": "run-a", MODEL_DIGEST: published.model.digest}
    again = line.push("a")
    assert (again.new, again.model, again.tflite) == (False, published.model, published.tflite)
    assert prune_together(line.models, line.tflite, 1) == []
    assert [version.number for version in line.tflite.versions()] == [4, 5]  # what was published alone stays


def test_missing_tflite_version_is_completed(line: Line) -> None:
    model, tflite = line.sources("a")
    alone = publish_together(line.models, None, model, None)
    assert (alone.model.number, alone.tflite, alone.new) == (1, None, True)
    assert publish_together(line.models, None, model, None).new is False
    assert line.push("b").model.number == 2
    completed = line.push("a")
    assert completed.tflite is not None
    assert (completed.new, completed.model.number, completed.tflite.number) == (False, 1, 1)
    line.check()
    assert line.push("c").model.number == 3
    with pytest.raises(StoreError, match="together, or neither"):
        publish_together(line.models, line.tflite, model, None)
    with pytest.raises(StoreError, match="together, or neither"):
        publish_together(line.models, None, model, tflite)


def test_number_taken_in_the_tflite_store(line: Line, tmp_path: Path) -> None:
    publish_together(line.models, None, line.sources("a")[0], None)
    line.tflite.publish(tflite_model(tmp_path / "alone", "alone"))
    with pytest.raises(StoreError, match="does not belong to version 1 of digits"):
        line.push("a")


def test_versions_never_change_their_tflite_file(line: Line, tmp_path: Path) -> None:
    first = line.push("a")
    again = publish_together(line.models, line.tflite, line.sources("a")[0], tflite_model(tmp_path / "requantized", "b"), {})
    assert (again.new, again.tflite_differs, again.tflite) == (False, True, first.tflite)
    assert first.tflite_differs is False


def test_stores_must_lie_apart(line: Line) -> None:
    sources = line.sources("a")
    (line.folder / "alias").symlink_to("models")
    for other in (
        line.models,
        VersionStore(line.folder / "alias", "digits"),
        VersionStore(line.folder / "tflite" / ".." / "models", "digits"),
        VersionStore(line.models.folder, "tflite"),
    ):
        with pytest.raises(StoreError, match="stores of their own"):
            publish_together(line.models, other, *sources, {})
    neighbour = VersionStore(line.models.root, "digits-tflite")
    assert publish_together(line.models, neighbour, *sources, {}).new


def test_orphan_of_another_conversion_is_passed_over(line: Line, tmp_path: Path) -> None:
    model, tflite = line.sources("a")
    orphan = line.tflite.publish(tflite, metadata={MODEL_DIGEST: tree_digest(model)})
    again = publish_together(line.models, line.tflite, model, tflite_model(tmp_path / "requantized", "b"), {})
    assert again.tflite is not None
    assert (again.model.number, again.tflite.number) == (2, 2)
    assert line.tflite.get(1) == orphan
    prune_together(line.models, line.tflite, 1)
    assert [version.number for version in line.tflite.versions()] == [2]


def test_damaged_orphan_is_passed_over(line: Line) -> None:
    model, tflite = line.sources("a")
    orphan = line.tflite.publish(tflite, metadata={MODEL_DIGEST: tree_digest(model)})
    (orphan.path / "model.tflite").write_text("rot")
    assert line.push("a").model.number == 2


def _push_many(line: Line, worker: int, barrier: Any) -> None:
    barrier.wait()
    for content in (f"{worker}-0", "shared", f"{worker}-1"):
        line.push(content)


def test_processes_that_push_at_once(line: Line) -> None:
    workers = 4
    for content in ["shared", *(f"{worker}-{turn}" for worker in range(workers) for turn in range(2))]:
        line.sources(content)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(workers)
    processes = [context.Process(target=_push_many, args=(line, worker, barrier)) for worker in range(workers)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        line.check()  # a reader meets whole versions only, without a lock
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * workers
    assert [version.number for version in line.models.versions()] == list(range(1, 2 * workers + 2))
    assert [version.number for version in line.tflite.versions()] == list(range(1, 2 * workers + 2))
    created = [version.manifest.created for version in line.models.versions()]
    assert created == sorted(created)
    line.check()
