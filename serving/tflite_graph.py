"""The graphs of a .tflite as plain records: tensors, operators, signatures; all that they refer to is checked to be there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from serving.tflite_file import TFLiteFile, TFLiteFileError, text
from serving.tflite_metadata import TensorInfo

DEFAULT_SIGNATURE = "serving_default"
"""What a model without signatures is called by, as TensorFlow Serving does (tflite_session.cc)."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a subgraph.

    Attributes:
        dtype: TensorType of schema.fbs in small letters: "float32", "int4", "string".
        shape: With -1 for an open dimension.
        sizes: The shape as it is stored, 1 for an open dimension.
        buffer: Index of its data; the data are empty for what is computed.
        scales, zero_points: One for the tensor, one for each channel, or none.
        channel: The dimension that has a scale for each index.
        sparse: Whether only values other than zero are stored, in blocks.
        external: Whether its data lie in another file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    buffer: int
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    channel: int
    sparse: bool
    external: bool

    def info(self, name: str) -> TensorInfo:
        """What a caller sees of it, under a signature's name."""
        quantized = len(self.scales) == 1 and self.dtype.startswith(("int", "uint"))
        scale, zero_point = (self.scales[0], self.zero_points[0]) if quantized else (None, None)
        return TensorInfo(name=name, dtype=self.dtype, shape=self.shape, scale=scale, zero_point=zero_point)


