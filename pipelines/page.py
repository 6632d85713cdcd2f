"""How a command's page looks: headings and tables without lines, at whatever width, with names made harmless."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def heading(console: Console, title: str, said: str = "") -> None:
    """Prints an empty line and a title in bold, with what is said of it."""
    from rich.text import Text

    console.print()
    console.print(Text.assemble((title, "bold"), f"  {plain(said)}" if said else ""))


def table(console: Console, rows: Iterable[Iterable[str]], right: Iterable[int] = (), header: bool = False) -> None:
    """Prints rows, if there are any, cells folded where the page ends.

    Args:
        console: Where to.
        rows: Cells; all rows have as many.
        right: Columns that are flush right.
        header: Whether the first row is one of titles.
    """
    from rich.padding import Padding
    from rich.table import Table

    cells = [[plain(cell) for cell in row] for row in rows]
    if len(cells) <= header:
        return
    made = Table(box=None, show_header=header, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    # Rich gives a column without text a width, and takes it from another one.
    shown = [index for index, column in enumerate(zip(*cells[header:], strict=True)) if any(column)]
    flush = set(right)
    for index in shown:
        made.add_column(cells[0][index] if header else "", justify="right" if index in flush else "left", overflow="fold")
    for row in cells[header:]:
        made.add_row(*(row[index] for index in shown))
    console.print(Padding(made, (0, 0, 0, 2), expand=False))


def plain(text: str, keep: str = "") -> str:
    """The text with what would steer a terminal made visible: names in a model are whatever its author wrote."""
    return "".join(sign if sign.isprintable() or sign in keep else sign.encode("unicode_escape").decode() for sign in text)
