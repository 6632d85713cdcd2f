"""From CSV files to transformed examples: `tfline run pipelines/trips --to transform` against a stock TFX pipeline of the same.

python -m benchmarks.ingest [--rows 10000 100000 1000000] [--out FILE]

For each number of rows both sides run once, one after the other, as whole processes in a temporary folder, on the same files.
The stock side is CsvExampleGen, StatisticsGen, SchemaGen, ExampleValidator and Transform under LocalDagRunner, with the trips'
model.py as `module_file`, the same splits, and nothing else set.

Without options for Beam that side starts Prism for each of its pipelines. Where Prism cannot be downloaded, Beam itself falls
back to its FnApiRunner, which then stands in; the table says which it was. `module_file` makes TFX call pip, which a venv of uv
does not have: then the one that comes with Python (ensurepip) is put on that side's path.

CPU seconds are those of the process and its descendants; they tell more than the time on a machine that has other things to do.
Memory is what all of them occupy together, as proportional set size (PSS), in which pages that forked processes share count once;
the greatest of four samples a second.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.trips import data

_PIPELINE = Path(data.__file__).parent
_SPLITS = {"train": 7, "validation": 1, "eval": 2}
_TARGET = 0.5
_STAGES = {
    "ingest": "CsvExampleGen",
    "statistics": "StatisticsGen",
    "schema": "SchemaGen",
    "validate-data": "ExampleValidator",
    "transform": "Transform",
}


@dataclass(frozen=True)
class Measured:
    """A side's run: seconds of the whole process, CPU seconds, peak memory in bytes, seconds by stage, Beam's runner."""

    seconds: float
    cpu: float
    peak: int
    stages: Mapping[str, float]
    runner: str


def main(rows: Sequence[int], out: Path | None) -> int:
    """Measures, prints the tables; returns 1 when the greatest size misses the target, or time grows faster than the rows."""
    console = Console(width=130, record=True)
    sides: dict[str, list[Measured]] = {"tfline": [], "stock TFX": []}
    for count in rows:
        with tempfile.TemporaryDirectory(prefix="tfline-ingest-") as temporary:
            folder = Path(temporary)
            (folder / "data").mkdir()
            data.write(folder / "data", rows=count)
            for name, run in {"tfline": _ours, "stock TFX": _stock}.items():
                sides[name].append(run(folder))
                console.print(f"{name}, {count:,} rows: {sides[name][-1].seconds:.0f} s", style="dim")
    ours, theirs = sides.values()
    console.print(_whole(rows, sides), _by_stage(rows, ours, theirs))
    if out:
        out.write_text(console.export_text(), encoding="utf-8")
    ratio = ours[-1].seconds / theirs[-1].seconds
    growth = [after.seconds / before.seconds for before, after in pairwise(ours)]
    linear = [after / before for before, after in pairwise(rows)]
    return int(ratio > _TARGET or any(found > limit for found, limit in zip(growth, linear, strict=True)))


def _whole(rows: Sequence[int], sides: Mapping[str, Sequence[Measured]]) -> Table:
    table = Table(
        title="CSV to transformed examples, whole process", caption="time, CPU, memory: tfline's as a part of stock TFX's"
    )
    for title in ("rows", "side", "seconds", "rows/s", "CPU s", "peak MB", "time", "CPU", "memory", "Beam"):
        table.add_column(title, justify="right" if title not in ("side", "Beam") else "left")
    for place, count in enumerate(rows):
        stock = sides["stock TFX"][place]
        for name, found in ((name, measured[place]) for name, measured in sides.items()):
            pairs = ((found.seconds, stock.seconds), (found.cpu, stock.cpu), (found.peak, stock.peak))
            ratios = ["" if found is stock else f"{mine / its:.2f}" for mine, its in pairs]
            times = [f"{found.seconds:.1f}", f"{count / found.seconds:,.0f}", f"{found.cpu:.1f}"]
            numbers = [*times, f"{found.peak / 1e6:,.0f}"]
            table.add_row(f"{count:,}", name, *numbers, *ratios, found.runner, end_section=found is stock)
    return table


def _by_stage(rows: Sequence[int], ours: Sequence[Measured], theirs: Sequence[Measured]) -> Table:
    table = Table("stage", title="Seconds by stage, tfline / stock TFX")
    for count in rows:
        table.add_column(f"{count:,} rows", justify="right")
    for stage, stock in _STAGES.items():
        pairs = zip(ours, theirs, strict=True)
        table.add_row(stage, *(f"{mine.stages[stage]:.1f} / {its.stages[stock]:.1f}" for mine, its in pairs))
    rest = [[side.seconds - sum(side.stages.values()) for side in pair] for pair in zip(ours, theirs, strict=True)]
    table.add_row("start and the rest", *(f"{mine:.1f} / {its:.1f}" for mine, its in rest))
    return table


def _ours(folder: Path) -> Measured:
    home = folder / "home"
    command = [str(Path(sys.executable).parent / "tfline"), "run", str(_PIPELINE), "--home", str(home), "--to", "transform"]
    settings = {"ingest.path": folder / "data", "ingest.prepare": "null", "ingest.splits": json.dumps(_SPLITS)}
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    return _measure(command, folder, {}, home / "metadata.db")


def _stock(folder: Path) -> Measured:
    environment = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "TF_USE_LEGACY_KERAS": "1"}
    if importlib.util.find_spec("pip") is None:
        subprocess.run([sys.executable, "-m", "ensurepip", "--root", str(folder / "pip")], check=True, capture_output=True)
        environment["PYTHONPATH"] = str(next((folder / "pip").rglob("pip/__init__.py")).parents[1])
    code = (
        f"import sys; sys.path.append({str(Path(__file__).parents[1])!r}); from benchmarks.ingest import run_stock; run_stock()"
    )
    return _measure([sys.executable, "-c", code], folder, environment, folder / "stock.db")


def run_stock() -> None:
    """The stock pipeline, on `data` in the working directory; what the other process of the comparison runs."""
    import logging

    from tfx import v1 as tfx

    # Beam says which runner it took at this level.
    logging.getLogger("apache_beam.runners.direct.direct_runner").setLevel(logging.INFO)
    split = tfx.proto.SplitConfig.Split
    splits = tfx.proto.SplitConfig(splits=[split(name=name, hash_buckets=share) for name, share in _SPLITS.items()])
    examples = tfx.components.CsvExampleGen(input_base="data", output_config=tfx.proto.Output(split_config=splits))
    statistics = tfx.components.StatisticsGen(examples=examples.outputs["examples"])
    schema = tfx.components.SchemaGen(statistics=statistics.outputs["statistics"])
    validator = tfx.components.ExampleValidator(statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"])
    transform = tfx.components.Transform(
        examples=examples.outputs["examples"], schema=schema.outputs["schema"], module_file=str(_PIPELINE / "model.py")
    )
    pipeline = tfx.dsl.Pipeline(
        pipeline_name="stock",
        pipeline_root=str(Path("stock").absolute()),
        components=[examples, statistics, schema, validator, transform],
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config("stock.db"),
    )
    tfx.orchestration.LocalDagRunner().run(pipeline)


def _measure(command: Sequence[str], folder: Path, environment: Mapping[str, str], metadata: Path) -> Measured:
    # Without .pyc files every start would compile all of TFX anew.
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    log = folder / "log.txt"
    with log.open("w+", encoding="utf-8") as output:
        began, used = time.perf_counter(), _cpu_of_children()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env={**inherited, **environment}, text=True
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(0.25)
        seconds, cpu = time.perf_counter() - began, _cpu_of_children() - used
    told = log.read_text(encoding="utf-8")
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{told[-5000:]}")
    tried = "Running pipeline with PrismRunner" in told
    runner = "Prism" if tried and "Falling back to DirectRunner" not in told else "FnApi"
    return Measured(seconds, cpu, peak, _stage_seconds(metadata), runner)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(root: int) -> int:
    """Bytes of PSS of a process and its descendants (proc(5)); 0 for what ended meanwhile."""
    children: dict[int, list[int]] = defaultdict(list)
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            parent = re.search(r"^PPid:\s+(\d+)", status.read_text(encoding="utf-8"), re.MULTILINE)
        except OSError:
            continue
        if parent:
            children[int(parent[1])].append(int(status.parent.name))
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        waiting += children[process]
        try:
            found = re.search(
                r"^Pss:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8"), re.MULTILINE
            )
        except OSError:
            continue
        total += int(found[1]) * 1024 if found else 0
    return total


def _stage_seconds(file: Path) -> dict[str, float]:
    """Seconds by TFX node, as ML Metadata has them; both sides keep it."""
    from ml_metadata.metadata_store import MetadataStore
    from ml_metadata.proto import metadata_store_pb2

    config = metadata_store_pb2.ConnectionConfig()
    config.sqlite.filename_uri = str(file)
    store = MetadataStore(config)
    seconds = {}
    for context in store.get_contexts_by_type("node"):
        for execution in store.get_executions_by_context(context.id):
            if execution.last_known_state == metadata_store_pb2.Execution.COMPLETE:
                took = execution.last_update_time_since_epoch - execution.create_time_since_epoch
                seconds[context.name.split(".")[-1]] = took / 1000
    missing = [stage for stage in _STAGES.items() if not set(stage) & set(seconds)]
    if missing:
        raise SystemExit(f"{file}: expected a complete execution of each stage, found {', '.join(seconds)}")
    return seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    sys.exit(main(asked.rows, asked.out))
