"""The version store that TF Serving reads, `<root>/<model>/<version>/`: whole versions, growing numbers, no model twice.

How that holds on disk, through kills and power cuts, is in version_folder.py; what a version consists of, in manifest.py.

A child of a model's folder whose name is a number, but that no store published (no manifest, a damaged one, or the manifest of
another number or model, as after `cp -r 3 7`), is foreign: TF Serving serves it, so its number is never given out, and
`foreign()` lists it with the reason. It is not among `versions()`, and nothing here changes or removes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serving.errors import StoreError
from serving.manifest import (
    MANIFEST,
    MAX_VERSION,
    Manifest,
    differences,
    digest_of,
    read_manifest,
    tree_digest,
    tree_files,
)
from serving.version_folder import Foreign, Version, VersionFolder, changing_both, check_model_name

__all__ = [
    "MODEL_DIGEST",
    "Foreign",
    "Manifest",
    "Published",
    "StoreError",
    "TFLiteSource",
    "Version",
    "VersionStore",
    "check_model_name",
    "export_digest",
    "prune_together",
    "publish_together",
    "tree_digest",
]

MODEL_DIGEST = "model_digest"
"""Metadata key. Of a TFLite version: the digest of the SavedModel version that it belongs to. Of a SavedModel version: the digest
of the export that it was made from, to which files may have been added (warm-up requests)."""

TFLiteSource = Path | Callable[[int], Path]
"""A folder, or what makes the folder for a version number."""


@dataclass(frozen=True)
class Published:
    """What `publish_together` did.

    Attributes:
        model: The version that holds the model.
        tflite: The version of the same number in the TFLite store; None when no TFLite file was given.
        new: False when the model was in the store already.
        tflite_differs: True when that version has a TFLite file other than the one given. It stays: versions never change.
    """

    model: Version
    tflite: Version | None
    new: bool
    tflite_differs: bool = False


class VersionStore:
    """The versions of one model.

    Reading takes no lock and never meets a part of a version. Changing takes the model's lock, so that one process changes at a
    time.

    Args:
        root: Folder of all models of the store; made with the first version.
        model: Name of the model, see `check_model_name`.
        lock_timeout: Seconds to wait while another process changes the same model.
    """

    def __init__(self, root: Path, model: str, *, lock_timeout: float = 60.0) -> None:
        self.root = root
        self.model = model
        self._disk = VersionFolder(root, model, lock_timeout)
        self.folder = self._disk.path

    def versions(self) -> list[Version]:
        """The published versions, in ascending order; [] when the model has none."""
        found = [child for child in self._disk.children() if isinstance(child, Version)]
        return sorted(found, key=lambda version: version.number)

    def foreign(self) -> list[Foreign]:
        """What TF Serving takes for versions and no store published, in ascending order; see the top of this file."""
        found = [child for child in self._disk.children() if isinstance(child, Foreign)]
        return sorted(found, key=lambda child: child.number)

    def latest(self) -> Version | None:
        """The published version with the highest number; None when there is none."""
        return max(self.versions(), key=lambda version: version.number, default=None)

    def get(self, number: int) -> Version:
        """The published version with this number; StoreError when there is none."""
        versions = self.versions()
        for version in versions:
            if version.number == number:
                return version
        for child in self.foreign():
            if child.number == number:
                raise StoreError(f"{child.path} was not published by tfline: {child.reason}")
        present = ", ".join(str(version.number) for version in versions) or "none"
        raise StoreError(f"{self.model} has no version {number} in {self.root}. Versions there: {present}.")

    def find(self, digest: str) -> Version | None:
        """The published version with this digest (the newest, should a TFLite store have several); None when there is none."""
        return next((version for version in reversed(self.versions()) if version.digest == digest), None)

    def find_export(self, digest: str) -> Version | None:
        """The newest SavedModel version that was made from the export with this digest; None when there is none."""
        return next((version for version in reversed(self.versions()) if export_digest(version) == digest), None)

    def next_version(self) -> int:
        """The number that the next version gets: above all that were ever given out, and above all foreign ones."""
        return self._disk.next_number()

    def verify(self, number: int) -> Version:
        """Reads every file of a version again and compares it with the manifest.

        Raises:
            StoreError: There is no such version, or files changed, went or came; the message names them.
        """
        version = self.get(number)
        found = tree_files(version.path)
        said = differences(version.manifest.files, found)
        if not said and digest_of(found) != version.digest:
            said = [f"its {MANIFEST} has changed"]
        if said:
            raise StoreError(f"Version {number} of {self.model} is not what was published ({version.path}): {'; '.join(said)}")
        return version

    def publish(self, source: Path, *, metadata: Mapping[str, str] | None = None, version: int | None = None) -> Version:
        """Copies a folder into the store as a new version, which TF Serving sees whole or not at all.

        A folder whose digest is in the store already is not published again: the version that has it is verified and returned.

        Args:
            source: Folder with the files. Its modes, and the manifest that it has if it is a version itself, are not taken over.
            metadata: Goes into the manifest.
            version: The number to give, `next_version()` or above; the next one when None.

        Raises:
            StoreError: Nothing was published: the source is empty or holds links, the number was given out before, the lock was
                not to be had, the disk is full, or the version that holds these files is damaged or has another number than asked
                for.
        """
        digest = _source_digest(source)
        with self._disk.changing("publish to"):
            return self._publish_locked(source, digest, metadata or {}, version)[0]

    def prune(self, keep: int, *, protect: Collection[int] = ()) -> list[int]:
        """Removes the published versions, but for the newest `keep` and those in `protect`; returns what it removed, ascending.

        Each disappears at once and whole. Foreign versions stay, and do not count as kept. StoreError when `keep` is below 1.
        A store with a TFLite store beside it is pruned with `prune_together`.
        """
        _check_keep(keep)
        if not self.folder.is_dir():
            return []
        with self._disk.changing("prune"):
            return self._prune_locked(keep, protect)

    def sweep(self) -> list[str]:
        """Removes what killed processes left half written or half removed; returns the names of what it removed.

        Does nothing while a process holds the lock: what is there then is that process's work. `publish` and `prune` sweep on
        their own.
        """
        return self._disk.sweep_if_idle()

    def _prune_locked(self, keep: int, protect: Collection[int]) -> list[int]:
        doomed = [version for version in self.versions()[:-keep] if version.number not in protect]
        self._disk.remove(doomed)
        return [version.number for version in doomed]

    def _publish_locked(
        self, source: Path, digest: str, metadata: Mapping[str, str], version: int | None
    ) -> tuple[Version, bool]:
        """`publish` within the lock; also says whether the version is new."""
        found = self.find(digest)
        if found is not None:
            if version not in (None, found.number):
                raise StoreError(f"{source} is version {found.number} of {self.model} already: not published as {version}.")
            return self.verify(found.number), False
        lowest = self.next_version()
        number = lowest if version is None else version
        if not lowest <= number <= MAX_VERSION:
            raise StoreError(f"Versions of {self.model} only grow: expected {lowest} to 2**63-1, got {number}.")
        return self._give(source, digest, number, metadata), True

    def _give(self, source: Path, digest: str, number: int, metadata: Mapping[str, str]) -> Version:
        """Publishes under a number that the caller, who holds the lock, answers for."""
        staged = self._disk.stage(source, digest, number, metadata)
        self._disk.reserve(staged)
        return self._disk.reveal(staged)


def export_digest(version: Version) -> str:
    """The digest of the export that a SavedModel version was made from; its own where its manifest says nothing of one."""
    return version.metadata.get(MODEL_DIGEST, version.digest)


def publish_together(
    models: VersionStore,
    tflite: VersionStore | None,
    model_dir: Path,
    tflite_dir: TFLiteSource | None,
    metadata: Mapping[str, str] | None = None,
    *,
    at_least: int = 1,
) -> Published:
    """Publishes a SavedModel and its TFLite file under one number, each in its own store.

    The TFLite version appears first, and the SavedModel's rename is the commit: whoever sees model version N finds TFLite version
    N whole. A kill between the two leaves a TFLite version without a model. The next push of the same two folders adopts it; any
    other push passes over its number. A model that is in the store already is not published again; when its TFLite version is
    missing (pushed without one, or removed by hand), that is added under the model's number, the one case in which a TFLite store
    gets a number below its highest.

    Args:
        models: Store of the SavedModels.
        tflite: Store of the TFLite files, apart from `models`; None together with `tflite_dir`.
        model_dir: Folder of the SavedModel.
        tflite_dir: Folder with the TFLite file, or what makes it for a version number, for a file that says which version it is;
            the same folder for the same number, each time.
        metadata: Goes into both manifests; the TFLite one also says `MODEL_DIGEST`.
        at_least: The lowest number that may be given to a new version.

    Raises:
        StoreError: No model version was published; see `VersionStore.publish`. Also when the two stores share a folder, or the
            TFLite store has something else under the number of a model that is there already.
    """
    metadata = metadata or {}
    digest = _source_digest(model_dir)
    if tflite is None or tflite_dir is None:
        if tflite is not None or tflite_dir is not None:
            raise StoreError("Expected a TFLite store and a TFLite folder together, or neither; got one of them.")
        with models._disk.changing("publish to"):
            number = None if models.find(digest) else max(at_least, models.next_version())
            model, new = models._publish_locked(model_dir, digest, metadata, number)
            return Published(model, None, new)
    made = tflite_dir if callable(tflite_dir) else lambda _: tflite_dir
    twin_metadata = {**metadata, MODEL_DIGEST: digest}
    with changing_both(models._disk, tflite._disk, "publish to"):
        found = models.find(digest)
        if found is not None:
            models.verify(found.number)
            source = made(found.number)
            tflite_digest = _source_digest(source)
            twin = _twin(tflite, found) or tflite._give(source, tflite_digest, found.number, twin_metadata)
            return Published(found, twin, new=False, tflite_differs=twin.digest != tflite_digest)
        orphan = _orphan(models, tflite, digest, made, at_least)
        number = orphan.number if orphan else max(models.next_version(), tflite.next_version(), at_least)
        source = made(number)
        tflite_digest = _source_digest(source)  # before the number is taken, as it may refuse
        staged = models._disk.stage(model_dir, digest, number, metadata)
        models._disk.reserve(staged)  # before the TFLite version shows, so that no model pushed without one can take its number
        twin = orphan or tflite._give(source, tflite_digest, number, twin_metadata)
        return Published(models._disk.reveal(staged), twin, new=True)


def prune_together(models: VersionStore, tflite: VersionStore, keep: int, *, protect: Collection[int] = ()) -> list[int]:
    """Prunes the models as `VersionStore.prune` does, then the TFLite versions that are left without a model.

    A TFLite version above the newest model stays, as a push that was killed may come back for it; so does one that was not pushed
    with a model. Returns the numbers of the models removed, ascending.
    """
    _check_keep(keep)
    if not models.folder.is_dir() or not tflite.folder.is_dir():
        return models.prune(keep, protect=protect)
    with changing_both(models._disk, tflite._disk, "prune"):
        pruned = models._prune_locked(keep, protect)
        there = {number for number, _ in models._disk.numbers()}
        newest = max(there, default=0)
        left = [version for version in tflite.versions() if version.number not in there and version.number < newest]
        tflite._disk.remove([version for version in left if MODEL_DIGEST in version.metadata])
        return pruned


def _check_keep(keep: int) -> None:
    if keep < 1:
        raise StoreError(f"At least one version has to stay: expected to keep 1 or more, got {keep}.")


def _source_digest(source: Path) -> str:
    """The digest of a folder to be published; a manifest.json that is not a store's own would get lost, and is an error."""
    if (source / MANIFEST).exists():
        try:
            read_manifest(source)
        except (StoreError, OSError) as error:
            raise StoreError(f"Cannot publish {source}: {error}, and the store needs that name. Rename the file.") from None
    return tree_digest(source)


def _twin(tflite: VersionStore, model: Version) -> Version | None:
    """The whole TFLite version of a model version; None when there is none; StoreError when something else has its number."""
    same = [child for child in tflite._disk.children() if child.number == model.number]
    for child in same:
        if isinstance(child, Version) and child.metadata.get(MODEL_DIGEST) == model.digest:
            return tflite.verify(child.number)
    if same:
        raise StoreError(f"{same[0].path} does not belong to version {model.number} of {model.manifest.model}. Move it away.")
    return None


def _orphan(
    models: VersionStore, tflite: VersionStore, digest: str, made: Callable[[int], Path], at_least: int
) -> Version | None:
    """The TFLite version of a push of the same two folders that was killed before its model showed."""
    lowest = max(models._disk.highest_visible() + 1, at_least)
    for version in reversed(tflite.versions()):
        if version.number < lowest or version.metadata.get(MODEL_DIGEST) != digest:
            continue
        if version.digest == _source_digest(made(version.number)):
            with suppress(StoreError):  # a damaged one is passed over, like that of another model
                return tflite.verify(version.number)
    return None
