"""The folder of one model's versions on disk, and the only way in which it changes.

    <root>/<model>/7/              a version: the files, and their manifest.json (TF Serving does not look at it)
    <root>/<model>/.staging-…      a version, or a mark, that is being written
    <root>/<model>/.pruned-7-…     a version that is being removed
    <root>/<model>/.mark.json      the highest number given out, so that numbers grow even after a version was deleted by hand
    <root>/<model>/.lock           held by whoever changes something here (flock: it ends with its process)

A version appears by one rename, with all its files on disk, and disappears by one: a kill at any moment leaves it whole or
invisible. TF Serving takes every child whose name parses as int64 for a version and passes over all others
(tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from serving.errors import StoreError
from serving.manifest import (
    MANIFEST,
    MAX_VERSION,
    Manifest,
    copy_tree,
    digest_of,
    fsync_folder,
    read_manifest,
    write_file,
)

_LOCK = ".lock"
_MARK = ".mark.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_NUMBER = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
_OURS = re.compile(r"\.(staging|pruned-[0-9]+)-[0-9]+-[0-9a-f]{8}")


@dataclass(frozen=True)
class Version:
    """A published version: its number, its folder, and the manifest it was published with."""

    number: int
    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The `tree_digest` it was published with."""
        return self.manifest.digest

    @property
    def metadata(self) -> Mapping[str, str]:
        """What its publisher had to say."""
        return self.manifest.metadata


@dataclass(frozen=True)
class Foreign:
    """A child that TF Serving takes for version `number`, but that no store published; `reason` says how that shows."""

    number: int
    path: Path
    reason: str


@dataclass(frozen=True)
class Staged:
    """A version that is whole and on disk, but not visible yet."""

    path: Path
    manifest: Manifest


