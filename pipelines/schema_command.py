"""`tfline schema`: the inferred schema for review, and its acceptance as the curated one."""

from __future__ import annotations

import difflib
from pathlib import Path

from components.errors import UsageError
from components.layout import SCHEMA_FILE
from components.records import Journal, write_atomically
from pipelines.config import load_config


def review_schema(folder: Path, home: Path, *, accept: bool, environment: str = "local") -> str:
    """The schema of the newest run that made one, compared with the curated one; with `accept`, the inferred one becomes it.

    Args:
        folder: The pipeline's folder.
        home: tfline's home.
        accept: Write the schema file, when the newest one was inferred.
        environment: Overlay, as for the run.

    Returns:
        Text to show.

    Raises:
        UsageError: No run made a schema yet.
    """
    config = load_config(folder, home, environment=environment)
    target = folder / config.schema_file
    journal = Journal(home)
    for record in journal.runs(config.name):
        stage = journal.stages(record.run_id).get("schema")
        if stage is None or stage.state not in ("complete", "cached"):
            continue
        if stage.summary.params["origin"] == "curated":
            continue
        # Without its first line, which says that nobody has reviewed it.
        text = Path(stage.outputs["schema"][0], SCHEMA_FILE).read_text(encoding="utf-8").partition("\n")[2]
        curated = target.read_text(encoding="utf-8") if target.is_file() else ""
        if not accept:
            return _compare(curated, text, folder, target, record.run_id)
        if curated == text:
            return f"{target} is the inferred schema of run {record.run_id} already."
        if curated:
            raise UsageError(f"{target} exists; move it away to accept the inferred schema of run {record.run_id} in its place")
        write_atomically(target, text)
        return f"Written to {target}; later runs check the data against it. Edit it as you like."
    curated_run = f"{target} is what runs use" if target.is_file() else f"infer one: tfline run {folder} --to schema"
    raise UsageError(f"no run of '{config.name}' in {home} inferred a schema; {curated_run}")


def _compare(curated: str, inferred: str, folder: Path, target: Path, run_id: str) -> str:
    if not curated:
        return f"{inferred}\nInferred by run {run_id}. To accept it: tfline schema {folder} --accept"
    lines = difflib.unified_diff(curated.splitlines(), inferred.splitlines(), str(target), f"inferred by {run_id}", lineterm="")
    return "\n".join(lines) or f"{target} is the inferred schema of run {run_id}."
