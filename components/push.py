"""Push: puts a model that passed every gate into the version store, and its TFLite file beside it under the same number.

Inputs: model, champion, the reports of the gates (validation, evaluation) and, where the pipeline makes a TFLite file, tflite and
quantization. Output: `pushed`, pushed.json. A gate's refusal in any report stops it, whoever runs it. The same model is never
pushed twice: when its digest is in the store, its version is the result and nothing is written. What a server sees appears by one
rename (serving/store.py).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.errors import GateRefused
from components.layout import SERVING_DIR
from components.records import Pushed
from components.summary import SUMMARY_FILE, Summary
from serving.store import VersionStore, publish_together, tree_digest

INPUTS: Mapping[str, str] = {
    "model": "Model",
    "tflite": "TFLiteModel",
    "champion": "Model",
    "validation": "ValidationReport",
    "evaluation": "ModelEvaluation",
    "quantization": "QuantizationReport",
}
OUTPUTS: Mapping[str, str] = {"pushed": "PushedModel"}
OPTIONAL = ("tflite", "quantization")
"""Left out where the pipeline makes no TFLite file."""

GATES = ("validation", "evaluation", "quantization")
RESULT_FILE = "pushed.json"


class Config(BaseModel):
    """Where to push.

    Attributes:
        store: Root of the SavedModel store; a version is `<store>/<model>/<number>/`.
        tflite_store: Root of the TFLite store, laid out alike.
        model: The model's name in both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    tflite_store: str
    model: str


def resolve(inputs: Mapping[str, Path], config: Config) -> dict[str, Any]:
    """The version under which the model stands in the store, or the next one, before the cache is looked up.

    A model that was pushed and is still there so finds its push in the cache; one that was removed from the store is pushed
    again.
    """
    store = VersionStore(Path(config.store), config.model)
    found = store.find(tree_digest(inputs["model"] / SERVING_DIR))
    twin = VersionStore(Path(config.tflite_store), config.model)
    return {"version": found.number if found else max(store.next_version(), twin.next_version())}


def push(inputs: Mapping[str, Path], config: Config, run_id: str) -> Pushed:
    """Publishes the model and its TFLite file under one version number.

    Args:
        inputs: Artifact folders by key, as `INPUTS` names them; without `tflite` only the SavedModel is published.
        config: Where to push.
        run_id: Goes into the manifest.

    Raises:
        GateRefused: One of the reports says no.
        serving.store.StoreError: The store is locked for long, or is not a store.
    """
    for gate in [gate for gate in GATES if gate in inputs]:
        refusal = Summary.model_validate_json((inputs[gate] / SUMMARY_FILE).read_text(encoding="utf-8")).refusal
        if refusal is not None:
            raise GateRefused(f"{refusal.gate}: {'; '.join(refusal.reasons)}")
    champion = json.loads((inputs["champion"] / "champion.json").read_text(encoding="utf-8"))
    metadata = {"run_id": run_id, "champion_version": str(champion["version"]), "champion_digest": champion["digest"]}
    models, tflite = (VersionStore(Path(root), config.model) for root in (config.store, config.tflite_store))
    saved = inputs["model"] / SERVING_DIR
    if "tflite" not in inputs:
        done = publish_together(models, None, saved, None, metadata)
    else:
        with tempfile.TemporaryDirectory(prefix="tfline-push-") as folder:
            Path(folder, "model.tflite").write_bytes((inputs["tflite"] / "model.tflite").read_bytes())
            done = publish_together(models, tflite, saved, Path(folder), metadata)
    return Pushed(
        model=config.model,
        version=done.model.number,
        path=str(done.model.path),
        digest=done.model.digest,
        new=done.new,
        tflite_path=str(done.tflite.path / "model.tflite") if done.tflite else "",
        tflite_differs=done.tflite_differs,
    )


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
