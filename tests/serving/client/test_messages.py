"""The client's own descriptions of TensorFlow Serving's messages against the real ones; and that they need no TensorFlow."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

import pytest

from serving.client.messages import described, message

_IMPORTED = """
import json, sys, time
began, cpu = time.perf_counter(), time.process_time()
import numpy as np
from serving.client import AsyncClient, Client
from serving.client import grpc_calls
from serving.client.values import Spec
import serving.client.rest_transport
call = grpc_calls.predict(Spec("m"), "s", {"x": np.ones(2, np.float32)}, [])
seconds = [time.perf_counter() - began, time.process_time() - cpu]
print(json.dumps([seconds, sorted({name.partition(".")[0] for name in sys.modules}), len(call.request)]))
"""


def test_needs_no_tensorflow_and_little_time() -> None:
    ran = subprocess.run([sys.executable, "-c", _IMPORTED], capture_output=True, text=True, check=True, timeout=60)
    (_, cpu), modules, size = json.loads(ran.stdout)
    assert not {"tensorflow", "tensorflow_serving", "tfx", "mlflow", "httpx", "aiohttp"} & set(modules)
    # Processor time: what else the machine does must not matter. 0.3 s of it here.
    assert size > 0 and cpu < 1.0


@pytest.mark.slow
def test_every_field_is_the_real_one() -> None:
    from google.protobuf import descriptor_pool

    for module in ("prediction_service_pb2_grpc", "model_service_pb2_grpc"):
        importlib.import_module(f"tensorflow_serving.apis.{module}")  # registers its messages, and TensorFlow's
    real = descriptor_pool.Default()
    checked = 0
    for name in described():
        ours, theirs = message(name).DESCRIPTOR, real.FindMessageTypeByName(name)
        for field in ours.fields:
            assert _shape(field) == _shape(theirs.fields_by_name[field.name]), f"{name}.{field.name}"
            checked += 1
    assert checked > 70


def _shape(field: Any) -> tuple[Any, ...]:
    kind = field.TYPE_INT32 if field.type == field.TYPE_ENUM else field.type
    inner = None
    if field.message_type:
        inner = field.message_type.full_name
        if field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name
            return field.name, field.number, "map", _shape(entry["key"]), _shape(entry["value"])
    return field.name, field.number, kind, field.label, inner
