"""A client for TensorFlow Serving and for the embedded server: gRPC and REST, NumPy in and out, without TensorFlow.

from serving.client import Client

with Client("localhost:8500") as client:            # or "http://localhost:8501", or several addresses
    client.predict("digits", {"image": images}, signature="dense")["probabilities"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.client.aio import AsyncClient
    from serving.client.client import Client
    from serving.client.endpoints import Retry
    from serving.client.errors import RequestError
    from serving.client.tls import Tls

__all__ = ["AsyncClient", "Client", "RequestError", "Retry", "Tls"]

_HOMES = {"AsyncClient": "aio", "Client": "client", "Tls": "tls", "Retry": "endpoints", "RequestError": "errors"}


def __getattr__(name: str) -> Any:
    """Each class from its module when it is first asked for: `serving.client.messages` must not load grpc."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"serving.client.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
