"""What REST tells of models without running them: status, metadata, readiness, the list of models, the configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from serving.server.lifecycle import Models, State, VersionStatus
from serving.server.rest_routes import Route
from serving.server.status import StatusError

if TYPE_CHECKING:
    from serving.server.predictor import Predictor


def statuses_json(models: Models, asked: Route) -> bytes:
    """`{"model_version_status": […]}` of a model, versions descending, or of one version.

    A label in the path is not looked at, as in TensorFlow Serving: all versions are listed.

    Raises:
        StatusError: NOT_FOUND for an unknown model or version.
    """
    return _pretty({"model_version_status": _version_statuses(models.statuses(asked.model, asked.version))}).encode()


def metadata_json(predictor: Predictor, asked: Route) -> bytes:
    """The model_spec and every SignatureDef of a version, default fields printed and int64 as strings.

    Raises:
        StatusError: NOT_FOUND or INVALID_ARGUMENT, as a prediction.
    """
    with predictor.hold(asked.model, asked.version, asked.label) as loaded:
        spec = {"name": loaded.name, "signature_name": "", "version": str(loaded.version)}
        signatures = {key: _message(proto) for key, proto in sorted(loaded.servable.all_signatures.items())}
    # TensorFlow Serving puts this together from two messages; hence the line breaks.
    text = f'{{\n"model_spec":{_pretty(spec)},\n"metadata": {{"signature_def": {_pretty({"signature_def": signatures})}}}\n}}\n'
    return text.encode()


def models_json(models: Models) -> bytes:
    """Every configured model with its versions: `{"models": [{"name": …, "model_version_status": […]}]}`. Ours."""
    listed = [{"name": name, "model_version_status": _version_statuses(_statuses(models, name))} for name in models.names()]
    return _pretty({"models": listed}).encode()


def config_json(models: Models) -> bytes:
    """The ModelServerConfig as it is now. Ours."""
    return _pretty(_message(models.config(), defaults=False)).encode()


def readiness(models: Models) -> tuple[bool, bytes]:
    """Whether every configured model has an AVAILABLE version; and what to answer. Ours."""
    waiting = {}
    for name in models.names():
        statuses = _statuses(models, name)
        if not any(status.state == State.AVAILABLE for status in statuses):
            waiting[name] = _version_statuses(statuses)
    ready = not waiting and models.ready()
    return ready, _pretty({"ready": ready, "not_ready": waiting}).encode()


def _statuses(models: Models, name: str) -> Sequence[VersionStatus]:
    """Those there are: a model may have none yet, or have gone since it was listed."""
    try:
        return models.statuses(name)
    except StatusError:
        return []


def _version_statuses(statuses: Sequence[VersionStatus]) -> list[dict[str, Any]]:
    return [
        {
            "version": str(status.version),
            "state": status.state.name,
            "status": {"error_code": status.code.name, "error_message": status.message},
        }
        for status in statuses
    ]


def _message(proto: Any, *, defaults: bool = True) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    fields: dict[str, Any] = MessageToDict(proto, preserving_proto_field_name=True, always_print_fields_with_no_presence=defaults)
    return fields


def _pretty(value: Any) -> str:
    """With the white space of protobuf's C++ library: indented by one."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
