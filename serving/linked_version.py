"""A version's folder made of another's files, without copying what need not be copied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from serving.manifest import MANIFEST


def link_version(source: Path, target: Path, added: Mapping[str, Path] | None = None) -> Path:
    """Makes a folder with a SavedModel's files and some more; it appears by one rename, for servers that are looking on.

    The files are hard links where the file system allows it, else copies; whoever uses them must not write into them. The
    manifest of a version that a store published stays behind.

    Args:
        source: The SavedModel.
        target: The new folder, in an existing one; its name may be a version's number.
        added: Path below the new folder, with slashes, to the file that is to be there, in place of one of the source's.

    Returns:
        `target`.

    Raises:
        OSError: It exists, or something cannot be read or written.
    """
    staging = target.with_name(f".{target.name}.staging-{os.getpid()}")
    added = added or {}
    try:
        shutil.copytree(source, staging, copy_function=_link, ignore=_ignore(source, added))
        for name, file in added.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            _link(str(file), str(staging / name))
        if target.exists():  # a rename would replace an empty folder
            raise FileExistsError(f"{target} is there already")
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=True)
    except OSError:  # another file system, one without hard links, or another user's file
        shutil.copyfile(source, target)


def _ignore(source: Path, added: Mapping[str, Path]) -> Callable[[str, list[str]], set[str]]:
    replaced = {MANIFEST, *added}

    def ignore(folder: str, names: list[str]) -> set[str]:
        below = Path(folder).relative_to(source)
        return {name for name in names if (below / name).as_posix() in replaced}

    return ignore
