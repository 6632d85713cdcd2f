"""The variants as a picture: accuracy over size, as a PNG for MLflow and as SVG for the report page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from components.variants.plot_names import Mark, name_points
from components.variants.report import Made, Report, Row

# The page gives these roles other colours in the dark; in the PNG they are as here.
COLOURS = {
    "ink": "#1f2329",
    "grid": "#e3e6ea",
    "paper": "#fdfefe",
    "passes": "#2166c1",
    "chosen": "#c84e00",
    "refused": "#80868e",
    "gate": "#a3303c",
}
"""Role to colour; no two alike, as `draw_svg` finds the roles again by them."""

_STEPS = (
    (1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
    *(tuple(step / 100 for step in range(100, 1000, every)) for every in (25, 5, 1)),
)  # fmt: skip


def points(report: Report) -> list[tuple[Row, Made]]:
    """The variants that could be made, which are those with a place in the picture."""
    return [(row, row.made) for row in report.rows if row.made]


def draw(report: Report, path: Path) -> None:
    """Writes a PNG: accuracy over the bytes of each variant, as it is and below it compressed, and the float model as a line.

    Args:
        report: With at least one variant that could be made.
        path: The file; it appears by a rename.
    """
    staging = path.with_name(f".{path.name}")
    _figure(report).savefig(staging, dpi=160, format="png")
    staging.replace(path)


def draw_svg(report: Report) -> str:
    """The same picture as an `<svg>` element to stand in a page, whose colours are `var(--plot-<role>)` of `COLOURS`."""
    import matplotlib as mpl

    buffer = io.StringIO()
    # A text stays a text, and the same report gives the same characters.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tfline"}):
        _figure(report).savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for role, colour in COLOURS.items():
        text = text.replace(colour, f"var(--plot-{role}, {colour})")
    return text


def _figure(report: Report) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), layout="constrained", facecolor=COLOURS["paper"])
    FigureCanvasAgg(figure)
    # Two panels: in one, points of the same accuracy lie on each other's lines from one size to the other.
    panels = figure.subplots(2, sharey=True)
    titles = ("The file as it is", "The same files compressed with gzip, as an app's download has them")
    floor = _floor(report)
    marks, lines = [], list[tuple[str, dict[str, Any]]]()
    for axes, title, compressed in zip(panels, titles, (False, True), strict=True):
        _style(axes, title)
        marks.append(
            [_mark(axes, report, row, made.gzip_bytes if compressed else made.bytes, floor) for row, made in points(report)]
        )
        lines = lines or _lines(axes, report, floor)
    _lines(panels[1], report, floor, with_size=False)
    for axes in panels:
        _ticks(axes)
    chosen = (
        f"{report.chosen} is the {report.select.replace('_', ' ')} that passes" if _passes(report) else "none passes the gates"
    )
    figure.suptitle(f"{chosen}; up and left is better", parse_math=False, color=COLOURS["ink"], fontsize=12, x=0.01, ha="left")
    panels[1].set_xlabel("size (log scale)", color=COLOURS["ink"])
    figure.supylabel(f"accuracy on {report.float_model.eval_examples:,} examples", color=COLOURS["ink"], fontsize=10)
    _legend(figure, report, lines)
    figure.canvas.draw()
    # From here on nothing may move: the names are placed by points of the figure.
    figure.set_layout_engine("none")
    for axes, spots in zip(panels, marks, strict=True):
        name_points(figure, axes, spots, COLOURS)
    return figure


def _floor(report: Report) -> float:
    """The accuracy below which points are drawn at the edge: one ruined variant would press all others together."""
    found = [(row, made.measured.comparison.accuracy_tflite) for row, made in points(report)]
    good = [accuracy for row, accuracy in found if row.passed or row.name == report.chosen]
    of_float = report.float_model.accuracy
    top = max([*(accuracy for _, accuracy in found), *([] if of_float is None else [of_float])])
    low = min(*good, top if of_float is None else of_float)
    return low - 2 * max(top - low, 0.02)


def _style(axes: Any, title: str) -> None:
    axes.set_title(title, color=COLOURS["ink"], fontsize=10, loc="left")
    axes.set_xscale("log")
    axes.set_facecolor(COLOURS["paper"])
    axes.grid(color=COLOURS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.1, y=0.16)
    axes.ticklabel_format(axis="y", useOffset=False, style="plain")
    axes.tick_params(colors=COLOURS["ink"], labelsize=9)
    for side, spine in axes.spines.items():
        spine.set(color=COLOURS["refused"], visible=side in {"left", "bottom"})


def _mark(axes: Any, report: Report, row: Row, size: int, floor: float) -> Mark:
    """Draws one variant; gives where, and what to write there."""
    accuracy = row.made.measured.comparison.accuracy_tflite if row.made else 0.0
    below = accuracy < floor
    role = "refused" if row.broken else "chosen" if row.name == report.chosen else "passes"
    # The shape says it too, for those who do not tell the colours apart.
    shape, width = ("v", 7.0) if below else {"refused": ("X", 7.0), "chosen": ("D", 8.0), "passes": ("o", 6.5)}[role]
    height = max(accuracy, floor)
    axes.plot(
        size,
        height,
        shape,
        color=COLOURS[role],
        markersize=width,
        markeredgecolor=COLOURS["paper"],
        zorder=5 if role == "chosen" else 4,
    )
    return Mark(size, height, f"{row.name}, {accuracy:.4f}" if below else row.name, row.name == report.chosen, role)


def _lines(axes: Any, report: Report, floor: float, with_size: bool = True) -> list[tuple[str, dict[str, Any]]]:
    """Draws the float model and the gates, those that are near the points; gives each one's name and style, for the legend."""
    found, of_float = [], report.float_model.accuracy
    if of_float is not None:
        style: dict[str, Any] = {"color": COLOURS["ink"], "linewidth": 1, "linestyle": "--"}
        axes.axhline(of_float, **style)
        found.append(("float SavedModel", style))
        limit = of_float - report.gates.max_accuracy_drop
        if limit > floor:
            style = {"color": COLOURS["gate"], "linewidth": 1.2, "linestyle": ":"}
            axes.axhline(limit, **style)
            found.append(("accuracy gate", style))
    most, sizes = report.gates.max_bytes, [made.bytes for _, made in points(report)]
    if with_size and most and min(sizes) / 1.5 < most < 1.5 * max(sizes):
        style = {"color": COLOURS["gate"], "linewidth": 1.2, "linestyle": "-."}
        axes.axvline(most, **style)
        found.append(("size gate", style))
    return found


