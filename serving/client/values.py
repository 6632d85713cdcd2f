"""What a client gives and gets: arrays, signatures, statuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from serving.server.lifecycle import State, VersionStatus
from serving.server.tensors import tf_dtype

__all__ = [
    "Array",
    "Feature",
    "Prediction",
    "Signature",
    "Spec",
    "State",
    "Tensor",
    "VersionStatus",
    "declared",
    "feature",
    "natural",
]

Array: TypeAlias = npt.NDArray[Any]
"""A tensor; one of strings is an object array of bytes."""


class Prediction(dict[str, Array]):
    """Outputs by name.

    Attributes:
        version: The version that answered; None by REST, which does not tell.
    """

    def __init__(self, outputs: Mapping[str, Array], version: int | None = None) -> None:
        """Args: the arrays; the version."""
        super().__init__(outputs)
        self.version = version


@dataclass(frozen=True)
class Tensor:
    """An input or output of a signature.

    Attributes:
        dtype: NumPy's; object for strings.
        shape: None in it is a dimension of any size; None for it is an unknown rank.
        padding: What stands for a value that is missing; None where none may be.
    """

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...] | None
    padding: float | int | str | None = None


@dataclass(frozen=True)
class Signature:
    """A way to call a model. Inputs and outputs that have no dtype in NumPy (resources, variants) are left out."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    method: str


@dataclass(frozen=True)
class Spec:
    """Whom a request is for: a model, of it the newest version unless one, or a label, is named.

    Raises:
        ValueError: Both a version and a label are given.
    """

    model: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        """Refuses what no server could answer."""
        if self.version is not None and self.label is not None:
            raise ValueError(f"expected a version or a label of {self.model}, got both: {self.version} and {self.label}")


def natural(value: Any) -> tuple[Array, bool]:
    """Whatever NumPy takes as an array, and whether its dtype was chosen by who made it.

    An array keeps its dtype. A Python number, or nested lists of them, has none: NumPy's float64 and int64 are guesses. Text
    becomes bytes in UTF-8.

    Raises:
        ValueError: It is ragged, or of a dtype that TensorFlow has no tensors of.
    """
    given = isinstance(value, np.ndarray)
    array = value if given else _from_python(value)
    if array.dtype.kind in "SUO":
        return _strings(array), True
    try:
        tf_dtype(array)
    except KeyError:
        raise ValueError(f"expected numbers, booleans or strings, got an array of {array.dtype}") from None
    return array.astype(array.dtype.newbyteorder("="), copy=False), given or array.dtype.kind not in "iuf"


def _from_python(value: Any) -> Array:
    try:
        array = np.asarray(value)
    except UnicodeDecodeError:  # text and bytes among each other
        return np.array(value, dtype=object)
    except ValueError as error:
        raise ValueError(f"expected lists of equal lengths: {error}") from None
    # NumPy's own string dtypes cut zero bytes off at the end.
    return np.array(value, dtype=object) if array.dtype.kind in "SU" else array


def declared(array: Array, dtype: np.dtype[Any]) -> Array:
    """Python numbers, as `natural` gives them, in the dtype that a model declares; others as they are.

    Raises:
        ValueError: They do not fit: floats for integers, integers out of the range, numbers for strings.
    """
    try:
        if dtype.kind in "iu" and array.dtype.kind in "iu" and array.size:
            limits = np.iinfo(dtype)
            if int(array.min()) < limits.min or int(array.max()) > limits.max:
                raise ValueError(f"expected {dtype}, got numbers from {array.min()} to {array.max()}")
        elif dtype.kind == "O" or (dtype.kind in "iub" and array.size):
            wanted = "strings" if dtype.kind == "O" else str(dtype)
            raise ValueError(f"expected {wanted}, got {'integers' if array.dtype.kind in 'iu' else 'floats'}")
        return array.astype(dtype)
    except TypeError as error:
        raise ValueError(f"expected {dtype}: {error}") from None


def _strings(array: Array) -> Array:
    flat = np.empty(array.size, dtype=object)
    flat[:] = [_as_bytes(item) for item in array.ravel().tolist()]
    return flat.reshape(array.shape)


def _as_bytes(item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, bytes):
        return item
    raise ValueError(f"expected strings or bytes, got {type(item).__name__} among them (is a list ragged?)")


@dataclass(frozen=True)
class Feature:
    """A feature of a tf.Example.

    Attributes:
        kind: "bytes_list", "int64_list" or "float_list".
        values: bytes, int or float, one or more; none of an empty feature.
        single: Whether it was given as one value and not as a list.
    """

    kind: str
    values: Sequence[Any]
    single: bool


def feature(value: Any) -> Feature:
    """A value, or a list or array of values, as a feature: strings; integers or booleans; numbers with a float among them.

    Raises:
        ValueError: It is something else, or of several kinds.
    """
    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    single = not isinstance(plain, list | tuple)
    values = [plain] if single else [item.item() if isinstance(item, np.generic) else item for item in plain]
    if all(isinstance(item, str | bytes) for item in values):
        return Feature("bytes_list", [_as_bytes(item) for item in values], single)
    if all(isinstance(item, int) for item in values):
        return Feature("int64_list", [int(item) for item in values], single)
    if all(isinstance(item, float | int) for item in values):
        return Feature("float_list", [float(item) for item in values], single)
    raise ValueError(f"expected strings, or integers, or numbers in one feature, got {values[:5]}")
