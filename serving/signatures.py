"""The signatures of a SavedModel, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving.tensorflow_protos import tensorflow_protos

_NAMES = {"float": "float32", "double": "float64", "half": "float16"}


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a signature.

    Attributes:
        dtype: As TensorFlow names it: "float32", "string".
        shape: None where a dimension is open; None for an unknown rank.
        kind: "dense", "sparse", or what else it is made of several tensors as: "ragged".
        tensor: Name of the graph's tensor; "" when it is made of several.
    """

    dtype: str
    shape: tuple[int | None, ...] | None
    kind: str
    tensor: str


@dataclass(frozen=True)
class Signature:
    """A signature by the names that clients use."""

    method: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


def read_signature(signature: Any) -> Signature:
    """What a SignatureDef says."""
    return Signature(
        method=signature.method_name,
        inputs={key: _tensor(info) for key, info in sorted(signature.inputs.items())},
        outputs={key: _tensor(info) for key, info in sorted(signature.outputs.items())},
    )


def _tensor(info: Any) -> TensorSpec:
    kind, dtype, shape, spec = "dense", info.dtype, info.tensor_shape, info.composite_tensor.type_spec
    if info.WhichOneof("encoding") == "coo_sparse":
        kind = "sparse"
    elif info.WhichOneof("encoding") == "composite_tensor":
        protos = tensorflow_protos()
        names = protos.TypeSpecProto.TypeSpecClass
        known = spec.type_spec_class in names.values()
        kind = names.Name(spec.type_spec_class).removesuffix("_SPEC").removesuffix("_TENSOR").lower() if known else "composite"
        # The state of a RaggedTensorSpec is (shape, dtype of the values, ragged rank, dtype of the row splits).
        for value in reversed(spec.type_state.tuple_value.values):
            if value.WhichOneof("kind") == "tensor_dtype_value":
                dtype = value.tensor_dtype_value
            elif value.WhichOneof("kind") == "tensor_shape_value":
                shape = value.tensor_shape_value
    dims = None if shape.unknown_rank else tuple(dim.size if dim.size >= 0 else None for dim in shape.dim)
    return TensorSpec(dtype=dtype_name(dtype), shape=dims, kind=kind, tensor=info.name)


def dtype_name(number: int) -> str:
    """The name that `tf.as_dtype` gives a DataType; "dtype 99" for one that the installed TensorFlow does not have."""
    types = tensorflow_protos().DataType
    if number not in types.values():
        return f"dtype {number}"
    name, _, reference = types.Name(number).removeprefix("DT_").lower().partition("_ref")
    return f"{_NAMES.get(name, name)}{'_ref' if reference or types.Name(number).endswith('_REF') else ''}"
