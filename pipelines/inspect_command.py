"""`tfline inspect`: a SavedModel on a page, or as JSON with everything."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import TflineError
from serving.saved_model import SERVE, SavedModelDescription, SavedModelError, TensorSpec, Variable, describe

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = 40
"""Variables on the page; with more than that, the largest ones."""


def inspect_model(folder: Path, *, as_json: bool = False, tags: Collection[str] = SERVE) -> None:
    """Prints what the SavedModel in a folder is: all of it, or nothing when it is broken.

    Args:
        folder: See `serving.saved_model.describe`.
        as_json: The whole description as one JSON object: the fields of SavedModelDescription, sizes in bytes.
        tags: Tags of the MetaGraph to describe.

    Raises:
        TflineError: There is no SavedModel in the folder, or it is broken; the message has every problem found.
    """
    try:
        description = describe(folder, tags)
    except SavedModelError as error:
        raise TflineError(_plain(str(error), keep="\n")) from error
    if as_json:
        sys.stdout.write(json.dumps(asdict(description), indent=2) + "\n")
        return
    from rich.console import Console  # as long to load as everything that --json does

    print_page(description, Console(highlight=False, markup=False, emoji=False))


def print_page(it: SavedModelDescription, console: Console) -> None:
    """Prints a description for people."""
    console.print(_plain(it.path), style="bold", soft_wrap=True)
    source = f" ({it.tensorflow_git_version})" if it.tensorflow_git_version else ""
    kind = "object graph (TF2)" if it.format == "tf2" else "graph without objects (TF1)"
    console.print(_plain(f"TensorFlow {it.tensorflow_version or 'of an unknown version'}{source}, {kind}"))
    others = "".join(f"; also in the file: {_tags(tags)}" for tags in it.tag_sets if tags != it.tags)
    console.print(_plain(f"tags {_tags(it.tags)}{others}"))
    _print_signatures(it, console)
    _print_variables(it.variables, console)
    assets = {asset.filename: asset.bytes for asset in it.assets}
    _heading(console, "Assets", f"{len(assets)}" if assets else "none")
    _print_table(console, (((name, _size(size)) for name, size in assets.items())), right=1)
    _print_ops(it, console)
    _heading(console, "Size", f"{_size(it.sizes['total'])} in {len(it.files)} files")
    _print_table(console, ((part, _size(size)) for part, size in it.sizes.items() if part != "total"), right=1)
    _heading(console, "Fingerprint", "" if it.fingerprint else "none, as before TensorFlow 2.12")
    _print_table(console, (it.fingerprint or {}).items())


def _print_signatures(it: SavedModelDescription, console: Console) -> None:
    _heading(console, "Signatures", f"{len(it.signatures)}" if it.signatures else "none")
    for name, signature in it.signatures.items():
        console.print(f"  {_plain(name)}  {_plain(signature.method)}", soft_wrap=True)
        tensors = [("  in", signature.inputs), ("  out", signature.outputs)]
        _print_table(
            console, ((way, key, _kind(spec), _shape(spec.shape)) for way, specs in tensors for key, spec in specs.items())
        )


def _print_variables(variables: list[Variable], console: Console) -> None:
    values, size = sum(math.prod(each.shape) for each in variables), sum(each.bytes for each in variables)
    _heading(console, "Variables", f"{len(variables)} with {values:,} values, {_size(size)}" if variables else "none")
    many = len(variables) > _SHOWN
    shown = sorted(variables, key=lambda variable: -variable.bytes)[:_SHOWN] if many else variables
    names = _names(shown)
    _print_table(console, ((names[each.key], each.dtype, _shape(each.shape), _size(each.bytes)) for each in shown), right=3)
    if many:
        console.print(f"  and {len(variables) - _SHOWN} smaller ones, which --json has")


def _print_ops(it: SavedModelDescription, console: Console) -> None:
    from rich.columns import Columns

    total = sum(it.ops.values())
    said = f"{total:,} of {len(it.ops)} kinds: {it.nodes:,} in the graph, {total - it.nodes:,} in {it.functions:,} functions"
    _heading(console, "Ops", said)
    if it.ops:
        console.print(Columns([f"{count:>6} {_plain(op)}" for op, count in it.ops.items()], column_first=True, padding=(0, 2)))


def _heading(console: Console, title: str, said: str) -> None:
    from rich.text import Text

    console.print()
    console.print(Text.assemble((title, "bold"), f"  {said}" if said else ""))


def _print_table(console: Console, rows: Iterable[tuple[str, ...]], right: int | None = None) -> None:
    """Prints rows, if there are any; cells too long for the page go on in the next line, the column `right` is flush right."""
    from rich.padding import Padding
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        while len(table.columns) < len(row):
            table.add_column(justify="right" if len(table.columns) == right else "left", overflow="fold")
        table.add_row(*map(_plain, row))
    if table.row_count:
        console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _names(variables: Iterable[Variable]) -> dict[str, str]:
    """What to call each variable, by key: its name, and when others have the same name, where it hangs in the model."""
    counts = Counter(variable.name for variable in variables)
    paths = {variable.key: variable.key.partition("/.ATTRIBUTES/")[0] for variable in variables}
    return {each.key: each.name if counts[each.name] == 1 else f"{each.name} ({paths[each.key]})" for each in variables}


def _tags(tags: Iterable[str]) -> str:
    return f"[{', '.join(tags)}]"


def _size(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)


def _kind(spec: TensorSpec) -> str:
    return spec.dtype if spec.kind == "dense" else f"{spec.kind} {spec.dtype}"


def _shape(shape: tuple[int | None, ...] | None) -> str:
    if shape is None:
        return "unknown rank"
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _plain(text: str, keep: str = "") -> str:
    """The text with what would steer a terminal made visible: names in a model are whatever its author wrote."""
    return "".join(sign if sign.isprintable() or sign in keep else sign.encode("unicode_escape").decode() for sign in text)
