"""Inputs of any number of rows, for measuring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.client.values import Array, Signature, Tensor
from serving.request_arrays import arrays_of, pick_signature, shape_text
from serving.request_files import InputError, Requests

OPEN = 8
"""What a dimension of any size, other than the first, gets in random inputs."""


def choose(requests: Requests | None, signatures: Mapping[str, Signature], wanted: str | None) -> str:
    """The signature to measure.

    Returns:
        The wanted one; with a file, the one that its rows fit; else serving_default, or the first that has no strings among its
        inputs: random strings are no tf.Examples.

    Raises:
        InputError: There is none.
    """
    if requests is not None:
        return pick_signature(requests, signatures, wanted)
    if wanted is not None:
        if wanted not in signatures:
            raise InputError(f"expected a signature of the model ({', '.join(signatures)}), got {wanted}")
        return wanted
    for name in sorted(signatures, key=lambda name: (name != "serving_default", name)):
        if all(tensor.dtype.kind != "O" for tensor in signatures[name].inputs.values()):
            return name
    raise InputError(
        f"every signature ({', '.join(signatures)}) takes strings, of which random ones say nothing; give --input FILE"
    )


def rows_of(requests: Requests, signature: Signature, rows: int) -> dict[str, Array]:
    """The rows of a file, again and again until there are enough; InputError when the file has columns of unequal lengths."""
    arrays = arrays_of(requests, signature, slice(0, rows))
    if len({len(array) if array.ndim else None for array in arrays.values()} - {None}) != 1:
        raise InputError(f"{requests.name}: expected inputs with a row for each example")
    return {name: array[np.arange(rows) % len(array)] for name, array in arrays.items()}


def random_rows(signature: Signature, rows: int) -> dict[str, Array]:
    """Random inputs, the same ones each time: normal floats, integers 0 and 1, short strings.

    Raises:
        InputError: An input's shape says nothing of rows, or demands another number of them.
    """
    draw = np.random.default_rng(0)
    return {name: _random(name, tensor, rows, draw) for name, tensor in signature.inputs.items()}


def _random(name: str, tensor: Tensor, rows: int, draw: Any) -> Array:
    if not tensor.shape or tensor.shape[0] not in (None, rows):
        raise InputError(
            f"input {name} has the shape {shape_text(tensor.shape)}: it takes no requests of {rows} rows; see --rows"
        )
    shape = (rows, *(OPEN if size is None else size for size in tensor.shape[1:]))
    if tensor.dtype.kind == "O":
        return np.array([b"text %d" % number for number in draw.integers(0, 10, shape).ravel()], object).reshape(shape)
    drawn = draw.integers(0, 2, shape) if tensor.dtype.kind in "iub" else draw.normal(size=shape)
    return drawn.astype(tensor.dtype)  # type: ignore[no-any-return]
