"""`tfline runs` and `tfline show`: the journal, read by people."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.errors import UsageError
from components.records import Journal, RunRecord, StageRecord
from pipelines.variants_table import print_variants
from pipelines.view import STYLES


def list_runs(home: Path, pipeline: str | None, console: Console) -> None:
    """Prints one line a run, the newest first."""
    found = Journal(home).runs(pipeline)
    if not found:
        console.print(
            f"No runs in {home}. Start one: tfline run FOLDER (tfline new FOLDER writes a pipeline)",
            highlight=False,
            soft_wrap=True,
        )
        return
    table = _table("run", "state", "started", "took")
    for record in found:
        state = state_of(record)
        began = time.strftime("%m-%d %H:%M", time.localtime(record.started))
        table.add_row(record.run_id, Text(state, STYLES[state]), began, _took(record), Text(_result(record)))
    console.print(table)


def show_run(home: Path, run_id: str, console: Console) -> None:
    """Prints one run's stages with their headlines, what refused or failed, and where its things are.

    Raises:
        UsageError: No run, or more than one, begins with the id.
    """
    journal = Journal(home)
    record = find_run(journal, run_id)
    state = state_of(record)
    console.print(Text.assemble(f"{record.run_id}  ", (state, STYLES[state]), f"  {_took(record)}  {_result(record)}"))
    table = _table("stage", "state", "took")
    stages = journal.stages(record.run_id)
    for stage in stages.values():
        table.add_row(stage.stage, Text(stage.state, STYLES[stage.state]), _took(stage), Text(stage.summary.headline))
    console.print(table)
    print_variants(stages, console)
    lines = [f"{refusal.gate} gate: {reason}" for refusal in record.refusals for reason in refusal.reasons]
    lines += [f"{stage.stage}: {stage.error}" for stage in stages.values() if stage.error]
    if record.pushed:
        lines += [f"SavedModel  {record.pushed.path}"]
        lines += [f"TFLite      {record.pushed.tflite_path}"] if record.pushed.tflite_path else []
    lines.append(f"logs        {journal.run_dir(record.run_id) / 'logs'}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def find_run(journal: Journal, run_id: str) -> RunRecord:
    """The run whose id begins so, or the newest for "last".

    Raises:
        UsageError: None does, or several do.
    """
    records = journal.runs()
    found = records[:1] if run_id == "last" else [record for record in records if record.run_id.startswith(run_id)]
    exact = [record for record in found if record.run_id == run_id]
    if len(exact or found) != 1:
        what = f"{len(found)} runs in {journal.home} begin" if found else f"no run in {journal.home} begins"
        raise UsageError(f"{what} with '{run_id}'; `tfline runs` lists them")
    return (exact or found)[0]


def state_of(record: RunRecord) -> str:
    """The state as it is now: a run recorded as running whose process is gone was interrupted."""
    if record.state != "running" or record.host != socket.gethostname():
        return record.state
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return "interrupted"
    except PermissionError:
        pass
    return "running"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    for column in columns:
        table.add_column(column, no_wrap=True)
    # Only the last column gives way on a narrow terminal.
    table.add_column("result", overflow="ellipsis", no_wrap=True, ratio=1)
    return table


def _took(record: RunRecord | StageRecord) -> str:
    if record.started is None or record.finished is None:
        return ""
    return f"{record.finished - record.started:.0f} s"


def _result(record: RunRecord) -> str:
    if record.pushed:
        return f"{record.pushed.model} version {record.pushed.version}{'' if record.pushed.new else ', unchanged'}"
    if record.refusals:
        return f"{record.refusals[0].gate} gate"
    return record.error.splitlines()[0] if record.error else ""
