"""Which versions a model's base path has, and which of them its policy wants: the file system polling of TensorFlow Serving.

Rules and messages follow tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc. A child whose name parses
as an int64 is a version, whatever is in it: a folder without a model is the loader's failure. The project's own store shows a
version only when it is whole (serving/version_folder.py), so nothing half-written is met there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from serving.server.status import Code, StatusError, invalid

_NUMBER = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)


@dataclass(frozen=True)
class Latest:
    """The `count` highest versions; 0 counts as 1."""

    count: int = 1


@dataclass(frozen=True)
class All:
    """Every version."""


@dataclass(frozen=True)
class Specific:
    """These versions, as far as they are there."""

    versions: frozenset[int]


Policy = Latest | All | Specific


@dataclass(frozen=True)
class Source:
    """Where a model's versions are, and which are wanted.

    Attributes:
        name: The model; only ever a key, never part of a path.
        base_path: As configured: an absolute path or a file: URI.
        policy: Which versions are wanted.
    """

    name: str
    base_path: str
    policy: Policy = Latest()


def parse_version(name: str) -> int | None:
    """The version that a child's name stands for, as absl::SimpleAtoi reads an int64; None when it stands for none."""
    if not _NUMBER.fullmatch(name):
        return None
    number = int(name)
    return number if -(2**63) <= number < 2**63 else None


def local_folder(base_path: str) -> Path:
    """The folder that a base path means.

    Raises:
        StatusError: UNIMPLEMENTED for a URI of anything but files, worded as TensorFlow does without a plug-in for the scheme.
    """
    scheme, address = _split(base_path)
    if not scheme:
        return Path(base_path)
    if scheme != "file":
        raise StatusError(
            Code.UNIMPLEMENTED,
            f"File system scheme '{scheme}' not implemented (file: '{base_path}'). Mount the bucket and give its folder.",
        )
    return Path(unquote(address))


def is_relative(base_path: str) -> bool:
    """Whether a base path is neither absolute nor a URI."""
    return not _split(base_path)[0] and not base_path.startswith("/")


@dataclass(frozen=True)
class Look:
    """What one look at a base path found.

    Attributes:
        wanted: The versions that should be loaded now, and their folders.
        empty: Whether the base path is there and has no version at all.
        remarks: What an operator should know; the same at every look until something changes.
    """

    wanted: Mapping[int, Path]
    empty: bool
    remarks: Sequence[str]


def look(source: Source) -> Look:
    """Looks at a base path once.

    Raises:
        StatusError: The base path is missing or cannot be read, which says nothing about versions: what is loaded should stay.
    """
    folder = local_folder(source.base_path)
    try:
        children = sorted(child.name for child in folder.iterdir())
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        why = f"NOT_FOUND: {source.base_path} not found" if isinstance(error, FileNotFoundError) else str(error)
        raise invalid(f"Could not find base path {source.base_path} for servable {source.name} with error {why}") from None
    versions, remarks = _by_number(source.name, children)
    chosen = _chosen(source.policy, versions)
    if isinstance(source.policy, Specific):
        remarks += [
            f"Version {number} of servable {source.name}, which was requested to be served as a 'specific' version in the "
            "servable's version policy, was not found in the file system"
            for number in sorted(source.policy.versions - versions.keys())
        ]
    if not chosen:
        remarks.append(
            f"No versions of servable {source.name} found under base path {source.base_path}. Did you forget to name your leaf "
            "directory as a number (eg. '/1/')?"
        )
    return Look({number: folder / versions[number] for number in chosen}, not versions, remarks)


def _split(base_path: str) -> tuple[str, str]:
    """Scheme and address of a URI as tensorflow::io::ParseURI tells them apart (`scheme://`); no scheme for a plain path."""
    if not re.match(r"[a-zA-Z][0-9a-zA-Z.]*://", base_path):
        return "", base_path
    return urlsplit(base_path).scheme, urlsplit(base_path).path


def _by_number(name: str, children: Iterable[str]) -> tuple[dict[int, str], list[str]]:
    """The children that are versions, and remarks; of two names for one number, such as 01 and 1, the one that sorts last."""
    found: dict[int, str] = {}
    remarks = []
    for child in children:
        number = parse_version(child)
        if number is None:
            continue
        if number in found:
            remarks.append(
                f"Duplicate version directories of servable {name} detected. Version {number} will be loaded from {child}, "
                f"{found[number]} will be ignored."
            )
        found[number] = child
    return found, remarks


def _chosen(policy: Policy, versions: Mapping[int, str]) -> list[int]:
    """What the policy wants of the versions that are there."""
    match policy:
        case All():
            return sorted(versions)
        case Latest(count):
            return sorted(versions)[-max(count, 1) :]
        case Specific(asked):
            return sorted(asked & versions.keys())
