"""Classify and Regress: which signatures can do them, and how a model's arrays become their results.

After tensorflow_serving/servables/tensorflow/classifier.cc and regressor.cc. Only the server's process imports this module: it
loads TensorFlow's protos.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.server.predict_checks import CLASSIFY_METHOD, REGRESS_METHOD
from serving.server.servable import Arrays, Signature
from serving.server.status import invalid
from serving.server.tensors import dtype_name, tf_dtype

INPUT = "inputs"
"""The only input's alias, of Classify and of Regress (saved_model/signature_constants.h)."""


@dataclass(frozen=True)
class Method:
    """One of the two ways to call a model with Examples.

    Attributes:
        name: As SignatureDef.method_name.
        outputs: Of a signature, those that the method reads; StatusError for a signature that cannot do it.
        result: Of the arrays of these outputs and the number of Examples, the ClassificationResult or RegressionResult.
    """

    name: str
    outputs: Callable[[Signature, bool], list[str]]
    result: Callable[[Arrays, int], Any]


def classify_outputs(signature: Signature, check_method: bool) -> list[str]:
    """The outputs that Classify reads: `classes`, `scores` or both.

    Raises:
        StatusError: INVALID_ARGUMENT when the signature has not one input `inputs`, or neither output, or, when
            `check_method`, was exported for another method.
    """
    if check_method:
        _check_method("classification", CLASSIFY_METHOD, signature)
    _one_input(signature)
    if len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    _input("classification", signature)
    outputs = [alias for alias in ("classes", "scores") if alias in signature.outputs]
    if not outputs:
        raise invalid(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {signature.proto}"
        )
    return outputs


def regress_outputs(signature: Signature, check_method: bool) -> list[str]:
    """The output that Regress reads, `outputs`; StatusError as `classify_outputs`."""
    if check_method:
        _check_method("regression", REGRESS_METHOD, signature)
    _one_input(signature)
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    _input("regression", signature)
    if "outputs" not in signature.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {signature.proto}")
    return ["outputs"]


def classification_result(arrays: Arrays, examples: int) -> Any:
    """A ClassificationResult: for each Example its classes, with label, score or both.

    Args:
        arrays: `classes` (strings), `scores` (float32) or both, each [examples, classes].
        examples: How many Examples were asked about.

    Raises:
        StatusError: INVALID_ARGUMENT when the model's arrays have another shape or dtype.
    """
    for alias, dtype, name in (("classes", "object", "DT_STRING"), ("scores", "float32", "DT_FLOAT")):
        if alias not in arrays:
            continue
        array = arrays[alias]
        if array.ndim != 2:
            raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
        if array.dtype != dtype:
            raise invalid(f"Expected {alias} Tensor of {name}. Got: {_enum_name(array)}")
        if array.shape[0] != examples:
            raise invalid(f"Expected {alias} output batch size of {examples}. Got: {array.shape[0]}")
    if "classes" in arrays and "scores" in arrays and arrays["classes"].shape[1] != arrays["scores"].shape[1]:
        raise invalid(
            "Tensors class and score should match in dim_size(1). Got "
            f"{arrays['classes'].shape[1]} vs. {arrays['scores'].shape[1]}"
        )
    fields = {}
    if "classes" in arrays:
        # The field is a proto string, which cannot carry what is not UTF-8.
        fields["label"] = [[label.decode("utf-8", "replace") for label in row] for row in arrays["classes"].tolist()]
    if "scores" in arrays:
        fields["score"] = arrays["scores"].tolist()
    result = classification_pb2.ClassificationResult()
    for rows in zip(*fields.values(), strict=True):
        add = result.classifications.add().classes.add
        for values in zip(*rows, strict=True):
            add(**dict(zip(fields, values, strict=True)))
    return result


def regression_result(arrays: Arrays, examples: int) -> Any:
    """A RegressionResult: a value for each Example.

    Args:
        arrays: `outputs`, float32, [examples] or [examples, 1].
        examples: How many Examples were asked about.

    Raises:
        StatusError: INVALID_ARGUMENT when the model's array has another shape or dtype.
    """
    array = arrays["outputs"]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise invalid(f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(array)}")
    if array.shape[0] != examples:
        raise invalid(f"Input batch size did not match output batch size: {examples} vs. {array.shape[0]}")
    if array.dtype != "float32":
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {_enum_name(array)}")
    result = regression_pb2.RegressionResult()
    for value in array.ravel().tolist():
        result.regressions.add(value=value)
    return result


METHODS: Mapping[str, Method] = {
    CLASSIFY_METHOD: Method(CLASSIFY_METHOD, classify_outputs, classification_result),
    REGRESS_METHOD: Method(REGRESS_METHOD, regress_outputs, regression_result),
}


def _check_method(kind: str, method: str, signature: Signature) -> None:
    if signature.method != method:
        raise invalid(f"Expected {kind} signature method_name to be {method}. Was: {signature.method}")


def _one_input(signature: Signature) -> None:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")


def _input(kind: str, signature: Signature) -> None:
    if INPUT not in signature.inputs:
        raise invalid(f"No {kind} inputs found in SignatureDef: {signature.proto}")


def _shape(array: npt.NDArray[Any]) -> str:
    return f"[{','.join(str(size) for size in array.shape)}]"


def _enum_name(array: npt.NDArray[Any]) -> str:
    """As DataType_Name: DT_INT64."""
    return f"DT_{dtype_name(tf_dtype(array)).upper()}"
