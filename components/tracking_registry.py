"""Pushed versions as registered models in MLflow: one model version a pushed version, and the alias `champion`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.records import Pushed

CHAMPION = "champion"
_VERSION = "tfline.version"


def register(client: Any, run_id: str, pushed: Pushed, holder: str) -> str:
    """Registers a version that a run pushed, once, and lets `champion` point to it unless a higher version has it.

    Args:
        client: An MlflowClient.
        run_id: The run that pushed.
        holder: The MLflow run that gets the SavedModel (as artifact `model`) and, when there is one, the TFLite file (`tflite`).

    Returns:
        "" when the version is registered; a note when it is no longer in the store, so that there is nothing to register.
    """
    versions = _versions(client, pushed.model)
    mine = [version for version in versions if version.tags.get("tfline.run_id") == run_id and _stored(version) == pushed.version]
    if not mine:
        if not Path(pushed.path).is_dir():
            return f"{pushed.model} version {pushed.version} is gone from {pushed.path} and was not registered in MLflow"
        mine = [_create(client, run_id, pushed, holder)]
    aliases = client.get_registered_model(pushed.model).aliases
    champion = [version for version in versions if str(version.version) == str(aliases.get(CHAMPION))]
    # A run may be written late, after a newer one: the alias never goes back.
    if not champion or _stored(champion[0]) < pushed.version:
        client.set_registered_model_alias(pushed.model, CHAMPION, str(mine[0].version))
    return ""


def _create(client: Any, run_id: str, pushed: Pushed, holder: str) -> Any:
    from mlflow.exceptions import MlflowException

    client.log_artifacts(holder, pushed.path, "model")
    if pushed.tflite_path and Path(pushed.tflite_path).is_file():
        client.log_artifact(holder, pushed.tflite_path, "tflite")
    tags = {
        _VERSION: str(pushed.version),
        "tfline.digest": pushed.digest,
        "tfline.path": pushed.path,
        "tfline.run_id": run_id,
    }
    try:
        client.create_registered_model(pushed.model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # A server accepts as source only what lies within the artifacts of the run that is named (MLflow 3.17, _validate_source_run).
    source = f"{client.get_run(holder).info.artifact_uri}/model"
    return client.create_model_version(pushed.model, source, run_id=holder, tags=tags, await_creation_for=10)


def _versions(client: Any, model: str) -> list[Any]:
    """All registered versions of a model, none when it is not registered."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name='{model}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _stored(version: Any) -> int:
    """The version's number in the store; 0 for a version that somebody else registered."""
    text = version.tags.get(_VERSION, "")
    return int(text) if text.isdecimal() else 0
