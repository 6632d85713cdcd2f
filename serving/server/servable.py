"""What a loaded model version is to the rest of the server, whatever computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]
"""Tensors by name; strings are object arrays of bytes."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a signature.

    Attributes:
        alias: The name that clients use.
        dtype: NumPy's dtype; `object` for strings.
        tf_dtype: The number in TensorFlow's enum DataType (7 is DT_STRING).
        shape: None in it is a dimension of any size; None for it is an unknown rank.
        feed: The tensor's name in the graph, for messages that name it.
    """

    alias: str
    dtype: np.dtype[Any]
    tf_dtype: int
    shape: tuple[int | None, ...] | None
    feed: str


@dataclass(frozen=True)
class Signature:
    """A way to call a model: its inputs and outputs by alias, and the method it was exported for.

    Attributes:
        method: As SignatureDef.method_name, such as "tensorflow/serving/predict".
        defaults: Values for inputs that a request may leave out (SignatureDef.defaults).
        proto: The SignatureDef, for metadata.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method: str
    defaults: Arrays
    proto: Any


class Servable(Protocol):
    """A loaded version. `run` may be called from many threads at once."""

    signatures: Mapping[str, Signature]
    all_signatures: Mapping[str, Any]
    """Every SignatureDef of the SavedModel, `__saved_model_init_op` included, as GetModelMetadata lists them."""

    def run(
        self, signature: str, inputs: Arrays, outputs: Sequence[str], deadline: float | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Computes.

        Args:
            signature: A key of `signatures`.
            inputs: Exactly the signature's inputs, of the right dtype; the caller has checked names and dtypes.
            outputs: The aliases that are wanted, without repetition.
            deadline: time.monotonic() value after which the answer is of no use; None for no limit.

        Returns:
            An array for each of `outputs`.

        Raises:
            StatusError: The model refuses the input (INVALID_ARGUMENT as TensorFlow says it), or DEADLINE_EXCEEDED.
        """

    def close(self) -> None:
        """Gives back the memory; called once, when no request is inside `run`."""


@runtime_checkable
class RunsTensors(Protocol):
    """A servable that can also compute across signatures, which MultiInference needs to do its tasks in one run."""

    def run_tensors(self, feeds: Arrays, fetches: Sequence[str], deadline: float | None = None) -> dict[str, npt.NDArray[Any]]:
        """As Servable.run, by the tensors' names in the graph: feeds' arrays go in, an array for each of fetches comes out."""
