"""What came of a fleet's instances, as a table of text that fits 80 columns, and the errors that carry it."""

from __future__ import annotations

from collections.abc import Sequence

from serving.errors import ServingError
from serving.fleet_instances import Row

_ADDRESS = 30


class FleetError(ServingError):
    """The servers of a model are not as they should be, and tfline could not bring them there.

    Attributes:
        rows: One an instance.
    """

    def __init__(self, told: str, rows: Sequence[Row] = ()) -> None:
        """Args: the message; what came of each instance, which goes below it."""
        super().__init__("\n".join([told, *table(rows)]))
        self.rows = tuple(rows)


class FleetRefused(FleetError):
    """Instances did not take a version; all that answer serve what they served before."""

    exit_code = 3


def table(rows: Sequence[Row]) -> list[str]:
    """Lines: name, address, state of the version, canary, what is served now; below them what went wrong."""
    if not rows:
        return []
    cells: list[tuple[str, ...]] = [("instance", "address", "version", "canary", "serves")]
    for row in rows:
        serves = "no answer" if row.serves is None else ", ".join(map(str, row.serves)) or "nothing"
        cells.append((_cut(row.name, 14), _cut(row.address, _ADDRESS), row.state, row.canary, serves))
    # What nothing was found out about takes no room.
    shown = [column for column in range(5) if any(line[column] != "-" for line in cells[1:])]
    cells = [tuple(line[column] for column in shown) for line in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return [*lines, *(f"{row.name}: {row.problem}" for row in rows if row.problem)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
