"""What can go wrong when a server is asked."""

from __future__ import annotations

from serving.errors import ServingError
from serving.server.status import Code


class RequestError(ServingError):
    """A server refused a request, or could not be reached.

    Attributes:
        code: gRPC's canonical code; for REST the one that its HTTP status stands for.
        endpoint: The server that was asked last.
        message: The server's own words.
    """

    def __init__(self, code: Code, message: str, endpoint: str) -> None:
        """Args: the code; the server's message; its address."""
        super().__init__(f"{endpoint}: {code.name}: {message}")
        self.code, self.message, self.endpoint = code, message, endpoint


class UnexpectedAnswer(RequestError):
    """What came is no answer to what was asked: garbage, or an answer by a signature other than the one the client knows."""

    def __init__(self, told: str, endpoint: str) -> None:
        """Args: what is wrong with it; the server's address."""
        super().__init__(Code.INTERNAL, f"unexpected answer: {told}", endpoint)