class _Mark(BaseModel):
    """The numbers that were given out.

    Whether an attempt that was killed had got as far as its rename shows afterwards: its staging folder is there, or it is not.
    So the mark, written before the rename, names that folder, and the folder is not removed before the mark has been settled.

    Attributes:
        reserved: The highest number ever given out, seen or not.
        visible: The highest number that was ever visible, that of an open attempt aside.
        staging: Name of the folder that was to become version `attempt`; "" when no attempt is open.
        attempt: Number of the latest attempt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reserved: int = 0
    visible: int = 0
    staging: str = ""
    attempt: int = 0


class VersionFolder:
    """`<root>/<model>`. What reads takes no lock; what changes is called within `changing`, except `sweep_if_idle`."""

    def __init__(self, root: Path, model: str, lock_timeout: float) -> None:
        self.model = check_model_name(model)
        self.path = root / model
        self.lock_timeout = lock_timeout

    def children(self) -> Iterator[Version | Foreign]:
        """All that TF Serving takes for versions, in no order."""
        for number, path in self.numbers():
            try:
                manifest = read_manifest(path)
            except StoreError as error:
                yield Foreign(number, path, str(error))
            except OSError as error:
                if os.path.lexists(path):  # else it was pruned since the folder was listed
                    yield Foreign(number, path, f"its {MANIFEST} cannot be read ({error.strerror})")
            else:
                if path.is_symlink() or (manifest.model, str(manifest.version)) != (self.model, path.name):
                    yield Foreign(number, path, f"it is a link to or a copy of version {manifest.version} of {manifest.model}")
                else:
                    yield Version(number, path, manifest)

    def numbers(self) -> list[tuple[int, Path]]:
        """The same children with the numbers that TF Serving reads; "007", files and empty folders are among them."""
        try:
            found = [(int(path.name), path) for path in self.path.iterdir() if _NUMBER.fullmatch(path.name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"Cannot list the versions of {self.model}: {error}") from error
        return [(number, path) for number, path in found if abs(number) <= MAX_VERSION]

    def next_number(self) -> int:
        """The number above all that were ever given out and all that are there."""
        number = 1 + max(self._mark().reserved, self.highest_visible())
        if number > MAX_VERSION:
            raise StoreError(f"{self.path} has no version number below 2**63 left. Remove its highest version and {_MARK}.")
        return number

    def highest_visible(self) -> int:
        """The highest number that was ever visible here, as far as the mark and the folder tell; 0 when none was."""
        return max([self._settled().visible, *(number for number, _ in self.numbers())])

    @contextmanager
    def changing(self, action: str) -> Iterator[None]:
        """Holds the model's lock; makes the folder. What is staged on entry or after a failure belongs to nobody and is swept.

        Raises:
            StoreError: The lock was not to be had in time, or the body met an OSError; `action` ("publish to") is in the message.
        """
        try:
            _make_folder(self.path)
            with FileLock(self.path / _LOCK, timeout=self.lock_timeout):
                self._sweep()
                try:
                    yield
                except BaseException:
                    with suppress(OSError, StoreError):  # the next sweep gets what this one does not; the failure is what counts
                        self._sweep()
                    raise
        except Timeout as error:
            raise StoreError(
                f"Cannot {action} {self.path}: another process has been changing it for {self.lock_timeout:g} s "
                f"(lock {error.lock_file}). Try again when it is done."
            ) from None
        except OSError as error:
            raise StoreError(f"Cannot {action} {self.path}: {error}") from error

    def sweep_if_idle(self) -> list[str]:
        """Removes what killed processes left, unless somebody holds the lock; returns the names of what it removed."""
        if not self.path.is_dir():
            return []
        try:
            with FileLock(self.path / _LOCK, timeout=0):
                return self._sweep()
        except Timeout:
            return []
        except OSError as error:
            raise StoreError(f"Cannot sweep {self.path}: {error}") from error

    def stage(self, source: Path, digest: str, number: int, metadata: Mapping[str, str]) -> Staged:
        """Writes a version to disk under a name that TF Serving passes over.

        Raises:
            StoreError: `source` has not that digest any more.
        """
        staging = self._staging()
        files = copy_tree(source, staging)
        if digest_of(files) != digest:
            raise StoreError(f"{source} changed while it was published. Publish it again when nothing writes there.")
        manifest = Manifest(
            model=self.model, version=number, digest=digest, created=datetime.now(UTC), files=files, metadata=dict(metadata)
        )
        write_file(staging / MANIFEST, manifest.model_dump_json(indent=1))
        fsync_folder(staging)
        return Staged(staging, manifest)

    def reserve(self, staged: Staged) -> None:
        """Marks a staged version's number as given out, for good. Comes before `reveal`."""
        number = staged.manifest.version
        reserved = max(self._mark().reserved, number)
        self._write_mark(_Mark(reserved=reserved, visible=self.highest_visible(), staging=staged.path.name, attempt=number))

    def reveal(self, staged: Staged) -> Version:
        """The moment a version is published; StoreError when somebody put something there by hand."""
        number = staged.manifest.version
        for other, path in self.numbers():
            if other == number:  # a rename would replace an empty folder
                raise StoreError(f"Cannot publish version {number} of {self.model}: {path} is there already. Move it away.")
        path = staged.path.rename(self.path / str(number))
        fsync_folder(self.path)
        return Version(number, path, staged.manifest)

    def remove(self, versions: Collection[Version]) -> None:
        """Makes each version invisible by one rename, then removes the files."""
        for version in versions:
            version.path.rename(self.path / f".pruned-{version.number}-{os.getpid()}-{secrets.token_hex(4)}")
        fsync_folder(self.path)
        self._sweep()

    def _sweep(self) -> list[str]:
        left = sorted(path for path in self.path.iterdir() if _OURS.fullmatch(path.name))
        open_attempt = self._mark().staging
        if any(path.name == open_attempt for path in left):
            self._write_mark(self._settled())
        for path in left:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        return [path.name for path in left]

    def _mark(self) -> _Mark:
        path = self.path / _MARK
        try:
            return _Mark.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return _Mark()
        except ValidationError:
            raise StoreError(f"{path} is damaged. Remove it, and numbers go on from the highest version that is there.") from None
        except OSError as error:
            raise StoreError(f"Cannot read the mark of {self.model}: {error}") from error

    def _settled(self) -> _Mark:
        """The mark, with the outcome of its open attempt read from the folder."""
        mark = self._mark()
        came_through = mark.staging and not (self.path / mark.staging).exists()
        visible = max(mark.visible, mark.attempt) if came_through else mark.visible
        return mark.model_copy(update={"visible": visible, "staging": ""})

    def _write_mark(self, mark: _Mark) -> None:
        temporary = self._staging()
        write_file(temporary, mark.model_dump_json())
        temporary.replace(self.path / _MARK)
        fsync_folder(self.path)

    def _staging(self) -> Path:
        return self.path / f".staging-{os.getpid()}-{secrets.token_hex(4)}"


@contextmanager
def changing_both(models: VersionFolder, tflite: VersionFolder, action: str) -> Iterator[None]:
    """Holds both locks, always taken in the same order: two pushes never wait for each other.

    Raises:
        StoreError: One folder is the other, or is within it; or as `VersionFolder.changing`.
    """
    one, other = models.path.resolve(), tflite.path.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise StoreError(f"SavedModels and TFLite files need stores of their own: expected folders apart, got {one} and {other}.")
    with ExitStack() as locks:
        for folder in sorted((models, tflite), key=lambda folder: folder.path.resolve()):
            locks.enter_context(folder.changing(action))
        yield


def check_model_name(name: str) -> str:
    """Returns the name; StoreError when it could be a path, or is not as the message says."""
    if not _NAME.fullmatch(name) or ".." in name:
        expected = "a letter or digit, then up to 127 letters, digits, '_', '-' and '.', with no '..'"
        raise StoreError(f"Bad model name {name!r}: expected {expected}.")
    return name


def _make_folder(path: Path) -> None:
    """Makes a folder and its parents, each one's name on disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)
