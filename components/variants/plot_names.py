"""Names beside the points of a plot, where they cover neither each other nor other points: deterministic, without a solver."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_DIRECTIONS, _DISTANCES = 16, (8, 16, 25, 36, 50, 66, 84)


class Mark(NamedTuple):
    """A point in data coordinates, and its name; `role` is what its colour says."""

    x: float
    y: float
    text: str
    chosen: bool
    role: str


class _Box(NamedTuple):
    left: float
    low: float
    right: float
    high: float

    def overlap(self, other: _Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.high, other.high) - max(self.low, other.low)
        return width * height if width > 0 and height > 0 else 0.0


def name_points(figure: Any, axes: Any, marks: Sequence[Mark], colours: Mapping[str, str]) -> None:
    """Writes each variant's name where it covers least, near its point, with a thin line to it where it is not beside it.

    Variants lie together: the same accuracy, nearly the same bytes. Names are placed one after the other, from left to right;
    each takes the cheapest of places around its point, by what it would cover and how far it is. All in points, not pixels, of
    which a file has as many as it likes.

    Args:
        figure: Drawn, and without a layout that could still move the axes.
        axes: The marks' axes.
        marks: The points that have a name.
        colours: By role; "ink" for the names, "refused" for the lines to them.
    """
    renderer, scale = figure.canvas.get_renderer(), 72 / figure.dpi
    frame = _Box(*(edge * scale for edge in axes.bbox.extents))
    spots = [tuple(axes.transData.transform((mark.x, mark.y)) * scale) for mark in marks]
    taken, names = [_around(x, y, 5) for x, y in spots], list[_Box]()
    taken += _rulers(axes, frame, scale)
    for index in sorted(range(len(spots)), key=lambda each: (spots[each], each)):
        mark, (x, y) = marks[index], spots[index]
        style = {"fontsize": 8.5, "fontweight": "bold" if mark.chosen else "normal", "parse_math": False}
        text = axes.annotate(mark.text, (x, y), xycoords="figure points", annotation_clip=False, **style)
        extent = text.get_window_extent(renderer)
        size = (extent.width * scale + 2, extent.height * scale)
        box = min(_places(x, y, size), key=lambda place: _cost(place, (x, y), spots, taken, names, frame))
        near = _nearest(box, x, y)
        text.remove()
        if math.dist(near, (x, y)) > 8.5:
            axes.annotate(
                "", (x, y), near, xycoords="figure points", textcoords="figure points", annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": colours["refused"], "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
            )  # fmt: skip
        axes.annotate(
            mark.text, (box.left + 1, box.low), xycoords="figure points", annotation_clip=False, va="bottom",
            color=colours["chosen" if mark.role == "chosen" else "ink"], **style,
        )  # fmt: skip
        names.append(box)
        taken += [box, *(_around(*spot, 1) for spot in _way(near, (x, y)))]


def _rulers(axes: Any, frame: _Box, scale: float) -> list[_Box]:
    """Where the lines across the whole picture are, which names had better not be written on."""
    found = []
    for line in axes.get_lines():
        (left, low), (right, high) = line.get_transform().transform(line.get_xydata())[[0, -1]] * scale
        if low == high and right - left > frame.right - frame.left - 1:
            found.append(_Box(frame.left, low - 1, frame.right, low + 1))
        elif left == right and high - low > frame.high - frame.low - 1:
            found.append(_Box(left - 1, frame.low, left + 1, frame.high))
    return found


def _places(x: float, y: float, size: tuple[float, float]) -> Iterator[_Box]:
    """Where a name may stand, beside its point first."""
    width, height = size
    for distance in _DISTANCES:
        for step in range(_DIRECTIONS):
            angle = 2 * math.pi * step / _DIRECTIONS
            middle_x = x + math.cos(angle) * (distance + width / 2)
            middle_y = y + math.sin(angle) * (distance + height / 2)
            yield _Box(middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2)


def _cost(
    box: _Box, point: tuple[float, float], spots: Sequence[tuple[float, float]], taken: Sequence[_Box], names: Sequence[_Box],
    frame: _Box,
) -> float:  # fmt: skip
    """What a place costs: outside of the axes most, then what it covers, whose point it seems to name, how far it is."""
    outside = (box.right - box.left) * (box.high - box.low) - box.overlap(frame)
    covered = sum(box.overlap(other) for other in taken)
    near = _nearest(box, *point)
    way = math.dist(near, point)
    wrong = sum(math.dist(_nearest(box, *other), other) < way + 2 for other in spots if math.dist(other, point) > 2)
    crossed = sum(_around(*spot, 0.5).overlap(other) > 0 for spot in _way(near, point) for other in names)
    return 100 * outside + 20 * covered + 25 * wrong + 15 * crossed + way


def _nearest(box: _Box, x: float, y: float) -> tuple[float, float]:
    return min(max(x, box.left), box.right), min(max(y, box.low), box.high)


def _way(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    """Places on a line, without its very ends, which lie on the name and on the point."""
    return [(start[0] + (end[0] - start[0]) * part / 10, start[1] + (end[1] - start[1]) * part / 10) for part in range(1, 9)]


def _around(x: float, y: float, reach: float) -> _Box:
    return _Box(x - reach, y - reach, x + reach, y + reach)
