"""`tfline tflite inspect`, `run` and `benchmark`: a .tflite for people.

The interpreter runs in a process of its own: there are files on which it crashes, and that is to be an error like any other.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from components.errors import TflineError, UsageError
from pipelines.page import heading, plain, table
from serving.errors import ServingError
from serving.manifest import TFLITE_FILE

if TYPE_CHECKING:
    from rich.console import Console

    from serving.tflite_describe import TFLiteDescription
    from serving.tflite_metadata import TensorInfo, TFLiteMetadata

_SHOWN = 12
"""Constants on the page; with more than that, the largest ones."""

_LONGEST = 24 * 3600.0
"""Seconds; whoever asks decides how long it may take, and can end it."""


def inspect_tflite(path: Path, *, as_json: bool = False) -> None:
    """Prints what a .tflite is: all of it, or nothing when it is broken.

    Args:
        path: The file, or a folder with model.tflite in it.
        as_json: The fields of TFLiteDescription as one JSON object, sizes in bytes.

    Raises:
        TFLiteFileError: It is no TFLite model, or is damaged; the message says where.
    """
    from serving.tflite_describe import describe

    path = _file(path)
    try:
        found = describe(path)
    except ServingError as error:
        raise TflineError(plain(str(error), keep="\n")) from error
    if as_json:
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
        return
    from rich.console import Console

    print_page(path, found, Console(highlight=False, markup=False, emoji=False))


def run_tflite(path: Path, given: Path | None, *, signature: str | None, output: str) -> None:
    """Prints a .tflite's answers to the rows of a file.

    Args:
        path: The file, or a folder with model.tflite in it.
        given: JSON, JSON lines, CSV or .npz of real values; None for standard input.
        signature: None for the one that the rows fit.
        output: "json" or "csv".

    Raises:
        UsageError: The rows are no inputs of the model.
        TflineError: The model is damaged, or the interpreter fails or crashes on it.
    """
    with tempfile.NamedTemporaryFile(prefix="tfline-tflite-") as copied:
        if given is None:
            shutil.copyfileobj(sys.stdin.buffer, copied)
            copied.flush()
        arguments = {"given": str(given) if given else None, "stdin": copied.name, "signature": signature, "output": output}
        answered = _isolated(_file(path), "answer", arguments)
    sys.stdout.write(answered["text"])
    for note in answered["notes"]:
        click.echo(plain(note), err=True)


def benchmark_tflite(
    path: Path,
    given: Path | None,
    *,
    signature: str | None,
    threads: Sequence[int],
    batch: Sequence[int],
    calls: int,
    seconds: float,
    as_json: bool,
) -> None:
    """Prints how long a .tflite's answers take, for each number of threads and each batch.

    Args:
        path: The file, or a folder with model.tflite in it.
        given: Rows as `run_tflite` takes them, repeated to fill the batch; None for random ones.
        signature: None for the one that the rows fit, or the file's first.
        threads: Of the interpreter.
        batch: Rows of a call.
        calls: The least number of counted calls.
        seconds: The least time for them.
        as_json: JSON instead of a table.

    Raises:
        UsageError: The rows are no inputs of the model.
        TflineError: The model is damaged, or the interpreter fails or crashes on it.
    """
    arguments = {"threads": list(threads), "batch": list(batch), "calls": calls, "seconds": seconds}
    path = _file(path)
    found = _isolated(path, "latencies", arguments | {"given": str(given) if given else None, "signature": signature})
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console.print(plain(str(path)), style="bold", soft_wrap=True)
    inputs = "rows of the file" if given else "random inputs"
    console.print(
        plain(f"signature {found['signature']}, {inputs}, ai-edge-litert {found['ai_edge_litert']}; milliseconds a call")
    )
    columns = ("threads", "batch", "calls", "p50", "p95", "p99", "mean", "max", "rows/s")
    rows = [
        (
            *(f"{each[key]:,}" for key in ("threads", "batch", "calls")),
            *(_milliseconds(each[key]) for key in ("p50_ms", "p95_ms", "p99_ms", "mean_ms", "largest_ms")),
            f"{each['rows_per_second']:,.0f}",
        )
        for each in found["latencies"]
    ]
    console.print()
    table(console, [columns, *rows], right=range(len(columns)), header=True)


def answer(*, model: str, given: str | None, stdin: str, signature: str | None, output: str) -> dict[str, Any]:
    """What `run_tflite` runs in a process of its own; `stdin` is a file with what came there."""
    from serving.tflite_answers import answer_file

    try:
        with Path(stdin).open("rb") as opened:
            made = answer_file(Path(model), Path(given) if given else None, opened, signature=signature, output=output)
    except ServingError as error:
        return {"error": str(error), "exit_code": error.exit_code}
    return {"text": made.text, "notes": list(made.notes)}


def latencies(
    *,
    model: str,
    given: str | None,
    signature: str | None,
    threads: list[int],
    batch: list[int],
    calls: int,
    seconds: float,
) -> dict[str, Any]:
    """What `benchmark_tflite` runs in a process of its own."""
    from importlib.metadata import version

    from serving.tflite_file import TFLiteFile, read_file
    from serving.tflite_graph import read_signatures, read_subgraphs
    from serving.tflite_host import read_rows
    from serving.tflite_latency import measure
    from serving.tflite_metadata import read_metadata

    try:
        content = read_file(Path(model))
        arrays = None
        if given:
            file = TFLiteFile(content, model)
            signatures = read_signatures(file, read_subgraphs(file))
            about = read_metadata(content, model)
            rows = read_rows(Path(model), about, signatures, Path(given), sys.stdin.buffer, signature)
            signature, arrays = rows.signature, rows.arrays
        measured = [
            measure(
                content,
                signature=signature,
                threads=number,
                batch=size,
                calls=calls,
                seconds=seconds,
                arrays=arrays,
                name=model,
            )
            for number in threads
            for size in batch
        ]
    except ServingError as error:
        return {"error": str(error), "exit_code": error.exit_code}
    return {
        "file": model,
        "file_bytes": len(content),
        "signature": measured[0].signature,
        "ai_edge_litert": version("ai-edge-litert"),
        "inputs": given or "random",
        "latencies": [each.model_dump(exclude={"signature"}) for each in measured],
    }


def print_page(path: Path, it: TFLiteDescription, console: Console) -> None:
    """Prints a description for people."""
    from rich.filesize import decimal

    console.print(plain(str(path)), style="bold", soft_wrap=True)
    said = f", {it.description!r}" if it.description else ""
    console.print(plain(f"TFLite schema {it.schema_version}{said}, {decimal(it.file_bytes)}"))
    _print_signatures(it, console)
    _print_metadata(it, console)
    total = sum(it.ops.values())
    heading(console, "Ops", f"{total:,} of {len(it.ops)} kinds" + (f" in {it.subgraphs} graphs" if it.subgraphs > 1 else ""))
    table(console, ((f"{count:,}", op) for op, count in it.ops.items()), right=[0])
    heading(console, "Tensors", f"{sum(each.tensors for each in it.tensors.values()):,}")
    types = [(kind, f"{of.tensors:,}", f"{of.constants:,}", decimal(of.bytes)) for kind, of in it.tensors.items()]
    table(console, [("type", "tensors", "constants", "bytes"), *types], right=[1, 2, 3], header=True)
    _print_weights(it, console)
    unused = f", {decimal(it.buffers.unused_bytes)} of them used by nothing" if it.buffers.unused_bytes else ""
    heading(console, "Buffers", f"{it.buffers.count:,}, {it.buffers.filled:,} with data, {decimal(it.buffers.bytes)}{unused}")


def _print_signatures(it: TFLiteDescription, console: Console) -> None:
    stored = all(each.stored for each in it.signatures.values())
    heading(console, "Signatures", f"{len(it.signatures)}" if stored else "none in the file: called by the names of its tensors")
    for name, signature in it.signatures.items():
        console.print(f"  {plain(name)}", soft_wrap=True)
        edges = [("  in", info) for info in signature.inputs] + [("  out", info) for info in signature.outputs]
        table(console, ((way, info.name, info.dtype, _shape(info.shape), _quantization(info)) for way, info in edges))


def _print_metadata(it: TFLiteDescription, console: Console) -> None:
    others = ", ".join(f"{name} ({size} bytes)" for name, size in it.other_metadata.items())
    heading(console, "Metadata", f"by tfline {it.metadata.tfline_version}" if it.metadata else "none of tfline's")
    rows = [] if it.metadata is None else _metadata_rows(it.metadata)
    table(console, [*rows, *([("others", others)] if others else [])])


def _metadata_rows(found: TFLiteMetadata) -> list[tuple[str, str]]:
    from serving.tflite_answers import features_wanted

    version = f"version {found.model_version}" if found.model_version else "not a version of a store yet"
    rows = [
        ("model", f"{found.model_name}, {version}"),
        ("variant", found.variant),
        ("signature", found.signature),
        ("features", features_wanted(found)),
        ("labels", f"of {found.labels_of}: {', '.join(found.labels)}" if found.labels else "none"),
        ("SavedModel", f"SHA-256 {found.saved_model_digest}"),
        ("content", "as it was when the metadata was written"),
    ]
    if found.transform is not None:
        named = f"{found.transform.version}, " if found.transform.version else ""
        rows.insert(4, ("transform", f"{named}SHA-256 {found.transform.digest}"))
        rows[5:5] = [
            ("raw input", f"{info.name}  {info.dtype}  {_shape(info.shape)}") for info in found.transform.raw_inputs
        ]  # fmt: skip
    return rows


def _print_weights(it: TFLiteDescription, console: Console) -> None:
    from rich.filesize import decimal

    kernels = [each for each in it.weights if each.kernel and each.zeros is not None]
    values = sum(each.values for each in kernels)
    zeros = sum((each.zeros or 0) * each.values for each in kernels)
    said = f"; {100 * zeros / values:.1f} % zero in those of two or more dimensions" if values else ""
    heading(console, "Constants", f"{len(it.weights)}, {decimal(sum(each.bytes for each in it.weights))}{said}")
    # "a channel": where each channel has a scale, integers of one cluster differ from channel to channel.
    rows = [
        (
            _short(each.name),
            each.dtype + (" sparse" if each.sparse else ""),
            _shape(each.shape),
            decimal(each.bytes),
            "" if each.zeros is None else f"{100 * each.zeros:.1f} %",
            "many" if each.distinct is None else str(each.distinct),
            "" if each.clusters in (None, each.distinct) else str(each.clusters),
        )
        for each in it.weights[:_SHOWN]
    ]
    titles = ("name", "type", "shape", "bytes", "zero", "distinct", "a channel")
    table(console, [titles, *rows], right=[3, 4, 5, 6], header=True)
    if len(it.weights) > _SHOWN:
        console.print(f"  and {len(it.weights) - _SHOWN} smaller ones, which --json has")


def _isolated(path: Path, function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from components.isolate import IsolatedError, ProcessLost, run_isolated

    with tempfile.NamedTemporaryFile(prefix="tfline-tflite-", suffix=".log") as log:
        try:
            # What native code writes to standard error is not for users: every answer would begin with "Created … delegate".
            found: dict[str, Any] = run_isolated(
                f"{__name__}:{function}", {"model": str(path), **arguments}, timeout_seconds=_LONGEST, log=Path(log.name)
            )
        except ProcessLost as error:
            said = "".join(f"\n{plain(line)}" for line in Path(log.name).read_text("utf-8", "replace").splitlines()[-3:])
            raise TflineError(f"{path}: ai-edge-litert did not survive it: {error}{said}") from error
        except IsolatedError as error:
            raise TflineError(f"{path}: {error}") from error
    return told(found)


def told(found: dict[str, Any]) -> dict[str, Any]:
    """What the other process answered; its error, raised, when it was one."""
    if "error" in found:
        kind = UsageError if found["exit_code"] == UsageError.exit_code else TflineError
        raise kind(plain(found["error"], keep="\n"))
    return found


def _file(path: Path) -> Path:
    return path / TFLITE_FILE if path.is_dir() else path


def _quantization(info: TensorInfo) -> str:
    return "" if info.scale is None else f"{info.scale:.6g} * (stored - {info.zero_point})".replace("- -", "+ ")


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join('?' if size < 0 else str(size) for size in shape)}]"


def _short(name: str) -> str:
    """A tensor's name without the layers that were fused into it, and without where they hang."""
    first = name.partition(";")[0]
    return "/".join(first.split("/")[-2:]) or name


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
