"""The variants as a picture: accuracy over size."""

from __future__ import annotations

from pathlib import Path

from components.variant_report import Made, Report, Row


def points(report: Report) -> list[tuple[Row, Made]]:
    """The variants that could be made, which are those with a place in the picture."""
    return [(row, row.made) for row in report.rows if row.made]


def draw(report: Report, path: Path) -> None:
    """Writes a PNG: accuracy over the bytes of each variant, compressed beside as they are, and the float model as a line.

    Args:
        report: With at least one variant that could be made.
        path: The file; it appears by a rename.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for row, made in points(report):
        accuracy = made.measured.comparison.accuracy_tflite
        colour = "#b0b0b0" if row.broken else "#d95f02" if row.name == report.chosen else "#1f77b4"
        axes.plot([made.gzip_bytes, made.bytes], [accuracy, accuracy], color=colour, linewidth=1, alpha=0.6)
        axes.plot(made.gzip_bytes, accuracy, "o", color=colour, fillstyle="none")
        axes.plot(made.bytes, accuracy, "o", color=colour)
        axes.annotate(row.name, (made.bytes, accuracy), (5, 5), textcoords="offset points", fontsize=8)
    float_model = report.float_model
    if float_model.accuracy is not None:
        axes.axhline(float_model.accuracy, color="black", linewidth=0.8, linestyle="--", label="float SavedModel")
        limit = float_model.accuracy - report.gates.max_accuracy_drop
        axes.axhline(limit, color="#b0b0b0", linewidth=0.8, linestyle=":", label="accuracy gate")
    for label, style in (("bytes", "full"), ("bytes, gzip", "none")):
        axes.plot([], [], "o", color="#1f77b4", fillstyle=style, label=label)
    axes.plot([], [], "o", color="#d95f02", label="chosen")
    if any(row.broken for row in report.rows):
        axes.plot([], [], "o", color="#b0b0b0", label="refused")
    axes.set(
        xscale="log", xlabel="bytes of the .tflite", ylabel=f"accuracy, {float_model.eval_examples} examples", title=report.chosen
    )
    axes.set_title(f"{report.chosen} is the {report.select.replace('_', ' ')} that passes" if _passes(report) else "none passes")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    staging = path.with_name(f".{path.name}")
    figure.savefig(staging, dpi=110, format="png")
    staging.replace(path)


def _passes(report: Report) -> bool:
    return any(row.passed for row in report.rows)
