"""Opening a .tflite as what it is, a flatbuffer of `schema.fbs` (tensorflow/lite/schema), without TensorFlow or an interpreter.

The schema's binding is the one that ai-edge-litert ships. Flatbuffers for Python has no verifier: what it reads from a damaged
file is garbage, an exception of many kinds, or a vector of four billion entries. So whoever reads does it inside of `reading`,
which makes one clear error of all those, and goes through vectors with `entries`, which knows what fits into the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from serving.errors import ServingError

IDENTIFIER = b"TFL3"
"""Bytes 4 to 8 of every .tflite (`file_identifier` of schema.fbs)."""

_KNOWN = {
    b"\x89PNG": "a PNG image",
    b"\x89HDF": "an HDF5 file, as Keras writes .h5",
    b"PK\x03\x04": "a zip archive, as Keras writes .keras",
    b"\x1f\x8b": "gzipped: unpack it first",
    b"{": "JSON or text",
    b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull`",
}
_ENTRY_BYTES = 4
"""The least that an entry of a vector of tables takes: its offset."""
_MOST_TABLES = 1_000_000
"""As many as the verifier of flatbuffers for C++ allows (`max_tables` in flatbuffers/verifier.h)."""


class TFLiteFileError(ServingError):
    """A file that is no TFLite model, or is damaged; the message says where."""


class TFLiteFile:
    """A .tflite's bytes and its root table.

    Attributes:
        content: The whole file.
        model: `ai_edge_litert.schema_py_generated.Model`.
        name: For messages.
    """

    def __init__(self, content: bytes, name: str = "the model") -> None:
        """Args: the file's bytes; what to call it in messages. Raises TFLiteFileError when it is no TFLite flatbuffer."""
        from ai_edge_litert import schema_py_generated as schema

        _check_identifier(content, name)
        self.content = content
        self.name = name
        # A tree has fewer tables than its file has offsets; a damaged one can lead to the same tables over and over again.
        self._left = min(len(content) // _ENTRY_BYTES, _MOST_TABLES)
        with self.reading("its root table"):
            self.model = schema.Model.GetRootAs(content)
            self.model.Version()

    @contextmanager
    def reading(self, part: str) -> Iterator[None]:
        """Turns what reading garbage raises into a TFLiteFileError that names the part."""
        try:
            yield
        except (struct.error, ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, MemoryError) as error:
            raise self.damaged(part, "it leads outside of the file") from error

    def damaged(self, part: str, why: str) -> TFLiteFileError:
        """The error for a part that is not as it should be."""
        return TFLiteFileError(
            f"{self.name}: {part} cannot be read: {why}; the file of {len(self.content)} bytes was cut short or damaged"
        )

    def entries(self, count: int, get: Callable[[int], Any], part: str) -> Iterator[Any]:
        """The entries of a vector of tables, such as `entries(model.SubgraphsLength(), model.Subgraphs, "subgraph")`.

        Raises:
            TFLiteFileError: There are more than the file has room for, or one cannot be reached.
        """
        if count > self._left:
            raise self.damaged(f"the list of every {part}", f"it says that it has {count} entries")
        self._left -= count
        for index in range(count):
            with self.reading(f"{part} {index}"):
                entry = get(index)
            yield entry

    @cached_property
    def buffers(self) -> list[Any]:
        """The tables of the buffers, in the file's order."""
        with self.reading("the list of buffers"):
            count = self.model.BuffersLength()
        return list(self.entries(count, self.model.Buffers, "buffer"))

    def data(self, index: int) -> memoryview:
        """The bytes of a buffer; none for one that is empty, as those of tensors that are computed are."""
        if not 0 <= index < len(self.buffers):
            raise self.damaged(f"buffer {index}", f"there are {len(self.buffers)} buffers")
        buffer = self.buffers[index]
        with self.reading(f"buffer {index}"):
            start, size = buffer.Offset(), buffer.Size()
            if start > 1:  # schema.fbs: the data lies behind the flatbuffer, as in models above 2 GB; 0 and 1 say it does not
                if start + size > len(self.content):
                    raise self.damaged(f"buffer {index}", f"it ends at byte {start + size}")
                return memoryview(self.content)[start : start + size]
            if not buffer.DataLength():
                return memoryview(b"")
            return memoryview(buffer.DataAsNumpy()).cast("B")


def text(value: bytes | None) -> str:
    """A flatbuffer's string; what is no UTF-8 in it is shown as escapes."""
    return (value or b"").decode("utf-8", "backslashreplace")


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        TFLiteFileError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise TFLiteFileError(f"{path}: {error.strerror}") from None


def _check_identifier(content: bytes, name: str) -> None:
    if not content:
        raise TFLiteFileError(f"{name}: expected a TFLite model, got an empty file")
    found = content[4:8]
    if found == IDENTIFIER:
        return
    known = next((said for start, said in _KNOWN.items() if content.startswith(start)), "")
    if known or len(content) < 8:
        raise TFLiteFileError(f"{name}: expected a TFLite model, got {known or f'a file of {len(content)} bytes'}")
    raise TFLiteFileError(
        f"{name}: expected a TFLite model, whose bytes 4 to 8 are {IDENTIFIER!r}, got {found!r}: "
        + ("a model of the old TFLite format" if found[:3] == b"TFL" else "not a TFLite file, or its start was overwritten")
    )
