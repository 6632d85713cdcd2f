"""tensorflow.ProfilerService, so that TensorBoard and tf.profiler.experimental.client can profile the server on its gRPC port.

TensorFlow's own profiler server (tf.profiler.experimental.server.start) is not relayed, because it listens on every interface,
without TLS. Profile does here what it does (xla/tsl/profiler/rpc/profiler_service_impl.cc), with TensorFlow's Python profiler. As
there, Monitor is unimplemented, and so are the three methods for continuous profiling. No Python module has the service's
messages, so the needed fields are declared here; the numbers are those of tsl/profiler/protobuf/profiler_service.proto.

Only the server's process imports this module: it loads TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from tensorflow.io import gfile
from tensorflow.profiler import experimental as profiler
from tensorflow.tsl.profiler.protobuf import profiler_options_pb2, xplane_pb2

from serving.server.status import Code, StatusError, invalid

SERVICE = "tensorflow.ProfilerService"

_PACKAGE = "tfline.profiler"
_TYPES = {
    "uint64": descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
}
_FIELDS: Mapping[str, Mapping[str, tuple[str, int]]] = {
    "ProfileRequest": {
        "duration_ms": ("uint64", 1),
        "opts": (".tensorflow.ProfileOptions", 4),
        "repository_root": ("string", 5),
        "session_id": ("string", 6),
        "host_name": ("string", 7),
        "emit_xspace": ("bool", 9),
    },
    # The trace is a message (XSpace); to carry it as it is, bytes will do.
    "ProfileResponse": {"empty_trace": ("bool", 7), "xspace": ("bytes", 8)},
    "TerminateRequest": {"session_id": ("string", 1)},
}


@cache
def messages() -> Mapping[str, Any]:
    """The classes ProfileRequest, ProfileResponse and TerminateRequest."""
    options = profiler_options_pb2.ProfileOptions.DESCRIPTOR
    file = descriptor_pb2.FileDescriptorProto(
        name="tfline/profiler.proto", package=_PACKAGE, syntax="proto3", dependency=[options.file.name]
    )
    for message, fields in _FIELDS.items():
        added = file.message_type.add(name=message)
        for name, (kind, number) in fields.items():
            field = added.field.add(name=name, number=number, label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL)
            if kind in _TYPES:
                field.type = _TYPES[kind]
            else:
                field.type, field.type_name = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE, kind
    pool = descriptor_pool.Default()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _FIELDS}


class Profiler:
    """Answers the service's methods; one profile at a time, as TensorFlow has one profiler a process."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._terminated: set[str] = set()

    def methods(self) -> Mapping[str, Callable[[bytes, Callable[[], bool]], bytes]]:
        """By name; each takes the serialized request and whether the caller still waits, and gives the serialized response."""
        return {"Profile": self.profile, "Terminate": self.terminate, "Monitor": self.monitor}

    def profile(self, raw: bytes, waiting: Callable[[], bool]) -> bytes:
        """Traces for as long as the request says.

        The trace goes into the response, or to repository_root/session_id/host_name.xplane.pb, which is on this machine or in
        any storage that TensorFlow writes to.

        Raises:
            StatusError: INTERNAL when another profile is running, CANCELLED when the caller went away, INVALID_ARGUMENT for a
                session or host whose name has path separators, and for bytes that are no request.
        """
        request = _parse("ProfileRequest", raw)
        host = request.opts.override_hostname or request.host_name
        for name in (request.session_id, host):
            if "/" in name or "\\" in name or name in {".", ".."}:
                raise invalid(f"A profile's session and host are plain names, not paths; got {name!r}")
        trace = self._trace(request, waiting)
        response = messages()["ProfileResponse"](empty_trace=not any(p.lines for p in xplane_pb2.XSpace.FromString(trace).planes))
        if request.emit_xspace:
            response.xspace = trace
        else:
            _save(trace, f"{request.repository_root}/{request.session_id}", host)
        return bytes(response.SerializeToString())

    def terminate(self, raw: bytes, waiting: Callable[[], bool]) -> bytes:
        """Ends a profile before its time, if it runs; what there is of it is kept."""
        session = _parse("TerminateRequest", raw).session_id
        if session in self._running:
            self._terminated.add(session)
        return b""

    def monitor(self, raw: bytes, waiting: Callable[[], bool]) -> bytes:
        """Unimplemented, as in TensorFlow."""
        raise StatusError(Code.UNIMPLEMENTED, "unimplemented.")

    def _trace(self, request: Any, waiting: Callable[[], bool]) -> bytes:
        """Runs the profiler; a serialized XSpace, which TensorFlow's Python gives out as a file only."""
        opts = request.opts
        levels = {f"{kind}_tracer_level": getattr(opts, f"{kind}_tracer_level") for kind in ("host", "python", "device")}
        with TemporaryDirectory(prefix="tfline-profile-") as folder:
            try:
                profiler.start(folder, profiler.ProfilerOptions(**levels))
            except Exception as error:
                raise StatusError(Code.INTERNAL, str(error)) from error
            self._running.add(request.session_id)
            end = time.monotonic() + (opts.duration_ms or request.duration_ms) / 1000
            while time.monotonic() < end and request.session_id not in self._terminated and waiting():
                time.sleep(0.001)
            self._running.discard(request.session_id)
            self._terminated.discard(request.session_id)
            profiler.stop(save=waiting())
            traces = list(Path(folder).rglob("*.xplane.pb"))
            if not traces:
                raise StatusError(Code.CANCELLED, "The caller of Profile went away")
            return traces[0].read_bytes()


def _parse(message: str, raw: bytes) -> Any:
    try:
        return messages()[message].FromString(raw)
    except DecodeError as error:
        raise invalid(f"The request is no tensorflow.{message}") from error


def _save(trace: bytes, folder: str, host: str) -> None:
    """As SaveXSpace of xla/tsl/profiler/rpc/client/save_profile.cc; gfile, since the folder may be in a bucket."""
    path = f"{folder}/{host.replace(':', '_')}.xplane.pb"
    try:
        gfile.makedirs(folder)
        with gfile.GFile(f"{path}.part", "wb") as file:
            file.write(trace)
        gfile.rename(f"{path}.part", path, overwrite=True)
    except Exception as error:
        raise StatusError(Code.INTERNAL, f"The profile cannot be written to {path}: {error}") from error
