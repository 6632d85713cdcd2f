"""Push: puts a model that passed every gate into the version store, and its TFLite file beside it under the same number.

Inputs: model, champion, the reports of the gates (validation, evaluation); where the pipeline makes a TFLite file, tflite and
optimization; where it tries the model in a server, infra. Output: `pushed`, pushed.json. A gate's refusal in any report stops it,
whoever runs it. Warm-up requests that infra-validate recorded go into the version, whose digest is then not the export's, so the
manifest's metadata have that (`model_digest`). The same model is never pushed twice: when its export is in the store, its version
is the result and nothing is written. The TFLite file gets the version's number into its metadata. What a server sees appears by
one rename (serving/store.py).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.canaries import canaries
from components.errors import GateRefused, TflineError
from components.layout import HOST_DIR, SERVING_DIR, WARMUP_FILE
from components.records import Pushed
from components.summary import SUMMARY_FILE, Summary
from serving.fleet_config import FleetConfig
from serving.fleet_push import Package, bring_in_order, publish
from serving.fleet_state import proved
from serving.fleet_table import FleetError, FleetRefused
from serving.linked_version import link_version
from serving.manifest import TFLITE_FILE
from serving.store import MODEL_DIGEST, Published, VersionStore, export_digest, tree_digest

INPUTS: Mapping[str, str] = {
    "model": "Model",
    "tflite": "TFLiteModel",
    "champion": "Model",
    "validation": "ValidationReport",
    "evaluation": "ModelEvaluation",
    "optimization": "OptimizationReport",
    "infra": "InfraBlessing",
    "golden": "GoldenExamples",
}
OUTPUTS: Mapping[str, str] = {"pushed": "PushedModel"}
OPTIONAL = ("tflite", "optimization", "infra", "golden")
"""Left out where the pipeline makes no TFLite file, tries no server, or has no fleet."""

GATES = ("validation", "evaluation", "optimization", "infra")
RESULT_FILE = "pushed.json"


class Config(BaseModel):
    """Where to push.

    Attributes:
        store: Root of the SavedModel store; a version is `<store>/<model>/<number>/`.
        tflite_store: Root of the TFLite store, laid out alike.
        model: The model's name in both.
        fleet: The servers that have to take the version, or it is withdrawn; None when it only goes into the store.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    tflite_store: str
    model: str
    fleet: FleetConfig | None = None


def resolve(inputs: Mapping[str, Path], config: Config) -> dict[str, Any]:
    """The version under which the model stands in the store, or the next one, before the cache is looked up.

    A model that was pushed and is still there so finds its push in the cache; one that was removed from the store is pushed
    again.
    """
    store = VersionStore(Path(config.store), config.model)
    digest = tree_digest(inputs["model"] / SERVING_DIR)
    found = next((version for version in reversed(proved(store)) if export_digest(version) == digest), None)
    twin = VersionStore(Path(config.tflite_store), config.model)
    return {"version": found.number if found else max(store.next_version(), twin.next_version())}


def push(inputs: Mapping[str, Path], config: Config, run_id: str) -> Pushed:
    """Publishes the model and its TFLite file under one version number.

    Args:
        inputs: Artifact folders by key, as `INPUTS` names them; without `tflite` only the SavedModel is published.
        config: Where to push.
        run_id: Goes into the manifest.

    Raises:
        GateRefused: One of the reports says no, or not every server of the fleet took the version, which is withdrawn then.
        TflineError: The same, but a server does not serve what it did before.
        serving.store.StoreError: The store is locked for long, or is not a store.
    """
    for gate in [gate for gate in GATES if gate in inputs]:
        refusal = Summary.model_validate_json((inputs[gate] / SUMMARY_FILE).read_text(encoding="utf-8")).refusal
        if refusal is not None:
            raise GateRefused(f"{refusal.gate}: {'; '.join(refusal.reasons)}")
    champion = json.loads((inputs["champion"] / "champion.json").read_text(encoding="utf-8"))
    digest = tree_digest(inputs["model"] / SERVING_DIR)
    metadata = {
        "run_id": run_id,
        "champion_version": str(champion["version"]),
        "champion_digest": champion["digest"],
        MODEL_DIGEST: digest,
    }
    with tempfile.TemporaryDirectory(prefix="tfline-push-") as folder:
        done = _publish(inputs, config, metadata, Path(folder))
    return Pushed(
        model=config.model,
        version=done.model.number,
        path=str(done.model.path),
        digest=digest,
        new=done.new,
        tflite_path=str(done.tflite.path / TFLITE_FILE) if done.tflite else "",
        tflite_differs=done.tflite_differs,
    )


