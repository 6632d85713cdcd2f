"""What a .tflite says about itself: tfline's metadata, kept in the flatbuffer's own Metadata table under TFLINE_METADATA.

The text is UTF-8 JSON: the fields of `TFLiteMetadata`, and `content`, the size and SHA-256 of the model without it. A device
reads it with any flatbuffers binding of schema.fbs and any JSON parser.

    the file:   new root table, lists of buffers and of metadata, the JSON  |  the model, byte for byte as it was

Flatbuffers point forward only, so a new root in front can lead to everything behind it: no weight, no signature, no field that
this schema binding does not know is read or written again, and what was aligned stays aligned.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.tflite_file import IDENTIFIER, TFLiteFile, TFLiteFileError, text

NAME = "TFLINE_METADATA"
FORMAT = 1
"""Raised when a reader of this one could misunderstand a file."""

_ALIGNMENT = 16
"""Bytes; `force_align: 16` of Buffer.data in schema.fbs."""

_LARGEST = 2**31 - 1
"""Bytes; what a flatbuffer's offsets reach."""

_SLOTS = {name: 4 + 2 * slot for slot, name in enumerate((
    "Version", "OperatorCodes", "Subgraphs", "Description", "Buffers", "MetadataBuffer", "Metadata", "SignatureDefs",
    "ExternalBufferGroups", "ExternalBuffers",
))}  # fmt: skip
"""Where the vtable of Model has each field, from the order in schema.fbs (flatbuffers' internals: vtable)."""

_OFFSETS = [name for name in _SLOTS if name not in ("Version", "Buffers", "Metadata")]
"""Fields that the new root takes over as they are."""

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TensorInfo(BaseModel):
    """An input or output: real value = scale * (stored value - zero_point); both None where nothing is quantized.

    Attributes:
        name: The signature's name of it.
        dtype: NumPy's name of the stored type, "string" for text.
        shape: With -1 for an open dimension.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    dtype: str = Field(min_length=1)
    shape: tuple[Annotated[int, Field(ge=-1)], ...]
    scale: _Scale | None = None
    zero_point: int | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> TensorInfo:
        if (self.scale is None) != (self.zero_point is None):
            raise ValueError(f"{self.name}: expected scale and zero_point together, got only one")
        return self


class Transform(BaseModel):
    """The transform that training used, and who applies it.

    Attributes:
        digest: SHA-256 that changes when the transform does.
        version: What its makers call it.
        host: None when it is inside of the .tflite, which then takes raw features. Else the name of what lies beside
            the .tflite and the host applies before it calls the model.
        raw_inputs: What the host's transform takes; with host only.
        host_digest: SHA-256 of that folder (`serving.manifest.tree_digest`), so that a wrong one is noticed.
        reason: Why it is not inside: the ops that TFLite has no builtin for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: _Digest
    version: str | None = None
    host: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    raw_inputs: tuple[TensorInfo, ...] = ()
    host_digest: _Digest | None = None
    reason: str | None = None


class TFLiteMetadata(BaseModel):
    """What a caller has to know to use a .tflite without its makers.

    Attributes:
        model_name: The pipeline's name of the model.
        model_version: Its version in the store; None for one that was not pushed yet.
        saved_model_digest: SHA-256 of the SavedModel that it was converted from.
        variant: Which of the optimized forms it is, such as "int8" or "pqat".
        signature: Key of the signature that inputs and outputs are of.
        inputs, outputs: Of that signature.
        labels: Names of the classes, in the order of the values of the output `labels_of`; two for an output of one probability.
        labels_of: That output; None without labels.
        features: Whether the inputs are "raw" features or "transformed" ones, which the host has to compute.
        transform: None for a model without one.
        tfline_version: Of the writer.
        format: Of this text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_name: str = Field(min_length=1)
    model_version: str | None = None
    saved_model_digest: _Digest
    variant: str = Field(min_length=1)
    signature: str = Field(min_length=1)
    inputs: tuple[TensorInfo, ...] = Field(min_length=1)
    outputs: tuple[TensorInfo, ...] = Field(min_length=1)
    labels: tuple[str, ...] = ()
    labels_of: str | None = None
    features: Literal["raw", "transformed"]
    transform: Transform | None = None
    tfline_version: str = Field(default_factory=lambda: version("tfline"))
    format: Literal[1] = 1

    @model_validator(mode="after")
    def _consistent(self) -> TFLiteMetadata:
        host = self.transform.host if self.transform else None
        if (self.features == "transformed") != (host is not None):
            raise ValueError(f"features are {self.features!r}, but the transform's host is {host!r}")
        if bool(self.labels) != (self.labels_of is not None):
            raise ValueError("expected labels and labels_of together, got only one")
        if self.labels_of is not None:
            self._check_labels(self.labels_of)
        return self

    def _check_labels(self, output: str) -> None:
        of = next((each for each in self.outputs if each.name == output), None)
        if of is None:
            raise ValueError(f"labels_of is {output!r}, no output: {[each.name for each in self.outputs]}")
        width = of.shape[-1] if len(of.shape) > 1 else 1
        if width not in (-1, len(self.labels)) and (width, len(self.labels)) != (1, 2):
            raise ValueError(f"{len(self.labels)} labels for output {output!r} with {width} values")


class _Content(BaseModel):
    """The model without the metadata: the last `bytes` of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(gt=0)
    sha256: _Digest


