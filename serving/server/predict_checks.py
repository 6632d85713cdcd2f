"""What Predict checks before a model runs: method, names and number of inputs, the outputs that are asked for, dtypes.

Codes, words and order are those of tensorflow_serving/servables/tensorflow/predict_util.cc and tensorflow/cc/saved_model/util.cc;
the words on dtypes are those of a TensorFlow session (tensorflow/core/framework/function.cc). Sets are printed sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy.typing as npt

from serving.server.servable import Arrays, Signature
from serving.server.status import Code, StatusError, invalid
from serving.server.tensors import dtype_name, tf_dtype

DEFAULT_SIGNATURE = "serving_default"
PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"

T = TypeVar("T")


def _set(names: Iterable[str]) -> str:
    return ",".join(sorted(names))


def check_predict_method(signature: Signature) -> None:
    """Raises StatusError INTERNAL for a method that is none of the three; with --enable_signature_method_name_check only."""
    if signature.method not in (PREDICT_METHOD, CLASSIFY_METHOD, REGRESS_METHOD):
        raise StatusError(
            Code.INTERNAL,
            "Expected prediction signature method_name to be one of "
            f"{{{PREDICT_METHOD}, {CLASSIFY_METHOD}, {REGRESS_METHOD}}}. Was: {signature.method}",
        )


def bind_inputs(
    signature: Signature, given: Mapping[str, T], convert: Callable[[T, str], npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """Gives every input of a signature its value: from the request, else the signature's default.

    Args:
        signature: What is called.
        given: The request's values, by alias.
        convert: Makes an array of a value; the second argument is the alias, for its error.

    Raises:
        StatusError: INVALID_ARGUMENT for too many, too few or wrong names; what `convert` raises.
    """
    wanted, defaults = signature.inputs, signature.defaults
    if len(given) > len(wanted) or (len(given) < len(wanted) and not defaults):
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(wanted)} "
            f"len({{{_set(given)}}}) != len({{{_set(wanted)}}}). Sent extra: {{{_set(set(given) - set(wanted))}}}. "
            f"Missing but required: {{{_set(set(wanted) - set(given))}}}."
        )
    bound: dict[str, npt.NDArray[Any]] = {}
    used = 0
    for alias, spec in wanted.items():
        if alias in given:
            bound[alias] = convert(given[alias], alias)
            used += 1
        elif alias in defaults:
            bound[alias] = defaults[alias]
        else:
            raise invalid(
                f"Signature input alias: {alias}(feed name: {spec.feed}) not found in request and no default value provided. "
                f"Inputs expected to be in the request {{{_set(given)}}}, or default input alias set: {_set(defaults)}"
            )
    if used != len(given):
        raise invalid(
            f"Inputs contains invalid name. Used request inputs: {_set(set(given) & set(wanted))}, request input: {_set(given)}"
        )
    return bound


def wanted_outputs(signature: Signature, output_filter: Sequence[str]) -> list[str]:
    """The outputs to compute: those of the filter in its order, or all in the signature's.

    Raises:
        StatusError: INVALID_ARGUMENT for one that is unknown or named twice.
    """
    if not output_filter:
        return list(signature.outputs)
    seen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {{{_set(signature.outputs)}}}."
            )
        if alias in seen:
            raise invalid(f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen


def check_dtypes(signature: Signature, inputs: Arrays) -> None:
    """Raises StatusError INVALID_ARGUMENT for an input of another dtype: `Expects arg[0] to be float but string is provided`."""
    for alias, spec in signature.inputs.items():
        if inputs[alias].dtype != spec.dtype:
            # A session numbers its arguments by the sorted names of the tensors that it is fed (direct_session.cc).
            position = sorted(each.feed for each in signature.inputs.values()).index(spec.feed)
            given = dtype_name(tf_dtype(inputs[alias]))
            raise invalid(f"Expects arg[{position}] to be {dtype_name(spec.tf_dtype)} but {given} is provided")