def _publish(inputs: Mapping[str, Path], config: Config, metadata: Mapping[str, str], folder: Path) -> Published:
    """Publishes what it makes ready in `folder`; the artifacts are only read."""
    models, tflite = (VersionStore(Path(root), config.model) for root in (config.store, config.tflite_store))
    bring_in_order(models, config.fleet)
    there = models.find_export(metadata[MODEL_DIGEST])
    # A version keeps the warm-up requests that it has, should this run have recorded others.
    saved = there.path if there else _with_warmup(inputs, folder / "saved_model")
    if "tflite" not in inputs:
        return _to_fleet(Package(models, None, saved, None, metadata), inputs, config)

    def stamped(number: int) -> Path:
        return _stamped(inputs["tflite"], number, folder / f"tflite-{number}")

    return _to_fleet(Package(models, tflite, saved, stamped, metadata), inputs, config)


def _stamped(artifact: Path, number: int, folder: Path) -> Path:
    """A folder with the TFLite file, the version's number in its metadata, and the host's transform, if there is one."""
    from serving.tflite_metadata import read_metadata, write_metadata

    if folder.exists():
        return folder
    folder.mkdir()
    content = (artifact / TFLITE_FILE).read_bytes()
    found = read_metadata(content)
    if found is not None:
        content = write_metadata(content, found.model_copy(update={"model_version": str(number)}))
    (folder / TFLITE_FILE).write_bytes(content)
    if (artifact / HOST_DIR).is_dir():
        shutil.copytree(artifact / HOST_DIR, folder / HOST_DIR)
    return folder


def _to_fleet(package: Package, inputs: Mapping[str, Path], config: Config) -> Published:
    """Publishes, and proves the version on every server of the fleet, if there is one."""
    asked = canaries(inputs["model"], inputs["golden"], config.fleet.canary.examples) if config.fleet else []
    try:
        return publish(package, config.fleet, asked)
    except FleetRefused as error:
        raise GateRefused(f"fleet: {error}") from error
    except FleetError as error:
        raise TflineError(str(error)) from error


def _with_warmup(inputs: Mapping[str, Path], folder: Path) -> Path:
    """The SavedModel, in `folder` if there are warm-up requests to add."""
    from serving.server.warmup import REQUESTS

    saved = inputs["model"] / SERVING_DIR
    recorded = inputs["infra"] / WARMUP_FILE if "infra" in inputs else None
    return link_version(saved, folder, {REQUESTS: recorded}) if recorded and recorded.is_file() else saved


def run(inputs: Mapping[str, Path], outputs: Mapping[str, Path], config: Config, run_id: str) -> dict[str, dict[str, int]]:
    """The stage as the pipeline calls it; the property is what TFX's own Pusher sets."""
    done = push(inputs, config, run_id)
    (outputs["pushed"] / RESULT_FILE).write_text(done.model_dump_json(indent=1), encoding="utf-8")
    return {"pushed": {"pushed": int(done.new)}}


def read_result(pushed: Path) -> Pushed:
    """Reads a PushedModel artifact of this stage."""
    return Pushed.model_validate_json((pushed / RESULT_FILE).read_text(encoding="utf-8"))


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """Which version the model has."""
    done = read_result(Path(outputs["pushed"][0]))
    return Summary(
        headline=f"{done.model} version {done.version}",
        metrics={"version": done.version},
        params={"path": done.path, "tflite_path": done.tflite_path, "digest": done.digest, "model": done.model},
    )
