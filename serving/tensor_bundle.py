"""Reads the index of a TensorFlow checkpoint ("tensor bundle") without TensorFlow.

`<prefix>.index` is a table in LevelDB's format (tensorflow/core/lib/io/table_format.txt, format.cc): blocks of sorted keys and
values, each followed by one byte of compression type and a masked CRC-32C; an index block that says where they are; a footer of
48 bytes. The key "" holds a BundleHeaderProto, every other one a BundleEntryProto: dtype, shape, and the place in one of the
files `<prefix>.data-00000-of-00001` (tensorflow/core/protobuf/tensor_bundle.proto).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
from google.protobuf.message import DecodeError

from serving.tensorflow_protos import tensorflow_protos

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = 5
_MASK = 0xA282EAD8
_COMPRESSION = {1: "snappy", 2: "zlib", 3: "zstd"}


class BundleError(Exception):
    """The index cannot be read; the message names the file, and where in it."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint.

    Attributes:
        key: Its name in the checkpoint.
        dtype: Number of its DataType.
        shape: Its dimensions.
        bytes: What it takes on disk, all slices of a partitioned one together.
    """

    key: str
    dtype: int
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Bundle:
    """What an index says: the tensors in the order of their keys, and how long each data file has to be, in bytes."""

    entries: tuple[Entry, ...]
    shards: dict[str, int]


def read_bundle(index: Path) -> Bundle:
    """Reads `<prefix>.index`; the data files are not looked at.

    Raises:
        BundleError: It is cut short, damaged, compressed, or no index of a checkpoint.
    """
    try:
        return _bundle(index.read_bytes(), index.name.removesuffix(".index"))
    except OSError as error:
        raise BundleError(f"{index.name} cannot be read: {error.strerror}") from error
    except (BundleError, DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{index.name} is damaged: {error}") from error


def _bundle(content: bytes, prefix: str) -> Bundle:
    protos = tensorflow_protos()
    stored = dict(_table(content))
    if b"" not in stored:
        raise BundleError("it has no header entry, so it is a table of something else than a checkpoint")
    header = protos.BundleHeaderProto.FromString(stored.pop(b""))
    found = {key: protos.BundleEntryProto.FromString(value) for key, value in stored.items()}
    shards: dict[str, int] = {}
    sliced: dict[bytes, int] = {}
    for key, entry in found.items():
        if not (0 <= entry.shard_id < header.num_shards and entry.offset >= 0 and entry.size >= 0):
            raise BundleError(f"the entry {key!r} lies in no data file (file {entry.shard_id} of {header.num_shards})")
        if key.startswith(b"\0"):
            name = _sliced_name(key)
            sliced[name] = sliced.get(name, 0) + entry.size
        if not entry.slices:
            file = f"{prefix}.data-{entry.shard_id:05d}-of-{header.num_shards:05d}"
            shards[file] = max(shards.get(file, 0), entry.offset + entry.size)
    whole = [(key, entry) for key, entry in found.items() if not key.startswith(b"\0")]
    return Bundle(tuple(_entry(key, entry, sliced) for key, entry in whole), dict(sorted(shards.items())))


def _entry(key: bytes, entry: Any, sliced: dict[bytes, int]) -> Entry:
    return Entry(key.decode(), entry.dtype, tuple(dim.size for dim in entry.shape.dim), sliced.get(key, entry.size))


def _sliced_name(key: bytes) -> bytes:
    """The tensor that a slice belongs to: its key is OrderedCode of 0, the name and the slice (saved_tensor_slice_util.cc)."""
    return key[1:].partition(b"\0\1")[0].replace(b"\0\xff", b"\0").replace(b"\xff\0", b"\xff")


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All keys and values of a table, in order."""
    if len(content) < _FOOTER:
        raise BundleError(f"it has {len(content)} bytes, fewer than the {_FOOTER} of a table's footer alone")
    magic = int.from_bytes(content[-8:], "little")
    if magic != _MAGIC:
        raise BundleError(f"it was cut short or is no table: expected the magic number {_MAGIC:#x} at its end, found {magic:#x}")
    footer = content[-_FOOTER:]
    meta, at = _handle(footer, 0)
    if list(_block(content, meta)):  # only its checksum matters
        raise BundleError("its meta-index block has entries, which TensorFlow never writes")
    for _, handle in _block(content, _handle(footer, at)[0]):
        yield from _block(content, _handle(handle, 0)[0])


def _block(content: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block; each key is stored as what it does not share with the one before."""
    offset, size = handle
    end = offset + size
    if end + _TRAILER > len(content) - _FOOTER:
        raise BundleError(f"a block should end at byte {end + _TRAILER}, the file's footer begins at {len(content) - _FOOTER}")
    crc = google_crc32c.value(content[offset : end + 1])
    masked, stored = ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF, int.from_bytes(content[end + 1 : end + _TRAILER], "little")
    if masked != stored:
        raise BundleError(
            f"the block at byte {offset} fails its checksum: {stored:#010x} is stored, its content gives {masked:#010x}"
        )
    if content[end]:
        kind = _COMPRESSION.get(content[end], f"type {content[end]}")
        raise BundleError(
            f"the block at byte {offset} is compressed ({kind}), which TensorFlow never does in a checkpoint's index"
        )
    block = content[offset:end]
    restarts = int.from_bytes(block[-4:], "little")
    last, at, key = size - 4 * (restarts + 1), 0, b""
    if last < 0:
        raise BundleError(f"the block at byte {offset} is too short for its {restarts} restart points")
    while at < last:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + fresh + length > last:
            raise BundleError(f"an entry of the block at byte {offset} reaches beyond its end")
        key = key[:shared] + block[at : at + fresh]
        at += fresh + length
        yield key, block[at - length : at]


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """A block's place (offset, size), and where in `data` it ends."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise BundleError("a number in it does not end")
