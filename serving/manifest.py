"""What a version consists of: its files, the digest over them, and the manifest that names both.

The digest of a folder is the SHA-256 over one record for each regular file, in the order of the paths' code points:
the path relative to the folder, with slashes, in UTF-8; a zero byte; the SHA-256 of the content in hex; a newline. Empty folders,
modes and times are not part of it. The `manifest.json` at the top of a version is not part of it either, as it holds the digest.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from serving.errors import StoreError

MANIFEST = "manifest.json"
TFLITE_FILE = "model.tflite"
"""The file of a TFLite version, by the name that TF Serving looks for."""

MAX_VERSION = 2**63 - 1
"""TF Serving reads version numbers as int64."""

_HEX = Field(pattern=r"^[0-9a-f]{64}$")


class FileEntry(BaseModel):
    """One file of a version: the SHA-256 of its content, in hex, and its size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = _HEX
    bytes: int = Field(ge=0)


class Manifest(BaseModel):
    """What a version was when it was published.

    Attributes:
        format: Version of this format.
        model: Name of the model.
        version: Number of the version.
        digest: `tree_digest` of the version's folder.
        created: When it was staged, UTC.
        files: Every file but the manifest: path relative to the version's folder, with slashes, to its hash and size.
        metadata: Whatever whoever published it had to say: run id, baseline version and the like.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    model: str
    version: int = Field(ge=1, le=MAX_VERSION)
    digest: str = _HEX
    created: AwareDatetime
    files: dict[str, FileEntry] = Field(min_length=1)
    metadata: dict[str, str] = Field(default_factory=dict)


def tree_digest(folder: Path) -> str:
    """The digest of a folder, in hex, as a manifest has it; see the top of this file.

    Raises:
        StoreError: The folder is missing, holds no file, cannot be read, or holds a symbolic link, a special file or a name that
            is not UTF-8.
    """
    return digest_of(tree_files(folder))


def digest_of(files: Mapping[str, FileEntry]) -> str:
    """The digest of a folder with these files."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.encode() + b"\0" + files[path].sha256.encode() + b"\n")
    return digest.hexdigest()


def tree_files(folder: Path) -> dict[str, FileEntry]:
    """Hashes every file of a folder but its manifest; the errors are those of `tree_digest`."""
    try:
        return {relative: _hash_file(folder / relative) for relative in _scan(folder)[1]}
    except OSError as error:
        raise StoreError(f"Cannot read the files of {folder}: {error}") from error


def copy_tree(source: Path, target: Path) -> dict[str, FileEntry]:
    """Copies a folder into a new one, but for its manifest, and hashes what is written. All is on disk (fsync) on return.

    Modes are those that the umask gives, not the source's: whoever made the model may have kept its files to itself (mkstemp's
    0600), and the server runs as another user.

    Raises:
        StoreError: As `tree_digest`; `target` may then be there in part.
        OSError: A file cannot be read or written, or `target` exists.
    """
    folders, files = _scan(source)
    target.mkdir()
    for relative in folders:
        (target / relative).mkdir()
    written = {relative: _copy_file(source / relative, target / relative) for relative in files}
    for relative in reversed(folders):
        fsync_folder(target / relative)
    fsync_folder(target)
    return written


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a version's folder; StoreError says why it is none, FileNotFoundError that there is none."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise StoreError(f"its {MANIFEST} is damaged or not tfline's ({where}: {first['msg']})") from None


def differences(expected: Mapping[str, FileEntry], found: Mapping[str, FileEntry]) -> list[str]:
    """How the files found differ from those of a manifest: one phrase a file, [] when they are the same."""
    said: list[str] = []
    for path in sorted({*expected, *found}):
        if path not in found:
            said.append(f"{path} is missing")
        elif path not in expected:
            said.append(f"{path} is not in the manifest")
        elif expected[path] != found[path]:
            was, now = expected[path], found[path]
            said.append(
                f"{path} has changed ({was.bytes} bytes {was.sha256[:12]}… then, {now.bytes} bytes {now.sha256[:12]}… now)"
            )
    return said


def write_file(path: Path, text: str) -> None:
    """Writes a new file and brings its content to disk; its name is there for good only after `fsync_folder` of its folder."""
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Brings the names in a folder to disk: what was created, renamed or removed there is so after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _scan(folder: Path) -> tuple[list[str], list[str]]:
    """The folders (parents first) and the files (without the manifest) below a folder, as relative paths, sorted."""
    if not folder.is_dir():
        raise StoreError(
            f"Expected a folder with the files of a model, found {'a file' if folder.exists() else 'nothing'}: {folder}"
        )
    folders: list[str] = []
    files: list[str] = []
    for parent, names, leaves in os.walk(folder, onerror=_raise):
        for path in (Path(parent, name) for name in (*names, *leaves)):
            mode = path.lstat().st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "a special file"
                raise StoreError(
                    f"Expected only files and folders in a version, found {kind}: {path}. Put the file itself there."
                )
            (folders if stat.S_ISDIR(mode) else files).append(_relative(path, folder))
    files = sorted(path for path in files if path != MANIFEST)
    if not files:
        raise StoreError(f"Expected the files of a model, found none in {folder}")
    return sorted(folders), files


def _relative(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder).as_posix()
    try:
        relative.encode()
    except UnicodeEncodeError:
        raise StoreError(f"Expected file names in UTF-8, found {os.fsencode(path)!r}. Rename the file.") from None
    return relative


def _hash_file(path: Path) -> FileEntry:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(sha256=sha256, bytes=file.tell())


def _copy_file(source: Path, target: Path) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(1 << 20):
            writer.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return FileEntry(sha256=digest.hexdigest(), bytes=size)


def _raise(error: OSError) -> None:
    # os.walk passes over folders that it cannot read unless it is told otherwise; a digest must not.
    raise error
