"""The comparison as a picture."""

from __future__ import annotations

from pathlib import Path

from serving.transport_comparison.comparison import GRPC, REST, Comparison

_COLOURS = {GRPC: "#1f77b4", REST: "#d95f02"}
_MARKS = "osD^v*"


def draw(found: Comparison, path: Path) -> None:
    """Writes a PNG: p50 up to p99, requests a second and bytes over rows, a line for each transport and number of clients."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    latency, rate, size = figure.subplots(1, 3)
    rows = sorted({cell.rows for cell in found.cells})
    for index, clients in enumerate(sorted({cell.clients for cell in found.cells})):
        for transport in (GRPC, REST):
            cells = [found.cell(transport, each, clients) for each in rows]
            mark = {"color": _COLOURS[transport], "marker": _MARKS[index % len(_MARKS)], "markersize": 5}
            label = f"{transport}, {clients} client{'s' if clients > 1 else ''}"
            bars = [[0] * len(cells), [cell.p99 - cell.p50 for cell in cells]]
            # A little to the side of each other, so that no bar hides another.
            beside = [each * 1.07 ** (2 * index + (transport == REST)) for each in rows]
            latency.errorbar(beside, [cell.p50 for cell in cells], bars, label=label, capsize=3, linewidth=1.2, **mark)
            rate.plot(rows, [cell.rate for cell in cells], linewidth=1.2, **mark)
    for transport in (GRPC, REST):
        totals = [found.bytes[transport][each].total for each in rows]
        size.plot(rows, totals, color=_COLOURS[transport], marker="o", label=transport)
        payloads = [found.bytes[transport][each].request + found.bytes[transport][each].answer for each in rows]
        size.plot(rows, payloads, color=_COLOURS[transport], linestyle=":", label=f"{transport}, payload")
    for axes, title in ((latency, "p50, bar up to p99 (ms)"), (rate, "requests a second"), (size, "bytes of request and answer")):
        axes.set(title=title, xlabel="rows a request", xscale="log", yscale="log")
        axes.xaxis.minorticks_off()
        axes.set_xticks(rows, [str(each) for each in rows])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.minorticks_off()
        axes.grid(alpha=0.3)
    latency.legend(fontsize=7)
    size.legend(fontsize=7)
    figure.suptitle(
        f"{found.model}, version {found.version}, signature {found.signature}; inputs: {found.inputs}; {found.cores} cores"
    )
    figure.savefig(path, dpi=110, format="png")
