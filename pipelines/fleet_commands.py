"""`tfline versions`, `promote`, `rollback` and `prune`: a pushed model, seen and steered by hand.

They find a model's fleet where the last push wrote it down, beside the versions in the store (serving/fleet_state.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from components.pushed_runs import PushedRun, pushed_run
from serving.fleet import FleetError, promote, rollback
from serving.fleet_instances import Row
from serving.fleet_table import table
from serving.fleet_versions import Line, Overview, overview, prune

_METRICS = 4


@dataclass(frozen=True)
class Place:
    """Where a command looks: the home, and roots of the two stores in it unless `--store` says otherwise."""

    home: Path
    store: Path
    tflite: Path


def place(home: Path, store: Path | None) -> Place:
    """The place that a command line means."""
    return Place(home, store or home / "store", home / "store-tflite")


def show_versions(where: Place, model: str, *, offline: bool, as_json: bool) -> None:
    """Prints the versions of a model: where they are served, since when, and where they come from."""
    found = overview(where.store, model, offline=offline)
    runs = {line.version.number: pushed_run(where.home, line.version.metadata.get("run_id", "")) for line in found.lines}
    if as_json:
        click.echo(json.dumps(_as_json(found, runs), indent=2))
        return
    click.echo(_heading(model, found))
    for line in found.lines:
        for text in _lines(line, runs[line.version.number], found):
            click.echo(text)
    if found.withdrawn:
        click.echo(f"taken back, in {where.store / model}: {', '.join(found.withdrawn)}")


def promote_version(where: Place, model: str, version: int | None) -> None:
    """Moves the label "stable"."""
    number, rows = promote(where.store, model, version)
    click.echo(f"{model} version {number} is stable now.")
    if not rows:
        click.echo(f"A server that `tfline serve {model}` started with labels takes it over; start others again.")
    _tell(rows)


def rollback_version(where: Place, model: str, version: int | None) -> None:
    """Withdraws what is newer than a version; FleetError when a server that answers does not serve it then."""
    number, rows = rollback(where.store, model, version, tflite=where.tflite)
    if any(row.problem for row in rows):
        raise FleetError(f"{model}: what is newer than version {number} is withdrawn, but not every instance serves it.", rows)
    click.echo(f"{model} is back at version {number}; what was newer is withdrawn, and is not pushed again.")
    _tell(rows)


def prune_versions(where: Place, model: str, keep: int, *, offline: bool) -> None:
    """Removes old versions."""
    removed = prune(where.store, model, keep, tflite=where.tflite, offline=offline)
    click.echo(f"{model}: removed {', '.join(map(str, removed)) or 'nothing'}.")


def _tell(rows: Sequence[Row]) -> None:
    if rows:
        click.echo("\n".join(table(rows)))
    silent = [row.name for row in rows if row.serves is None]
    if silent:
        click.echo(
            f"{', '.join(silent)} did not answer; on coming back it finds what the others have, but no labels: promote again."
        )


def _heading(model: str, found: Overview) -> str:
    count = f"{len(found.lines)} version{'' if len(found.lines) == 1 else 's'}"
    if not found.state.fleet:
        return f"{model}: {count} in the store, no fleet"
    silent = sorted(name for name, versions in found.serving.items() if versions is None)
    told = f"no answer from {', '.join(silent)}" if silent else "all answer"
    return f"{model}: {count}, {len(found.state.fleet.instances)} instances, " + (
        told if found.asked else "as they were last seen in order"
    )


def _lines(line: Line, run: PushedRun, found: Overview) -> list[str]:
    version = line.version
    said = [", ".join(line.labels), f"served by {', '.join(line.served_by)}" if line.served_by else ""]
    when = f"since {_time(line.since)}" if line.since else ""
    head = f"{version.number:>5}  " + "  ".join(filter(None, (*said, when)))
    lines = [head.rstrip(), f"       pushed {_time(version.manifest.created)}  digest {version.digest[:16]}"]
    if run.run_id:
        ids = f"  MLflow {next(iter(run.mlflow.values()))}" if run.mlflow else ""
        lines.append(f"       run {run.run_id}{ids}")
    if run.metrics:
        shown = [(name, value) for name, value in run.metrics.items() if not name.endswith("examples")][:_METRICS]
        lines.append("       " + ", ".join(f"{name} {value:.4g}" for name, value in shown))
    return lines


def _time(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _as_json(found: Overview, runs: dict[int, PushedRun]) -> dict[str, Any]:
    versions = [
        {
            "version": line.version.number,
            "labels": line.labels,
            "served_by": line.served_by,
            "since": line.since.isoformat() if line.since else None,
            "pushed": line.version.manifest.created.isoformat(),
            "digest": line.version.digest,
            "run": runs[line.version.number].run_id,
            "mlflow": runs[line.version.number].mlflow,
            "metrics": runs[line.version.number].metrics,
        }
        for line in found.lines
    ]
    return {"versions": versions, "instances": dict(found.serving), "asked": found.asked, "withdrawn": found.withdrawn}
