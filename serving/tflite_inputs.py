"""Rows for a .tflite from a file: JSON, JSON lines, CSV or .npz, as real values of the signature that they fit."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from serving.client.values import Signature
from serving.request_arrays import arrays_of, left_out, pick_signature
from serving.request_files import InputError, read_requests
from serving.tflite_values import Array, check_arrays

_ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Given:
    """What a file asks.

    Attributes:
        form: As `serving.request_files.Requests`; "rows" of an .npz.
        signature: The one that it fits, or that was chosen.
        arrays: By input [rows, …].
        unused: Columns of a CSV file that are no inputs.
        transform: The folder of the transform that made the arrays of the file's rows; "" where none did.
    """

    form: str
    signature: str
    arrays: dict[str, Array]
    unused: tuple[str, ...] = ()
    transform: str = ""


def read_inputs(path: Path | None, stdin: BinaryIO, signatures: Mapping[str, Signature], wanted: str | None) -> Given:
    """Reads a file of rows.

    Args:
        path: None for standard input. An .npz is told by its first bytes, others as `read_requests` tells them.
        stdin: Standard input.
        signatures: The model's, as its callers see them.
        wanted: The signature that is wanted; None for the one that the rows fit.

    Raises:
        InputError: It cannot be read, or its rows are no inputs of the model.
    """
    if path is None:
        stdin = io.BytesIO(stdin.read())
        archive = stdin.getvalue()[:4] == _ZIP
    else:
        archive = _starts_as_zip(path)
    if archive:
        return _npz(path or stdin, str(path or "standard input"), signatures, wanted)
    requests = read_requests(path, stdin)
    name = pick_signature(requests, signatures, wanted)
    called = signatures[name]
    arrays = arrays_of(requests, called, slice(None))
    return Given(requests.form, name, arrays, tuple(left_out(requests, called)))


def _starts_as_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == _ZIP
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _npz(file: Path | BinaryIO, name: str, signatures: Mapping[str, Signature], wanted: str | None) -> Given:
    try:
        with np.load(file, allow_pickle=False) as saved:
            arrays = {key: saved[key] for key in saved.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{name}: no .npz of plain arrays: {error}") from None
    if wanted is not None and wanted not in signatures:
        raise InputError(f"expected a signature of the model ({', '.join(signatures)}), got {wanted}")
    fitting = [key for key, each in signatures.items() if set(each.inputs) == set(arrays)]
    if wanted is None and len(signatures) > 1 and len(fitting) != 1:
        told = "".join(f"\n  {key} ({', '.join(each.inputs)})" for key, each in signatures.items())
        said = "several of" if fitting else "none of"
        raise InputError(f"{name}: its arrays ({', '.join(arrays)}) fit {said} the signatures; choose one by --signature:{told}")
    key = wanted or (fitting or list(signatures))[0]
    return Given("rows", key, check_arrays(arrays, signatures[key], name))
