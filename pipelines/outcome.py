"""What is told at the end of a run: what came of it, and what to type next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console

from components.records import Journal, Pushed, RunRecord, StageRecord
from pipelines.variants_table import print_variants


def resume_command(folder: Path, home: Path) -> str:
    """What to type to go on with a run that did not finish."""
    return shlex.join(["tfline", "run", str(folder), "--resume", *_home_option(home)])


def serve_command(pushed: Pushed, home: Path) -> str:
    """What to type to serve a version that was pushed, and each later one, by gRPC on port 8500 and REST on port 8501."""
    folder = Path(pushed.path).parent
    if folder.resolve() == (home / "store" / pushed.model).resolve():
        return shlex.join(["tfline", "serve", pushed.model, *_home_option(home)])
    flags = {"port": 8500, "rest_api_port": 8501, "model_name": pushed.model, "model_base_path": folder}
    return shlex.join(["tfline", "serve", *(f"--{name}={value}" for name, value in flags.items())])


def _home_option(home: Path) -> list[str]:
    return [] if home == Path(".tfline").resolve() else ["--home", str(home)]


def tell(record: RunRecord, stages: dict[str, StageRecord], folder: Path, home: Path, console: Console) -> int:
    """Prints what came of a run and what to type next; returns the exit code."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, highlight=False, soft_wrap=True, markup=False)

    print_variants(stages, console)
    if record.state == "complete":
        _tell_success(record, stages, folder, home, say)
        return 0
    if record.state == "refused":
        for refusal in record.refusals:
            say(f"Refused by the {refusal.gate} gate:", "bold yellow")
            for reason in refusal.reasons:
                say(f"  {reason}")
        say("Nothing was pushed; what is served is untouched.")
        return 3
    for stage in stages.values():
        if stage.state == "failed":
            say(f"Stage {stage.stage} failed: {stage.error}", "bold red")
            say(f"  log: {stage.log}")
    if record.state == "interrupted":
        say("Interrupted.", "bold red")
    say(f"To go on from here: {resume_command(folder, home)}")
    return record.exit_code or 1


def _tell_success(record: RunRecord, stages: dict[str, StageRecord], folder: Path, home: Path, say: Any) -> None:
    seconds = (record.finished or 0) - record.started
    pushed = record.pushed
    if pushed is None:
        say(f"Stopped after {record.options['to']}, as asked, in {seconds:.0f} s. Nothing was pushed.")
        return
    if pushed.new:
        say(f"Pushed {pushed.model} version {pushed.version} in {seconds:.0f} s.", "bold green")
    else:
        say(f"Nothing to do: {pushed.model} version {pushed.version} is this model ({seconds:.0f} s).", "bold green")
    say(f"  SavedModel  {pushed.path}")
    if pushed.tflite_path:
        say(f"  TFLite      {pushed.tflite_path}")
    if pushed.tflite_differs:
        say("  The TFLite file of this run is another one; that of a pushed version never changes. It is in the run's artifacts.")
    say(f"  records     {Journal(home).run_dir(record.run_id)}")
    say(f"To serve it: {serve_command(pushed, home)}")
    if stages["schema"].summary.params.get("origin") == "inferred":
        say(f"The schema was inferred; to review it: tfline schema {shlex.quote(str(folder))}")
