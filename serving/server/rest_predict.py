"""Predict by JSON: a request's body → arrays (tensorflow_serving/util/json_tensor.cc); rest_answers.py has the way back.

The row form, `instances`, is a list of instances, each a tensor or an object of tensors; the columnar form, `inputs`, is batched
tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.server.rest_json import Document
from serving.server.rest_json_describe import describe
from serving.server.rest_tensors import MAX_RANK, exact_array, is_base64, quick_array, to_array
from serving.server.servable import TensorSpec
from serving.server.status import StatusError, invalid


def signature_name(document: Document) -> str:
    """The signature that a body asks for; "" for the default.

    Raises:
        StatusError: INVALID_ARGUMENT when it is no string.
    """
    name = document.value.get("signature_name", "")
    if type(name) is not str:
        raise invalid(
            f"JSON Value: {describe(document.value)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def parse_inputs(document: Document, specs: Mapping[str, TensorSpec], signature: str) -> tuple[dict[str, npt.NDArray[Any]], bool]:
    """The inputs of a Predict request.

    Args:
        document: Its body.
        specs: The signature's inputs by alias.
        signature: Its name, "" for the default; for an error.

    Returns:
        An array for each input, and whether the request has the row form; strings are object arrays of bytes.

    Raises:
        StatusError: INVALID_ARGUMENT, or UNIMPLEMENTED for a dtype that JSON has no form for.
    """
    if not specs:
        raise invalid(f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    body = document.value
    if "instances" in body:
        if "inputs" in body:
            raise invalid(
                f"JSON Value: {describe(body)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
                "keys to exist "
            )
        instances = body["instances"]
        if type(instances) is not list:
            raise invalid(f"JSON Value: {describe(body)} Expecting 'instances' to be an list/array")
        if not instances:
            raise invalid(f"JSON Value: {describe(body)} No values in 'instances' array")
        return _rows(instances, specs, document.has_bool), True
    if "inputs" in body:
        return _columns(body["inputs"], specs, document.has_bool), False
    raise invalid("Missing 'inputs' or 'instances' key")


def _rows(instances: list[Any], specs: Mapping[str, TensorSpec], has_bool: bool) -> dict[str, npt.NDArray[Any]]:
    first = instances[0]
    if type(first) is not dict and len(specs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map"
        )
    if type(first) is dict and not is_base64(first):
        return _quick_objects(instances, specs, has_bool) or _exact_objects(instances, specs)
    alias, spec = next(iter(specs.items()))
    array = quick_array(instances, spec, has_bool)
    return {alias: _exact_plain(instances, spec) if array is None else array}


def _quick_objects(instances: list[Any], specs: Mapping[str, TensorSpec], has_bool: bool) -> dict[str, npt.NDArray[Any]] | None:
    if set(map(type, instances)) != {dict} or set(map(len, instances)) != {len(specs)}:
        return None
    arrays: dict[str, npt.NDArray[Any]] = {}
    for alias, spec in specs.items():
        try:
            column = list(map(itemgetter(alias), instances))
        except KeyError:
            return None
        array = quick_array(column, spec, has_bool)
        if array is None:
            return None
        arrays[alias] = array
    return arrays


class _Column:
    """The tensors of one input, instance by instance; all must have the first one's shape."""

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._arrays: list[npt.NDArray[Any]] = []

    def add(self, value: Any) -> None:
        array = exact_array(value, self._spec)
        if self._arrays and array.size != self._arrays[0].size:
            raise invalid(f"Expecting tensor size: {self._arrays[0].size} but got: {array.size}")
        if self._arrays and array.shape != self._arrays[0].shape:
            raise invalid(f"Expecting shape {_shape(self._arrays[0])} but got: {_shape(array)}")
        self._arrays.append(array)

    def stacked(self) -> npt.NDArray[Any]:
        if self._arrays[0].ndim >= MAX_RANK:
            raise invalid(f"tensor parsing error: {self._spec.alias}")
        return np.stack(self._arrays)


def _exact_objects(instances: list[Any], specs: Mapping[str, TensorSpec]) -> dict[str, npt.NDArray[Any]]:
    columns = {alias: _Column(spec) for alias, spec in specs.items()}
    for index, instance in enumerate(instances):
        if type(instance) is not dict or is_base64(instance):
            raise invalid(f"Expecting object but got list at item {index} of input list")
        for name, value in instance.items():
            try:
                if name not in columns:
                    raise invalid(f"JSON object: does not have named input: {name}")
                columns[name].add(value)
            except StatusError as error:
                raise invalid(
                    f"Failed to process element: {index} key: {name} of 'instances' list. "
                    f"Error: {error.code.name}: {error.message}"
                ) from None
        if instance.keys() != specs.keys():
            raise invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object: {describe(instance)} "
                f"keys must be equal to: {','.join(sorted(specs))}"
            )
    return {alias: column.stacked() for alias, column in columns.items()}


def _exact_plain(instances: list[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    column = _Column(spec)
    for index, instance in enumerate(instances):
        if type(instance) is dict and not is_base64(instance):
            raise invalid(f"Expecting value/list but got object at item {index} of input list")
        try:
            column.add(instance)
        except StatusError as error:
            raise invalid(
                f"Failed to process element: {index} of 'instances' list. Error: {error.code.name}: {error.message}"
            ) from None
    return column.stacked()


def _shape(array: npt.NDArray[Any]) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _columns(value: Any, specs: Mapping[str, TensorSpec], has_bool: bool) -> dict[str, npt.NDArray[Any]]:
    if type(value) is not dict or is_base64(value):
        if len(specs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"
            )
        alias, spec = next(iter(specs.items()))
        return {alias: to_array(value, spec, has_bool)}
    arrays: dict[str, npt.NDArray[Any]] = {}
    for alias, spec in specs.items():
        if alias not in value:
            raise invalid(f"Missing named input: {alias} in 'inputs' object.")
        arrays[alias] = to_array(value[alias], spec, has_bool)
    return arrays
