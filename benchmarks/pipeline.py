"""The shipped digits pipeline against the same stages as a stock TFX pipeline, in seconds: cold, and again, nothing changed.

python -m benchmarks.pipeline [RUNS]

Each side is timed as a whole process, in a temporary folder. They take turns: cold, and twice more with nothing changed. In its
first rerun stock TFX measures the model against itself and pushes it again; in its second it takes all from its cache, as ours
does in both. The data of both is written beforehand. An import of TFX, which fills the page cache, is not counted.

What stock is: TFX's own templates on this data. LocalDagRunner with default Beam options; the 64 pixels as 64 columns of a CSV
file, each through tft.scale_to_0_1; `module_file`; CsvExampleGen, StatisticsGen, SchemaGen, ExampleValidator, Transform, Trainer,
Resolver (the latest blessed model), Evaluator, Pusher. Its splits have the same shares, its run_fn trains the net that
pipelines/digits/model.py builds, for as many epochs and steps as ours took, and its Evaluator has the same metrics and slices.

What is not alike: stock TFX converts nothing to TFLite, checks no export in a fresh process and writes nothing to MLflow. Ours
does all that within its time, and nothing is taken off for it.

Two things a stock user has are not here:

- pip: `module_file` needs it and uv's environments have none. Python's own copy (ensurepip) is unpacked into a temporary folder
  on PYTHONPATH. It may not look for a newer pip, which a slow network would put into stock's time.
- Prism, the runner that Beam's default downloads from GitHub. Where that cannot be reached, Beam tries for every pipeline, fails,
  and takes FnApiRunner. The time from the start of each such attempt to its failure is measured, printed, and taken off stock's
  time. Where Prism can be had, stock runs on Prism, and these figures do not tell how long that takes.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.stock_pipeline import DIGITS, TIMING, prepare
from components import ingest
from components.records import Journal
from pipelines.config import load_config

_TARGETS = {"cold": 0.3, "unchanged": 0.5, "unchanged again": math.inf}

# Our stages and stock TFX's nodes; export is part of Trainer, and what is not named here has no like.
_ALIKE = {
    "ingest": "CsvExampleGen",
    "statistics": "StatisticsGen",
    "schema": "SchemaGen",
    "validate-data": "ExampleValidator",
    "transform": "Transform",
    "train": "Trainer",
    "champion": "latest_blessed_model_resolver",
    "evaluate": "Evaluator",
    "push": "Pusher",
}
_AROUND = ("before the stages", "after them")


@dataclass(frozen=True)
class Timing:
    """One whole process.

    Attributes:
        whole: Its seconds, wall clock, without `lost`.
        cpu: CPU seconds of it and the processes it started, without those in `lost`.
        lost: Seconds in attempts to get Prism; 0 for ours.
        stages: Seconds by stage, without what was lost in it.
    """

    whole: float
    cpu: float
    lost: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)


def main(runs: int = 3) -> int:
    """Measures and prints the tables; returns 1 when a ratio of medians is above its target."""
    took: dict[str, list[tuple[Timing, Timing]]] = {kind: [] for kind in _TARGETS}
    subprocess.run([sys.executable, "-c", "from tfx import v1"], check=True, capture_output=True)
    for run in range(runs):
        with tempfile.TemporaryDirectory(prefix="tfline-pipeline-") as temporary:
            home, stock = Path(temporary, "home"), Path(temporary, "stock")
            ingest.prepare(load_config(DIGITS, home).ingest, DIGITS)
            for kind, timings in took.items():
                ours = _run_ours(home)
                if kind == "cold":
                    prepare(stock, home)
                timings.append((ours, _run_stock(stock)))
                told = " against ".join(f"{timing.whole:.1f}" for timing in timings[-1])
                print(f"run {run + 1} of {runs}, {kind}: {told} s", file=sys.stderr, flush=True)
    ratios = {kind: _tell(kind, timings) for kind, timings in took.items()}
    return int(any(ratio > _TARGETS[kind] for kind, ratio in ratios.items()))


def _tell(kind: str, timings: Sequence[tuple[Timing, Timing]]) -> float:
    """Prints one table; returns the ratio of the whole processes."""
    ours, stock = (_median([pair[side] for pair in timings]) for side in (0, 1))
    table = Table("stage", "tfline s", "stock TFX", "s", "ratio", title=f"{kind}: medians of {len(timings)} runs")
    for stage, seconds in ours.stages.items():
        name = _ALIKE.get(stage, "")
        table.add_row(stage, *_row(seconds, name, stock.stages.get(stage if stage in _AROUND else name)))
    table.add_section()
    table.add_row("whole process", *_row(ours.whole, "", stock.whole), style="bold")
    table.add_row("its CPU seconds", *_row(ours.cpu, "", stock.cpu))
    table.add_row("not counted", "", "attempts to get Prism", f"{stock.lost:.1f}", "")
    console = Console(width=100)
    console.print(table)
    return ours.whole / stock.whole


def _row(ours: float, name: str, stock: float | None) -> tuple[str, str, str, str]:
    if stock is None:
        return f"{ours:.1f}", name, "", ""
    return f"{ours:.1f}", name, f"{stock:.1f}", f"{ours / stock:.2f}" if stock >= 1 else ""


def _median(timings: Sequence[Timing]) -> Timing:
    whole, cpu, lost = (statistics.median(getattr(timing, name) for timing in timings) for name in ("whole", "cpu", "lost"))
    stages = {name: statistics.median(timing.stages[name] for timing in timings) for name in timings[0].stages}
    return Timing(whole, cpu, lost, stages)


def _run_ours(home: Path) -> Timing:
    """One `tfline run`, with its stages from the journal; they may run side by side."""
    began = time.time()
    cpu = _run([str(Path(sys.executable).parent / "tfline"), "run", str(DIGITS), "--home", str(home)])
    ended = time.time()
    journal = Journal(home)
    stages = journal.stages(journal.runs()[0].run_id)
    spans = {name: (record.started or 0.0, record.finished or 0.0) for name, record in stages.items()}
    return Timing(ended - began, cpu, 0.0, _seconds(spans, began, ended))


def _run_stock(folder: Path) -> Timing:
    """One run of the stock pipeline, with its stages from LocalDagRunner's log."""
    packages = next((folder / "pip").rglob("site-packages"))
    path = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "TF_USE_LEGACY_KERAS": "1"}
    began = time.time()
    cpu = _run([sys.executable, "-m", "benchmarks.stock_pipeline", str(folder)], environment)
    ended = time.time()
    told = json.loads((folder / TIMING).read_text(encoding="utf-8"))
    stages = _seconds(told["stages"], began, ended)
    for name, (seconds, cpu_seconds) in told["lost"].items():
        stages[name] -= seconds
        cpu -= cpu_seconds
    lost = sum(seconds for seconds, _ in told["lost"].values())
    return Timing(ended - began - lost, cpu, lost, stages)


def _seconds(spans: Mapping[str, tuple[float, float]], began: float, ended: float) -> dict[str, float]:
    """The length of each stage, and of what comes before the first and after the last."""
    before, after = min(start for start, _ in spans.values()) - began, ended - max(end for _, end in spans.values())
    return {name: end - start for name, (start, end) in spans.items()} | dict(zip(_AROUND, (before, after), strict=True))


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Runs a process to its end; returns its CPU seconds, those of its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr[-8000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