@dataclass(frozen=True)
class Subgraph:
    """A graph: the first one of a file is called, others are branches and bodies of loops, or other signatures'.

    Attributes:
        inputs, outputs: Indices of tensors.
        ops: Each operator's name, in the order in which they run; a custom op's is its own name.
    """

    name: str
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Signature:
    """A way to call a model, by the names that callers use.

    Attributes:
        stored: False for the one that stands in when the file has none.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    subgraph: int
    stored: bool = True


def read_subgraphs(file: TFLiteFile) -> list[Subgraph]:
    """Every graph of a file.

    Raises:
        TFLiteFileError: The file is damaged there.
    """
    ops = _op_names(file)
    with file.reading("the list of subgraphs"):
        count = file.model.SubgraphsLength()
    if not count:
        raise file.damaged("the list of subgraphs", "it is empty")
    entries = file.entries(count, file.model.Subgraphs, "subgraph")
    return [_subgraph(file, entry, f"subgraph {number}", ops) for number, entry in enumerate(entries)]


def read_signatures(file: TFLiteFile, subgraphs: list[Subgraph]) -> dict[str, Signature]:
    """A file's signatures by key; of a file without, one that takes and gives what the first subgraph does, by tensors' names.

    Raises:
        TFLiteFileError: The file is damaged there.
    """
    with file.reading("the list of signatures"):
        count = file.model.SignatureDefsLength()
    found = {}
    for number, entry in enumerate(file.entries(count, file.model.SignatureDefs, "signature")):
        part = f"signature {number}"
        with file.reading(part):
            key, graph = text(entry.SignatureKey()), entry.SubgraphIndex()
            counts = entry.InputsLength(), entry.OutputsLength()
        if graph >= len(subgraphs):
            raise file.damaged(part, f"it is of subgraph {graph}, there are {len(subgraphs)}")
        tensors = subgraphs[graph].tensors
        inputs, outputs = (
            _named(file, file.entries(size, get, f"tensor of {part}"), tensors, part)
            for size, get in zip(counts, (entry.Inputs, entry.Outputs), strict=True)
        )
        found[key] = Signature(inputs, outputs, graph)
    if found:
        return found
    first = subgraphs[0]
    edges = [
        tuple(first.tensors[index].info(first.tensors[index].name or f"tensor_{index}") for index in indices)
        for indices in (first.inputs, first.outputs)
    ]
    return {DEFAULT_SIGNATURE: Signature(edges[0], edges[1], 0, stored=False)}


def signature_of(model: bytes, signature: str, name: str = "the model") -> Signature:
    """One signature of a .tflite, such as `TFLiteMetadata` has it.

    Raises:
        TFLiteFileError: The file is damaged, or has no such signature.
    """
    file = TFLiteFile(model, name)
    found = read_signatures(file, read_subgraphs(file))
    return pick(found, signature, name)


def pick(signatures: Mapping[str, Signature], wanted: str, name: str) -> Signature:
    """The signature that is wanted; TFLiteFileError when there is none."""
    if wanted not in signatures:
        raise TFLiteFileError(f"{name}: expected a signature of the file ({', '.join(signatures)}), got {wanted}")
    return signatures[wanted]


def _named(file: TFLiteFile, entries: Iterable[Any], tensors: tuple[Tensor, ...], part: str) -> tuple[TensorInfo, ...]:
    found = []
    for entry in entries:
        with file.reading(part):
            name, index = text(entry.Name()), entry.TensorIndex()
        if not name or index >= len(tensors):
            raise file.damaged(part, f"it names tensor {index} {name!r}, there are {len(tensors)}")
        found.append(tensors[index].info(name))
    return tuple(sorted(found, key=lambda each: each.name))


def _op_names(file: TFLiteFile) -> list[str]:
    """The names that operators refer to by number."""
    with file.reading("the list of operator codes"):
        count = file.model.OperatorCodesLength()
    names = []
    for number, code in enumerate(file.entries(count, file.model.OperatorCodes, "operator code")):
        with file.reading(f"operator code {number}"):
            # Codes above 127 are in the newer field only, old files have the old one only: the schema says to take the larger.
            name = _builtin_ops().get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
            custom = text(code.CustomCode())
        if name is None:
            raise file.damaged(f"operator code {number}", f"it is {code.BuiltinCode()}, which no builtin op has")
        names.append(custom if name == "CUSTOM" else name)
    return names


def _subgraph(file: TFLiteFile, graph: Any, part: str, ops: list[str]) -> Subgraph:
    with file.reading(part):
        counts = graph.TensorsLength(), graph.OperatorsLength()
        inputs, outputs = _ints(graph.InputsAsNumpy()), _ints(graph.OutputsAsNumpy())
        name = text(graph.Name())
    entries = enumerate(file.entries(counts[0], graph.Tensors, f"tensor of {part}"))
    tensors = tuple(_tensor(file, tensor, f"tensor {number} of {part}") for number, tensor in entries)
    names = []
    for number, operator in enumerate(file.entries(counts[1], graph.Operators, f"operator of {part}")):
        where = f"operator {number} of {part}"
        with file.reading(where):
            code, touched = operator.OpcodeIndex(), (*_ints(operator.InputsAsNumpy()), *_ints(operator.OutputsAsNumpy()))
        if code >= len(ops):
            raise file.damaged(where, f"it is of operator code {code}, there are {len(ops)}")
        _check_tensors(file, [index for index in touched if index != -1], tensors, where)  # -1: an input that is left out
        names.append(ops[code])
    _check_tensors(file, (*inputs, *outputs), tensors, part)
    return Subgraph(name, tensors, inputs, outputs, tuple(names))


def _check_tensors(file: TFLiteFile, indices: Iterable[int], tensors: tuple[Tensor, ...], part: str) -> None:
    wrong = next((index for index in indices if not 0 <= index < len(tensors)), None)
    if wrong is not None:
        raise file.damaged(part, f"it refers to tensor {wrong}, there are {len(tensors)}")


def _tensor(file: TFLiteFile, tensor: Any, part: str) -> Tensor:
    with file.reading(part):
        dtype = _tensor_types().get(tensor.Type())
        sizes, shape = _ints(tensor.ShapeAsNumpy()), _ints(tensor.ShapeSignatureAsNumpy())
        quantization = tensor.Quantization()
        scales = tuple(map(float, _list(quantization.ScaleAsNumpy()))) if quantization else ()
        zero_points = _ints(quantization.ZeroPointAsNumpy()) if quantization else ()
        made = Tensor(
            name=text(tensor.Name()),
            dtype=dtype or "",
            shape=shape if len(shape) == len(sizes) else sizes,
            sizes=sizes,
            buffer=tensor.Buffer(),
            scales=scales,
            zero_points=zero_points or (0,) * len(scales),
            channel=quantization.QuantizedDimension() if quantization else 0,
            sparse=tensor.Sparsity() is not None,
            external=tensor.ExternalBuffer() > 0,
        )
    if dtype is None:
        raise file.damaged(part, f"it has the type {tensor.Type()}, which the schema does not know")
    if any(size < 0 for size in sizes) or any(size < -1 for size in made.shape):
        raise file.damaged(part, f"it has the shape {list(made.shape)}")
    if len(scales) != len(made.zero_points) or not all(math.isfinite(scale) and scale >= 0 for scale in scales):
        raise file.damaged(part, f"it has {len(scales)} scales and {len(zero_points)} zero points, or scales that are no numbers")
    if len(scales) == 1 and scales[0] == 0:  # the interpreter, too, takes this for no quantization
        made = Tensor(**{**vars(made), "scales": (), "zero_points": ()})
    if not made.buffer < len(file.buffers):
        raise file.damaged(part, f"its data are in buffer {made.buffer}, there are {len(file.buffers)}")
    return made


def _list(values: Any) -> list[Any]:
    """A vector as the binding gives it: an array, or the number 0 where there is none."""
    return [] if isinstance(values, int) else values.tolist()


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(_list(values))


@cache
def _builtin_ops() -> dict[int, str]:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    return {value: name for name, value in vars(BuiltinOperator).items() if isinstance(value, int)}


@cache
def _tensor_types() -> dict[int, str]:
    from ai_edge_litert.schema_py_generated import TensorType

    return {value: name.lower() for name, value in vars(TensorType).items() if isinstance(value, int)}
