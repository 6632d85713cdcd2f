"""Draws the picture in README.md: runs the digits pipeline in a home of its own and writes its last screen as SVG.

python -m benchmarks.picture OUTPUT.svg
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from components.records import Journal
from pipelines.outcome import tell
from pipelines.run_command import Options, run_pipeline
from pipelines.view import RunView

# rich's own template fetches its fonts from a server; whatever monospaced font the reader has will do.
TEMPLATE = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def main(output: Path) -> int:
    """Runs the pipeline and draws it; returns the run's exit code, and writes nothing unless it is 0."""
    folder = Path("pipelines/digits")
    with tempfile.TemporaryDirectory(prefix="tfline-picture-") as temporary:
        home = Path(temporary)
        code = run_pipeline(folder, home, Options(), Console())
        if code:
            return code
        journal = Journal(home)
        record = journal.runs()[0]
        stages = journal.stages(record.run_id)
        paper = Console(record=True, width=80, file=io.StringIO(), force_terminal=True)
        view = RunView(paper, f"{record.pipeline}  run {record.run_id}", record.stages, started=record.started)
        for stage in stages.values():
            view.stage(stage)
        paper.print("$ tfline run pipelines/digits", style="bold")
        paper.print(view.draw(record.finished))
        tell(record, stages, folder, home, paper)
        # The picture shows where things lie by default, not in the folder that this run was made in.
        drawn = paper.export_svg(title="tfline", code_format=TEMPLATE).replace(temporary, ".tfline")
        output.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
