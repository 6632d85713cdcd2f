"""Where the versions of a fleet lie, the store itself and the instances' own folders, and how a version is withdrawn there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from serving.fleet_config import FleetConfig
from serving.manifest import TFLITE_FILE, fsync_folder
from serving.store import MODEL_DIGEST, VersionStore, export_digest
from serving.version_folder import Version, VersionFolder

WITHDRAWN = "withdrawn-"
_LOCK_SECONDS = 60.0


def places_of(models: VersionStore, fleet: FleetConfig | None) -> list[VersionStore]:
    """The distinct folders that a fleet's instances read, but for the store's own."""
    instances = fleet.instances if fleet else ()
    folders = {Path(instance.base_path).resolve(): Path(instance.base_path) for instance in instances}
    folders.pop(models.folder.resolve(), None)
    return [VersionStore(path.parent, path.name) for path in folders.values()]


def withdraw(folder: Path, *, digest: str = "", above: int | None = None) -> list[tuple[int, str]]:
    """Takes versions out of a folder of versions: each is renamed to withdrawn-NUMBER, which no server looks at.

    Args:
        folder: `<root>/<model>`; one that is missing has nothing to withdraw.
        digest: Versions with it, and TFLite versions that were made from the model with it.
        above: All children above this number, also those that no store published, as a server would take them.

    Returns:
        Number and digest of the export of what was withdrawn, ascending; "" for the digest of a foreign one.

    Raises:
        StoreError: The lock was not to be had, or a rename failed.
    """
    if not folder.is_dir():
        return []
    disk = VersionFolder(folder.parent, folder.name, _LOCK_SECONDS)
    gone = []
    with disk.changing("withdraw from"):
        for child in sorted(disk.children(), key=lambda child: child.number):
            published = child if isinstance(child, Version) else None
            if _has(published, digest) or (above is not None and child.number > above):
                child.path.rename(folder / f"{WITHDRAWN}{child.path.name}")
                gone.append((child.number, export_digest(published) if published else ""))
        fsync_folder(folder)
    return gone


def _has(version: Version | None, digest: str) -> bool:
    if version is None or not digest:
        return False
    # For a SavedModel the same key names its export, of which there may be another version.
    made_from = version.metadata.get(MODEL_DIGEST) if TFLITE_FILE in version.manifest.files else None
    return digest in (version.digest, made_from)


def withdrawn_in(folder: Path) -> list[str]:
    """Names of what was withdrawn and is still there."""
    return sorted(path.name for path in folder.glob(f"{WITHDRAWN}*"))


def folders(stores: Iterable[VersionStore]) -> tuple[str, ...]:
    """Their folders, as a Goal keeps them."""
    return tuple(str(store.folder) for store in stores)
