"""Champion: the model that a candidate has to match: the last one that passed every gate and was pushed.

Input: the candidate. Output: `champion`: champion.json, and `Format-Serving/`, a copy of the champion's SavedModel, when there
is one.

A model counts as the last blessed one when it was pushed: one that evaluation liked but another gate refused is not what users
have, and a candidate must not be measured against it. For a candidate that is in the store already the champion is the one it
was measured against when it was pushed, so a run that changes nothing finds everything in the cache.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.layout import SERVING_DIR
from components.summary import Summary
from serving.fleet_state import proved
from serving.store import VersionStore, export_digest, tree_digest

INPUTS: Mapping[str, str] = {"model": "Model"}
OUTPUTS: Mapping[str, str] = {"champion": "Model"}


class Config(BaseModel):
    """Where pushed models are: root of the store and the model's name in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    model: str


def resolve(inputs: Mapping[str, Path], config: Config) -> dict[str, Any]:
    """Finds the champion for a candidate, before the cache is looked up.

    Returns:
        `version` of the champion and `digest` of its export; 0 and "" when the candidate has nothing to match.
    """
    store = VersionStore(Path(config.store), config.model)
    own = store.find_export(tree_digest(inputs["model"] / SERVING_DIR))
    if own is not None:
        against = own.manifest.metadata
        return {"version": int(against.get("champion_version", 0)), "digest": against.get("champion_digest", "")}
    latest = next(reversed(proved(store)), None)
    return {"version": latest.number, "digest": export_digest(latest)} if latest else {"version": 0, "digest": ""}


def run(inputs: Mapping[str, Path], outputs: Mapping[str, Path], config: Config, resolved: Mapping[str, Any]) -> None:
    """The stage as the pipeline calls it: copies the champion's SavedModel beside champion.json."""
    folder = outputs["champion"]
    found = VersionStore(Path(config.store), config.model).find_export(resolved["digest"]) if resolved["digest"] else None
    if found is not None:
        target = folder / SERVING_DIR
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(found.path, target, ignore=shutil.ignore_patterns("manifest.json"))
    facts = {"version": resolved["version"] if found else 0, "digest": resolved["digest"] if found else "", "model": config.model}
    (folder / "champion.json").write_text(json.dumps(facts), encoding="utf-8")


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """Which version is the champion."""
    facts = json.loads(Path(outputs["champion"][0], "champion.json").read_text(encoding="utf-8"))
    headline = f"version {facts['version']}" if facts["version"] else "none yet"
    return Summary(headline=headline, params={"version": str(facts["version"]), "digest": facts["digest"]})
