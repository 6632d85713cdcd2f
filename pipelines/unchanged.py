"""Whether there is anything to do, found out without TensorFlow and TFX, whose import is most of a run that changes nothing.

A run is asked for by its configuration, the curated schema, the code, the installed packages and the input files; its outcome
depends also on what stages look up outside (`resolve`: the store's versions, the server's program). When both are what they
were when an earlier run ended with a model in the store, TFX would find every stage in its cache. Such a run is written down
like any other, with `same_as` naming the run that did the work; MLMD, where nothing happened, does not hear of it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.code import stage_digest
from components.errors import TflineError
from components.records import Journal, RunRecord, StageRecord
from pipelines.config import PipelineConfig, curated_schema
from pipelines.graph import UserCode, code_digests, looking_outside, module_of
from serving.errors import ServingError

_DONE = ("complete", "cached")


def request_digest(config: PipelineConfig, folder: Path, code: UserCode, files: Sequence[Path]) -> str:
    """SHA-256 (hex) of everything that a run is asked to do and from what.

    Args:
        config: The resolved configuration.
        folder: The pipeline's folder; its curated schema counts by its content.
        code: The user's code.
        files: The input files; they count by name, size and time of change, as for TFX's example gen.
    """
    asked = {
        "config": config.model_dump(mode="json"),
        "schema": curated_schema(folder, config),
        "code": [code.model, code.preprocessing, code_digests(code), stage_digest("pipelines.graph")],
        "python": [platform.python_version(), *_packages()],
        "files": [(str(path), (found := path.stat()).st_size, found.st_mtime_ns) for path in files],
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def outside_digest(config: PipelineConfig, stages: Mapping[str, StageRecord]) -> str:
    """SHA-256 (hex) of what the stages of a finished run would find outside the pipeline, if they looked now.

    Returns:
        "" when one cannot look, which then is for the stage itself to tell.
    """
    found: dict[str, Any] = {}
    for name, section in looking_outside(config).items():
        if name in stages:
            inputs = {key: Path(uris[0]) for key, uris in stages[name].inputs.items() if uris}
            try:
                found[name] = importlib.import_module(module_of(name)).resolve(inputs, section)
            except (TflineError, ServingError, OSError, KeyError):
                return ""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def same_run(journal: Journal, config: PipelineConfig, request: str) -> RunRecord | None:
    """The newest run with a result, if it was asked for the same, and everything is as it left it.

    Args:
        journal: Where runs are recorded.
        config: The resolved configuration.
        request: The `request_digest` of what is asked for now.
    """
    newest = next((record for record in journal.runs(config.name) if record.state == "complete" and record.pushed), None)
    if newest is None or not newest.request or newest.request != request:
        return None
    stages = journal.stages(newest.run_id)
    outputs = [uri for record in stages.values() for uris in record.outputs.values() for uri in uris]
    if any(record.state not in _DONE for record in stages.values()) or not all(Path(uri).exists() for uri in outputs):
        return None
    return newest if newest.outside and newest.outside == outside_digest(config, stages) else None


def cached(record: StageRecord) -> StageRecord:
    """A stage of the run that did the work, as a stage of the run that had nothing to do."""
    now = time.time()
    return record.model_copy(update={"state": "cached", "started": now, "finished": now, "log": ""})


def _packages() -> list[str]:
    """Name and version of everything that is installed, from the names of the folders that say so; reading them takes longer."""
    found = {path.name for folder in sys.path if Path(folder).is_dir() for path in Path(folder).glob("*.dist-info")}
    return sorted(found)
