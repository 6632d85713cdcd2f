"""Describes a SavedModel, of TensorFlow 1 or 2, from its files alone: nothing of it runs and TensorFlow is not imported.

What is read is saved_model.pb (or saved_model.pbtxt), variables/variables.index and fingerprint.pb; of every other file only its
size. So a description takes a fraction of a second whatever the model's size, and damage inside of a data file or an asset, which
leaves its length as it was, goes unseen.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from google.protobuf.message import DecodeError

from serving.saved_model_folder import LARGEST_PROTO, PROTO, TEXT, SavedModelError, find_saved_model
from serving.saved_objects import restored_keys, saved_variables
from serving.signatures import Signature, TensorSpec, dtype_name, read_signature
from serving.tensor_bundle import Bundle, BundleError, Entry, read_bundle
from serving.tensorflow_protos import tensorflow_protos

__all__ = ["Asset", "SavedModelDescription", "SavedModelError", "Signature", "TensorSpec", "Variable", "describe"]

SERVE = ("serve",)
"""Tags of the MetaGraph that TF Serving loads: the one that has this tag and no other."""

_INIT_OP = "__saved_model_init_op"
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_INDEX = "variables/variables.index"
_PARTS = ("saved_model", "variables", "assets", "other")
_FINGERPRINTS = (
    "saved_model_checksum",
    "graph_def_program_hash",
    "signature_def_hash",
    "saved_object_graph_hash",
    "checkpoint_hash",
)


@dataclass(frozen=True)
class Variable:
    """A tensor in the variables folder: variables, and what else is restored with them (the content of tables).

    Attributes:
        name: What the program that exported it called it; the key when nothing tells.
        key: Its name in the checkpoint, as `tf.train.list_variables` has it.
        dtype: As TensorFlow names it.
        shape: Its dimensions.
        bytes: What it takes on disk.
    """

    name: str
    key: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Asset:
    """A file under assets/: its name there, its size, and the tensor that receives its path."""

    filename: str
    bytes: int
    tensor: str


@dataclass(frozen=True)
class SavedModelDescription:
    """All that `describe` finds out.

    Attributes:
        path: The folder with saved_model.pb.
        format: "tf1" for a graph, "tf2" for an object graph.
        tensorflow_version: Version that exported it, "" when it does not say.
        tensorflow_git_version: The same of its source.
        tags: Tags of the MetaGraph that is described.
        tag_sets: Tags of every MetaGraph in the file.
        signatures: By name, without TensorFlow's own init op.
        variables: In the order of their keys.
        assets: In the order in which the model declares them.
        ops: How often each op occurs in the graph and the functions, the most frequent first.
        nodes: Number of nodes in the graph, those of functions aside.
        functions: Number of functions in its library.
        sizes: Bytes by part: "saved_model", "variables", "assets", "other", and "total".
        files: Bytes of every file by its path within the folder.
        fingerprint: fingerprint.pb's hashes and uuid; whole numbers as decimal strings, which JSON readers would round. None when
            there is no such file, as before TensorFlow 2.12.
    """

    path: str
    format: Literal["tf1", "tf2"]
    tensorflow_version: str
    tensorflow_git_version: str
    tags: list[str]
    tag_sets: list[list[str]]
    signatures: dict[str, Signature]
    variables: list[Variable]
    assets: list[Asset]
    ops: dict[str, int]
    nodes: int
    functions: int
    sizes: dict[str, int]
    files: dict[str, int]
    fingerprint: dict[str, str] | None


def describe(folder: Path, tags: Collection[str] = SERVE) -> SavedModelDescription:
    """Reads a SavedModel and checks that it is whole.

    Args:
        folder: A SavedModel, a version in a store, a model's folder in a store (its newest version is taken), or a TFX Model
            artifact.
        tags: The tags of the MetaGraph to describe, no more and no fewer.

    Raises:
        SavedModelError: There is no SavedModel (the message says what there is), or something is missing or damaged. As many
            problems as can be told at once are in it.
    """
    place = find_saved_model(folder)
    try:
        return _describe(place, sorted(set(tags)))
    except OSError as error:  # what went away, or may not be read
        raise SavedModelError(place, [f"cannot be read: {error}"]) from error


def _describe(place: Path, tags: list[str]) -> SavedModelDescription:
    saved_model = _read(place)
    tag_sets = [sorted(meta.meta_info_def.tags) for meta in saved_model.meta_graphs]
    if tags not in tag_sets:
        file = PROTO if (place / PROTO).is_file() else TEXT
        there = ", ".join(map(_tag_set, tag_sets)) or "no MetaGraph at all: the file was cut short"
        raise SavedModelError(place, [f"expected a MetaGraph tagged {_tag_set(tags)} in {file}, found {there}"])
    meta = saved_model.meta_graphs[tag_sets.index(tags)]
    files = _files(place)
    problems: list[str] = []
    variables = _variables(place, meta, files, problems)
    assets = _assets(meta, files, problems)
    fingerprint = _fingerprint(place, files, problems)
    if problems:
        raise SavedModelError(place, problems)
    bodies = [function.node_def for function in meta.graph_def.library.function]
    ops = Counter(node.op for body in (meta.graph_def.node, *bodies) for node in body)
    return SavedModelDescription(
        path=str(place),
        format="tf2" if meta.object_graph_def.nodes else "tf1",
        tensorflow_version=meta.meta_info_def.tensorflow_version,
        tensorflow_git_version=meta.meta_info_def.tensorflow_git_version,
        tags=tags,
        tag_sets=tag_sets,
        signatures={key: read_signature(value) for key, value in sorted(meta.signature_def.items()) if key != _INIT_OP},
        variables=variables,
        assets=assets,
        ops=dict(sorted(ops.items(), key=lambda item: (-item[1], item[0]))),
        nodes=len(meta.graph_def.node),
        functions=len(bodies),
        sizes=_sizes(files),
        files=files,
        fingerprint=fingerprint,
    )


def _files(place: Path) -> dict[str, int]:
    """Sizes of all files by path; linked folders count, since TensorFlow reads through links, but each once."""
    found: dict[str, int] = {}
    seen: set[str] = set()
    for parent, folders, names in os.walk(place, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        paths = [Path(parent, name) for name in names]
        found |= {path.relative_to(place).as_posix(): path.stat().st_size for path in paths if path.is_file()}
    return dict(sorted(found.items()))


def _tag_set(tags: list[str]) -> str:
    return f"[{', '.join(tags)}]"


def _read(place: Path) -> Any:
    """The SavedModel message; as in TensorFlow, the binary form counts when both are there."""
    message, path = tensorflow_protos().SavedModel(), place / PROTO
    if not path.is_file():
        return _read_text(place, message)
    if (size := path.stat().st_size) > LARGEST_PROTO:
        raise SavedModelError(place, [f"{PROTO} has {size} bytes, more than the {LARGEST_PROTO} that a protobuf can have"])
    content = path.read_bytes()
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise SavedModelError(place, [f"{PROTO} ({len(content)} bytes) was cut short or is no SavedModel: {error}"]) from error
    return message


def _read_text(place: Path, message: Any) -> Any:
    from google.protobuf import text_format  # takes longer to load than the binary form takes to parse

    try:
        return text_format.Parse((place / TEXT).read_text(encoding="utf-8"), message)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise SavedModelError(place, [f"{TEXT} was cut short or is damaged: {error}"]) from error


def _variables(place: Path, meta: Any, files: dict[str, int], problems: list[str]) -> list[Variable]:
    wanted = restored_keys(meta)
    if _INDEX not in files:
        # TensorFlow and TF Serving only log this, and then serve variables that were never restored.
        if meta.saver_def.restore_op_name:
            what = "is missing" if any(file.startswith("variables/") for file in files) else "is missing, with all its folder"
            problems.append(f"{_INDEX} {what}; the graph restores {len(wanted) or 'its'} tensors from it")
        return []
    try:
        bundle = read_bundle(place / _INDEX)
    except BundleError as error:
        problems.append(f"variables/{error}")
        return []
    problems += _shard_problems(bundle, files)
    keys = {entry.key for entry in bundle.entries}
    if absent := sorted(wanted - keys, key=lambda key: (key == _OBJECT_GRAPH, key)):
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        problems.append(f"{_INDEX} belongs to another model: the graph restores {absent[0]!r}{more}, which it does not have")
    saved = saved_variables(meta.object_graph_def)
    stored = [entry for entry in bundle.entries if entry.key != _OBJECT_GRAPH]
    return [_variable(entry, saved(entry.key), problems) for entry in stored]


def _variable(entry: Entry, saved: Any, problems: list[str]) -> Variable:
    """A stored tensor, `saved` being the variable that the object graph has for its key, or None."""
    if saved is not None:
        dims = [dim.size for dim in saved.shape.dim]
        fits = saved.shape.unknown_rank or (
            len(dims) == len(entry.shape) and all(dim in (-1, size) for dim, size in zip(dims, entry.shape, strict=True))
        )
        if not fits or saved.dtype != entry.dtype:
            expected, found = f"{dtype_name(saved.dtype)} {dims}", f"{dtype_name(entry.dtype)} {list(entry.shape)}"
            problems.append(f"{_INDEX} belongs to another model: {entry.key!r} is {found}, the graph has {expected}")
    name = (saved is not None and saved.name) or entry.key
    return Variable(name=name, key=entry.key, dtype=dtype_name(entry.dtype), shape=entry.shape, bytes=entry.bytes)


def _shard_problems(bundle: Bundle, files: dict[str, int]) -> Iterator[str]:
    for shard, needed in bundle.shards.items():
        size = files.get(f"variables/{shard}")
        if size is None:
            there = ", ".join([file for file in files if file.startswith("variables/variables.data")][:3])
            yield f"variables/{shard} is missing{there and f'; there is {there}'}"
        elif size < needed:
            yield f"variables/{shard} was cut short: it has {size} bytes, the index needs {needed}"


def _assets(meta: Any, files: dict[str, int], problems: list[str]) -> list[Asset]:
    kept = meta.collection_def["saved_model_assets"].any_list.value if "saved_model_assets" in meta.collection_def else []
    assets = []
    try:
        # TensorFlow 1 before 1.15 has them in the collection alone, later versions in both places, TensorFlow 2 in the field.
        declared = list(meta.asset_file_def) or [tensorflow_protos().AssetFileDef.FromString(each.value) for each in kept]
    except DecodeError as error:
        problems.append(f"the collection of assets in the graph is damaged: {error}")
        return []
    for asset in declared:
        size = files.get(f"assets/{asset.filename}")
        if size is None:
            problems.append(f"assets/{asset.filename} is missing; the graph reads it ({asset.tensor_info.name})")
        else:
            assets.append(Asset(asset.filename, size, asset.tensor_info.name))
    return assets


def _sizes(files: dict[str, int]) -> dict[str, int]:
    sizes = dict.fromkeys(_PARTS, 0)
    for path, size in files.items():
        top = path.partition("/")[0]
        sizes["saved_model" if path in (PROTO, TEXT) else top if top != path and top in _PARTS else "other"] += size
    return {**sizes, "total": sum(files.values())}


def _fingerprint(place: Path, files: dict[str, int], problems: list[str]) -> dict[str, str] | None:
    if "fingerprint.pb" not in files:
        return None
    try:
        fingerprint = tensorflow_protos().FingerprintDef.FromString((place / "fingerprint.pb").read_bytes())
    except DecodeError as error:
        problems.append(f"fingerprint.pb is damaged: {error}")
        return None
    return {**{name: str(getattr(fingerprint, name)) for name in _FINGERPRINTS}, "uuid": fingerprint.uuid}
