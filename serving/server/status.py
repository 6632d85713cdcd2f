"""The one error type of the server: it knows its gRPC code and its HTTP status."""

from __future__ import annotations

from enum import IntEnum

MAX_MESSAGE = 1024
"""TensorFlow Serving cuts a gRPC status message here (util/status_util.cc)."""


class Code(IntEnum):
    """gRPC's canonical codes (google/rpc/code.proto)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


HTTP = {
    Code.OK: 200,
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
"""HTTP status by code, as TensorFlow Serving's REST API has it; 500 for the others."""


class StatusError(Exception):
    """A request that cannot be answered, or a model that cannot be loaded.

    Attributes:
        code: One of gRPC's canonical codes.
        message: As TensorFlow Serving words it; whole, `grpc_message` is cut.
    """

    def __init__(self, code: Code, message: str) -> None:
        """Args: the code; the message."""
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def http_status(self) -> int:
        """The HTTP status that stands for the code; 500 for those without one of their own."""
        return HTTP.get(self.code, 500)

    @property
    def grpc_message(self) -> str:
        """The message as it goes over gRPC."""
        return self.message if len(self.message) <= MAX_MESSAGE else f"{self.message[:MAX_MESSAGE]}...TRUNCATED"


def invalid(message: str) -> StatusError:
    """INVALID_ARGUMENT, which most bad requests are."""
    return StatusError(Code.INVALID_ARGUMENT, message)


def not_found(message: str) -> StatusError:
    """NOT_FOUND."""
    return StatusError(Code.NOT_FOUND, message)
