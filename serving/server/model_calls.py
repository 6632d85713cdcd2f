"""The calls that are about models and not about inference: metadata, status and reload, on protos.

After tensorflow_serving/servables/tensorflow/get_model_metadata_impl.cc and model_servers/get_model_status_impl.cc,
model_service_impl.cc. Only the server's process imports this module: it loads TensorFlow's protos.
"""

from __future__ import annotations

import time
from typing import Any

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_management_pb2

from serving.server.lifecycle import Loaded, Models
from serving.server.status import Code, invalid


def check_metadata_fields(request: Any) -> None:
    """Raises StatusError INVALID_ARGUMENT unless a GetModelMetadataRequest asks for `signature_def`, the only field there is."""
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise invalid(f"Metadata field {field} is not supported")


def metadata_response(loaded: Loaded) -> Any:
    """A GetModelMetadataResponse: the version and all of its SignatureDefs; signature_name stays empty."""
    signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=dict(loaded.servable.all_signatures))
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = loaded.name
    response.model_spec.version.value = loaded.version
    response.metadata["signature_def"].Pack(signatures)
    return response


def model_status(models: Models, spec: Any) -> Any:
    """A GetModelStatusResponse for a ModelSpec: its version, or all of them, descending.

    A label is not looked at, as in TensorFlow Serving: all versions are listed.

    Raises:
        StatusError: NOT_FOUND as `Models.statuses`.
    """
    version = spec.version.value if spec.HasField("version") else None
    response = get_model_status_pb2.GetModelStatusResponse()
    for each in models.statuses(spec.name, version):
        added = response.model_version_status.add(version=each.version, state=int(each.state))
        added.status.error_code = int(each.code)
        added.status.error_message = each.message
    return response


def reload_config(models: Models, request: Any, deadline: float | None = None) -> Any:
    """ReloadConfigRequest → ReloadConfigResponse; returns when new models are AVAILABLE.

    Args:
        models: The models.
        request: ReloadConfigRequest.
        deadline: time.monotonic() value; the caller's thread is free again then, the configuration stays in force.

    Raises:
        StatusError: INVALID_ARGUMENT for anything but a model_config_list; what `Models.reload` raises.
    """
    if request.config.WhichOneof("config") != "model_config_list":
        raise invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
        )
    models.reload(request.config, None if deadline is None else max(0.0, deadline - time.monotonic()))
    response = model_management_pb2.ReloadConfigResponse()
    response.status.error_code = int(Code.OK)
    return response
