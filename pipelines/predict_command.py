"""`tfline predict`: the rows of a file through a served model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from serving.answer_files import columns_json, rows, rows_csv, rows_json
from serving.client import Client
from serving.client.values import Array
from serving.request_arrays import arrays_of, left_out, pick_signature
from serving.request_files import InputError, Requests, read_requests, slices


def predict_file(
    client: Client,
    model: str,
    path: Path | None,
    *,
    signature: str | None,
    version: int | None,
    label: str | None,
    output: str,
    batch: int,
) -> None:
    """Prints a model's answers to the rows of a file.

    Args:
        client: Whom to ask.
        model: Its name there.
        path: See `serving.request_files.read_requests`; None for standard input.
        signature: None for the one that the rows fit, see `pick_signature`.
        version: None for the newest.
        label: Instead of a version.
        output: "json" or "csv".
        batch: Rows of a request. JSON's columnar form is one request as it is.

    Raises:
        InputError: The file is none, or its rows are no inputs of the model.
        RequestError: The server refused or did not answer.
    """
    requests = read_requests(path, sys.stdin.buffer)
    answering, signatures = client.metadata(model, version, label=label)
    name = pick_signature(requests, signatures, signature)
    known = signatures[name]
    if unused := left_out(requests, known):
        click.echo(f"{requests.name}: not inputs of {name}, left out: {', '.join(unused)}", err=True)
    # Every row is looked at before the first is sent, so that a bad one in the end does not cost the answers to the others.
    count = 1 if requests.form == "columns" else len(requests.rows)
    parts = [arrays_of(requests, known, part) for part in slices(count, count if requests.form == "columns" else batch)]
    # By number, so that all rows are answered by one version, even if a newer one comes in between.
    answers = [client.predict(model, arrays, signature=name, version=answering) for arrays in parts]
    _write(requests, _joined(requests, answers, parts), output)
    click.echo(f"version {answering}, signature {name}", err=True)


def _joined(requests: Requests, answers: Sequence[dict[str, Array]], parts: Sequence[dict[str, Array]]) -> dict[str, Array]:
    if requests.form == "columns":
        return dict(answers[0])
    for answer, part in zip(answers, parts, strict=True):
        size = len(next(iter(part.values())))
        for name, array in answer.items():
            if array.ndim == 0 or len(array) != size:
                raise InputError(
                    f"{requests.name}: the output {name} has no row for each of the input's; ask in JSON's columnar form, "
                    '{"inputs": …}'
                )
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def _write(requests: Requests, outputs: dict[str, Array], output: str) -> None:
    if output == "csv":
        sizes = {len(array) if array.ndim else None for array in outputs.values()}
        if len(sizes) != 1 or None in sizes:
            raise InputError(f"{requests.name}: the outputs are no table; take --output json")
        sys.stdout.write(rows_csv(outputs))
        return
    if requests.form == "columns":
        text = columns_json(outputs)
    else:
        text = b"\n".join(rows(outputs)) if requests.form == "lines" else rows_json(outputs)
    sys.stdout.write(text.decode() + "\n")
