"""Calls a .tflite with real values: quantizes, feeds as many rows as the file takes at a time, dequantizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from serving.request_files import InputError
from serving.tflite_file import TFLiteFile, TFLiteFileError
from serving.tflite_graph import Signature, pick, read_signatures, read_subgraphs
from serving.tflite_metadata import TFLiteMetadata, read_metadata
from serving.tflite_values import Array, real_values, stored_values

_MOST_ROWS = 128
"""Of a call, where the file leaves their number open: bounds the memory."""


class TFLiteModel:
    """A .tflite that is called by signature.

    Attributes:
        signatures: By key.
        metadata: None in a file without.
    """

    def __init__(self, content: bytes, name: str = "the model") -> None:
        """Loads a model into ai-edge-litert, one thread.

        Args:
            content: The file.
            name: What to call it in messages.

        Raises:
            TFLiteFileError: It is damaged, or has ops that the interpreter has not.
        """
        from serving.server.status import StatusError
        from serving.server.tflite_runtime import TFLiteServable

        file = TFLiteFile(content, name)
        self._name = name
        self.signatures = read_signatures(file, read_subgraphs(file))
        self.metadata: TFLiteMetadata | None = read_metadata(content, name)
        try:
            self._servable = TFLiteServable(content, Path(name), interpreters=1)
        except (StatusError, ValueError, RuntimeError, TypeError, KeyError) as error:
            # Its own error, and what the interpreter raises for damage that `read_signatures` can live with: names of no UTF-8.
            raise TFLiteFileError(f"{name}: ai-edge-litert cannot load it: {error}") from None

    def __call__(self, arrays: Mapping[str, Array], signature: str | None = None) -> dict[str, Array]:
        """Answers rows.

        Args:
            arrays: By input, real values [rows, …], as `tflite_values.check_arrays` gives them.
            signature: None for the only one.

        Returns:
            By output, real values [rows, …]; float32 where the output is quantized.

        Raises:
            InputError: The inputs have different numbers of rows, or a number that the file does not take.
            TFLiteFileError: There is no such signature; the interpreter failed.
        """
        from serving.server.status import StatusError

        key = signature or self._only()
        chosen = pick(self.signatures, key, self._name)
        stored = {info.name: np.ascontiguousarray(stored_values(info, arrays[info.name])) for info in chosen.inputs}
        names = [info.name for info in chosen.outputs]
        try:
            parts = [self._servable.run(key, part, names) for part in _parts(chosen, stored)]
        except StatusError as error:
            raise TFLiteFileError(f"{self._name}: {error}") from None
        except KeyError:
            raise TFLiteFileError(f"{self._name}: ai-edge-litert does not find its signature {key}") from None
        joined = parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in names}
        return {info.name: real_values(info, joined[info.name]) for info in chosen.outputs}

    def _only(self) -> str:
        if len(self.signatures) > 1:
            raise TFLiteFileError(f"{self._name}: it has several signatures: say which: {', '.join(self.signatures)}")
        return next(iter(self.signatures))


def rows_at_once(signature: Signature) -> int | None:
    """How many rows a call takes: the first dimension that its inputs have fixed; None where it is open."""
    sizes = {info.shape[0] for info in signature.inputs if info.shape}
    return next(iter(sizes)) if len(sizes) == 1 and -1 not in sizes else None


def _parts(signature: Signature, stored: Mapping[str, Array]) -> list[dict[str, Array]]:
    """The rows cut into calls. Never a resized one: that makes XNNPACK fail on reshapes to constant shapes."""
    if any(not array.ndim for array in stored.values()) or not stored:
        return [dict(stored)]
    counts = {name: len(array) for name, array in stored.items()}
    rows = next(iter(counts.values()))
    if len(set(counts.values())) > 1:
        raise InputError(f"expected as many rows of every input, got {', '.join(f'{n} of {k}' for k, n in counts.items())}")
    step = rows_at_once(signature)
    if not rows or rows % (step or 1):
        raise InputError(f"the file takes {step or 1} rows at a time: expected a multiple of that, got {rows}")
    step = step or _MOST_ROWS
    return [{name: array[start : start + step] for name, array in stored.items()} for start in range(0, rows, step)]