class _Stored(NamedTuple):
    metadata: TFLiteMetadata
    content: _Content


def write_metadata(model: bytes, metadata: TFLiteMetadata) -> bytes:
    """Puts metadata into a .tflite, in place of what an earlier call put there.

    Args:
        model: A .tflite.
        metadata: What it shall say.

    Returns:
        A .tflite that ends with the given one as it was before any metadata of tfline, byte for byte.

    Raises:
        TFLiteFileError: The model is damaged; is above 2 GB; or has data at offsets counted from the start of the file.
    """
    base = _without(model)
    content = _Content(bytes=len(base), sha256=hashlib.sha256(base).hexdigest())
    stored = json.dumps(metadata.model_dump(mode="json") | {"content": content.model_dump()}, ensure_ascii=False)
    return _prepend(TFLiteFile(base), stored.encode())


def read_metadata(model: bytes, name: str = "the model") -> TFLiteMetadata | None:
    """The metadata that `write_metadata` put into a .tflite; None when there is none.

    Args:
        model: A .tflite.
        name: What to call it in messages.

    Raises:
        TFLiteFileError: The model or its metadata is damaged, or was written by a newer tfline.
    """
    stored = _read(TFLiteFile(model, name))
    return None if stored is None else stored.metadata


def content_intact(model: bytes, name: str = "the model") -> bool | None:
    """Whether the model behind its metadata is, bit for bit, what the metadata was written for; None without metadata.

    Raises:
        TFLiteFileError: As `read_metadata`.
    """
    stored = _read(TFLiteFile(model, name))
    return None if stored is None else _base(model, stored.content) is not None


def metadata_entries(file: TFLiteFile) -> list[tuple[str, memoryview]]:
    """Name and data of every entry of the Metadata table: that of tfline, and others such as `min_runtime_version`."""
    with file.reading("the list of metadata"):
        count = file.model.MetadataLength()
    found = []
    for number, entry in enumerate(file.entries(count, file.model.Metadata, "metadata entry")):
        with file.reading(f"metadata entry {number}"):
            name, buffer = text(entry.Name()), entry.Buffer()
        found.append((name, file.data(buffer)))
    return found


