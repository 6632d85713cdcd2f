"""`tfline status` and `tfline metadata`: what a server says of a model."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.errors import UsageError
from serving.client import Client, Tls
from serving.client.errors import RequestError
from serving.client.values import Signature, State, Tensor
from serving.errors import ServingError
from serving.request_arrays import shape_text
from serving.server.status import Code

_STYLES = {State.AVAILABLE: "green", State.LOADING: "cyan", State.START: "cyan", State.UNLOADING: "dim", State.END: "dim"}


def make_client(servers: Sequence[str], timeout: float, ca: Path | None, cert: Path | None, key: Path | None) -> Client:
    """A client from a command line's options; UsageError for addresses or certificates that are none."""
    try:
        return Client(list(servers), timeout=timeout, tls=Tls(ca, cert, key) if ca or cert or key else None)
    except (OSError, ValueError) as error:
        raise UsageError(f"--server: {error}") from None


@contextmanager
def hinting(model: str) -> Iterator[None]:
    """Adds to the error of a server that cannot be reached how to start one."""
    try:
        yield
    except RequestError as error:
        if error.code is not Code.UNAVAILABLE:
            raise
        raise ServingError(
            f"{error}\nIs a server running there? `tfline serve {shlex.quote(model)}` starts one; --server names another."
        ) from error


def print_status(client: Client, model: str, version: int | None, *, as_json: bool) -> None:
    """Prints the versions of a model and their states, the newest first; RequestError when the server knows none."""
    found = client.status(model, version)
    if as_json:
        listed = [
            {"version": each.version, "state": each.state.name, "code": each.code.name, "message": each.message} for each in found
        ]
        sys.stdout.write(json.dumps(listed, indent=2) + "\n")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("version", justify="right")
    table.add_column("state")
    table.add_column("error", overflow="fold")
    for each in found:
        wrong = f"{each.code.name}: {each.message}" if each.code else ""
        table.add_row(str(each.version), Text(each.state.name, "red" if wrong else _STYLES.get(each.state, "")), _plain(wrong))
    _console().print(table)


def print_metadata(client: Client, model: str, version: int | None, label: str | None, *, as_json: bool) -> None:
    """Prints the signatures of the version that answers."""
    answering, signatures = client.metadata(model, version, label=label)
    if as_json:
        described = {
            name: {
                "method": each.method,
                "inputs": {key: _json(tensor) for key, tensor in each.inputs.items()},
                "outputs": {key: _json(tensor) for key, tensor in each.outputs.items()},
            }
            for name, each in signatures.items()
        }
        sys.stdout.write(json.dumps({"version": answering, "signatures": described}, indent=2) + "\n")
        return
    console = _console()
    console.print(_plain(f"{model}, version {answering}"), style="bold")
    for name, signature in signatures.items():
        _print_signature(console, name, signature)


def _print_signature(console: Any, name: str, signature: Signature) -> None:
    from rich.padding import Padding
    from rich.table import Table

    console.print()
    console.print(_plain(f"{name}  {signature.method}"), soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("way", "name", "dtype", "shape"):
        table.add_column(column, overflow="fold")
    for way, tensors in (("in", signature.inputs), ("out", signature.outputs)):
        for key, tensor in tensors.items():
            table.add_row(way, _plain(key), _dtype(tensor), shape_text(tensor.shape))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _json(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": _dtype(tensor), "shape": tensor.shape}


def _dtype(tensor: Tensor) -> str:
    return "string" if tensor.dtype.kind == "O" else str(tensor.dtype)


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def _plain(text: str) -> str:
    """The text with what would steer a terminal made visible: it is a server that says it."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
