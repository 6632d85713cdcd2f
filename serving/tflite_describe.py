"""Describes a .tflite from its bytes alone: no TensorFlow, no interpreter, nothing of it runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from serving.tflite_file import TFLiteFile, TFLiteFileError, read_file, text
from serving.tflite_graph import Signature, Subgraph, read_signatures, read_subgraphs
from serving.tflite_metadata import NAME, TensorInfo, TFLiteMetadata, content_intact, metadata_entries, read_metadata
from serving.tflite_weights import Weights, read_weights


class SignatureInfo(BaseModel):
    """A signature; `stored` is False for the one that stands in when the file has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    stored: bool


class Tensors(BaseModel):
    """The tensors of one type: how many, how many of them are constants, and the constants' bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensors: int
    constants: int
    bytes: int


class Buffers(BaseModel):
    """The flatbuffer's buffers: all, those with data, the bytes in them, and of these what nothing refers to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int
    filled: int
    bytes: int
    unused_bytes: int


class TFLiteDescription(BaseModel):
    """All that `describe` finds out.

    Attributes:
        file_bytes: Size of the file.
        schema_version: 3 in all files of today.
        description: What the converter wrote: "MLIR Converted.".
        signatures: By key.
        metadata: tfline's; None without.
        content_intact: Whether the model is, bit for bit, the one that the metadata was written for; None without metadata.
        other_metadata: Other entries of the Metadata table, their bytes by name.
        subgraphs: How many graphs.
        ops: How often each op occurs in all of them, the most frequent first.
        tensors: By type.
        weights: Constants, the largest first.
        buffers: See there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_bytes: int
    schema_version: int
    description: str
    signatures: dict[str, SignatureInfo]
    metadata: TFLiteMetadata | None
    content_intact: bool | None
    other_metadata: dict[str, int]
    subgraphs: int
    ops: dict[str, int]
    tensors: dict[str, Tensors]
    weights: tuple[Weights, ...]
    buffers: Buffers


def describe(path: Path) -> TFLiteDescription:
    """Reads a .tflite and checks that what it refers to is there.

    Raises:
        TFLiteFileError: It cannot be read, is no TFLite model, or is damaged; the message says where.
    """
    return describe_bytes(read_file(path), str(path))


def describe_bytes(content: bytes, name: str = "the model") -> TFLiteDescription:
    """As `describe`, of the bytes of a file; `name` is for messages."""
    file = TFLiteFile(content, name)
    subgraphs = read_subgraphs(file)
    signatures = read_signatures(file, subgraphs)
    weights = read_weights(file, subgraphs)
    metadata = read_metadata(content, name)
    intact = content_intact(content, name)
    if intact is False:
        raise TFLiteFileError(
            f"{name}: the model is not the one that its metadata was written for: its SHA-256 differs; it was damaged, or "
            "changed by a program that kept the metadata"
        )
    entries = metadata_entries(file)
    with file.reading("its description"):
        said = text(file.model.Description())
    return TFLiteDescription(
        file_bytes=len(content),
        schema_version=file.model.Version(),
        description=said,
        signatures={key: _signature(each) for key, each in signatures.items()},
        metadata=metadata,
        content_intact=intact,
        other_metadata={key: len(data) for key, data in entries if key != NAME},
        subgraphs=len(subgraphs),
        ops=dict(Counter(op for graph in subgraphs for op in graph.ops).most_common()),
        tensors=_tensors(file, subgraphs),
        weights=tuple(weights),
        buffers=_buffers(file, subgraphs, sum(len(data) for _, data in entries)),
    )


def _signature(signature: Signature) -> SignatureInfo:
    return SignatureInfo(inputs=signature.inputs, outputs=signature.outputs, stored=signature.stored)


def _tensors(file: TFLiteFile, subgraphs: list[Subgraph]) -> dict[str, Tensors]:
    every = [tensor for graph in subgraphs for tensor in graph.tensors]
    # A buffer can be several tensors' data; its bytes count once.
    sizes = {tensor.buffer: (tensor.dtype, len(file.data(tensor.buffer))) for tensor in reversed(every)}
    return {
        dtype: Tensors(
            tensors=count,
            constants=sum(tensor.dtype == dtype and sizes[tensor.buffer][1] > 0 for tensor in every),
            bytes=sum(size for kind, size in sizes.values() if kind == dtype),
        )
        for dtype, count in Counter(tensor.dtype for tensor in every).most_common()
    }


def _buffers(file: TFLiteFile, subgraphs: list[Subgraph], metadata_bytes: int) -> Buffers:
    sizes = [len(file.data(index)) for index in range(len(file.buffers))]
    used = {tensor.buffer for graph in subgraphs for tensor in graph.tensors}
    return Buffers(
        count=len(sizes),
        filled=sum(size > 0 for size in sizes),
        bytes=sum(sizes),
        unused_bytes=max(0, sum(sizes) - sum(sizes[index] for index in used) - metadata_bytes),
    )