def _read(file: TFLiteFile) -> _Stored | None:
    found = [data for name, data in metadata_entries(file) if name == NAME]
    if not found:
        return None
    try:
        value: Any = json.loads(bytes(found[0]))
    except (ValueError, RecursionError) as error:
        raise file.damaged(f"its metadata {NAME}", f"it is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise TFLiteFileError(f"{file.name}: its metadata {NAME} is not tfline's: expected an object, got {type(value).__name__}")
    newer = value.get("format")
    if isinstance(newer, int) and newer > FORMAT:
        raise TFLiteFileError(f"{file.name}: its metadata has format {newer}; this tfline reads {FORMAT}: take a newer one")
    try:
        content = _Content.model_validate(value.pop("content", None))
        return _Stored(TFLiteMetadata.model_validate(value), content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise TFLiteFileError(f"{file.name}: its metadata {NAME} is not tfline's: {where}: {first['msg']}") from None


def _base(model: bytes, content: _Content) -> bytes | None:
    base = model[-content.bytes :]
    return base if len(base) == content.bytes and hashlib.sha256(base).hexdigest() == content.sha256 else None


def _without(model: bytes) -> bytes:
    """The model as it was before `write_metadata`: as given, unless that function was the last to change it."""
    file = TFLiteFile(model)
    stored = _read(file)
    base = None if stored is None else _base(model, stored.content)
    if base is None:
        return model
    others = [name for name, _ in metadata_entries(file) if name != NAME]
    return base if [name for name, _ in metadata_entries(TFLiteFile(base))] == others else model


def _check_movable(file: TFLiteFile) -> None:
    """Refuses a model whose data would be lost or pointed past by what comes in front of it."""
    from flatbuffers import encode, packer
    from flatbuffers.table import Table

    with file.reading("its root table"):
        root = Table(file.content, encode.Get(packer.uoffset, file.content, 0))
        size = encode.Get(packer.voffset, file.content, root.Pos - encode.Get(packer.soffset, file.content, root.Pos))
        newer = [slot for slot in range(4 + 2 * len(_SLOTS), size, 2) if root.Offset(slot)]
    if newer:
        raise TFLiteFileError(f"{file.name}: its schema is newer than ai-edge-litert's: no metadata can be put into it")
    if len(file.content) > _LARGEST - 2**20 or any(buffer.Offset() > 1 for buffer in file.buffers):
        raise TFLiteFileError(f"{file.name}: its data lies behind the flatbuffer, as above 2 GB: no metadata can be put into it")


def _prepend(file: TFLiteFile, stored: bytes) -> bytes:
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder, encode, packer
    from flatbuffers.table import Table

    base = file.content
    _check_movable(file)
    others = [number for number, (name, _) in enumerate(metadata_entries(file)) if name != NAME]
    with file.reading("its root table"):
        old = Table(base, encode.Get(packer.uoffset, base, 0))
        lists = {name: old.Vector(old.Offset(_SLOTS[name])) for name in ("Buffers", "Metadata") if old.Offset(_SLOTS[name])}
        buffers = [old.Indirect(lists["Buffers"] + 4 * number) for number in range(len(file.buffers))]
        entries = [old.Indirect(lists["Metadata"] + 4 * number) for number in others]
        fields = {name: old.Indirect(old.Pos + old.Offset(_SLOTS[name])) for name in _OFFSETS if old.Offset(_SLOTS[name])}

    # A builder works from the end of the file to its start, and counts offsets from the end.
    builder = Builder(len(base) + len(stored) + 4 * (len(buffers) + len(entries)) + 1024)
    builder.Prep(_ALIGNMENT, len(base))
    behind = builder.Offset()  # what fills up to the alignment, and nothing refers to
    start = builder.CreateByteVector(base) - 4  # without the vector's length in front, which is not needed

    def vector(positions: list[int], new: int) -> int:
        builder.StartVector(4, len(positions) + 1, 4)
        builder.PrependUOffsetTRelative(new)
        for position in reversed(positions):
            builder.PrependUOffsetTRelative(start - position)
        return int(builder.EndVector())

    builder.Prep(_ALIGNMENT, len(stored))
    text_at = builder.CreateByteVector(stored)
    schema.BufferStart(builder)
    schema.BufferAddData(builder, text_at)
    buffers_at = vector(buffers, schema.BufferEnd(builder))
    name_at = builder.CreateString(NAME)
    schema.MetadataStart(builder)
    schema.MetadataAddName(builder, name_at)
    schema.MetadataAddBuffer(builder, len(buffers))
    entries_at = vector(entries, schema.MetadataEnd(builder))
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, file.model.Version())
    schema.ModelAddBuffers(builder, buffers_at)
    schema.ModelAddMetadata(builder, entries_at)
    for name, position in fields.items():
        getattr(schema, f"ModelAdd{name}")(builder, start - position)
    builder.Finish(schema.ModelEnd(builder), IDENTIFIER)
    made = builder.Output()
    return bytes(made[: len(made) - behind])