def _ticks(axes: Any) -> None:
    """Round numbers of bytes, as many as fit, in words: a log axis of less than a decade has few labels of its own, or none."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axes.get_xlim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [
        [step * 10**decade for decade in decades for step in steps if low <= step * 10**decade <= high] for steps in _STEPS
    ]
    apart = (high / low) ** 0.055
    fitting = [each for each in choices if all(after >= apart * before for before, after in pairwise(each))]
    ticks = max(fitting, key=len)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _size(value)))


def _size(count: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:g} {unit}"
    return f"{count:g} B"


def _legend(figure: Any, report: Report, lines: Sequence[tuple[str, dict[str, Any]]]) -> None:
    from matplotlib.lines import Line2D

    def dot(colour: str, shape: str, label: str, **more: Any) -> Any:
        return Line2D([], [], color=COLOURS[colour], marker=shape, linestyle="", label=label, **more)

    handles = [dot("passes", "o", "passes")] if any(row.passed and row.name != report.chosen for row in report.rows) else []
    handles += [dot("chosen", "D", "chosen")] if _passes(report) else []
    handles += [dot("refused", "X", "refused")] if any(row.broken for row in report.rows) else []
    below = [made for _, made in points(report) if made.measured.comparison.accuracy_tflite < _floor(report)]
    handles += [dot("refused", "v", "refused, below the picture")] if below else []
    handles += [Line2D([], [], label=label, **style) for label, style in lines]
    columns = min(len(handles), 7)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=8.5, frameon=False, labelcolor=COLOURS["ink"],
        handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip


def _passes(report: Report) -> bool:
    return any(row.passed for row in report.rows)
