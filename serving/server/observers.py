"""Who is told of requests: the interfaces that metrics and the request log have to the predictor."""

from __future__ import annotations

from typing import Any, Protocol


class Observer(Protocol):
    """Is told what happens, from many threads; it must be quick and must not raise. Times are in seconds."""

    def requested(self, model: str, api: str, entrypoint: str, code: str, seconds: float) -> None:
        """A request was answered: request_count and request_latency.

        Args:
            model: As the request named it.
            api: Predict, Classify, Regress or MultiInference.
            entrypoint: GRPC or REST.
            code: The status' name, such as "OK".
            seconds: From its arrival to its answer.
        """

    def ran(self, model: str, api: str, seconds: float) -> None:
        """The model ran: runtime_latency."""

    def examples(self, model: str, count: int) -> None:
        """A Classify, Regress or MultiInference request had so many Examples: request_example_counts."""


class RequestLog(Protocol):
    """Keeps a sample of requests and answers."""

    def wants(self, model: str) -> bool:
        """Whether to keep this one; draws the sample."""

    def put(self, model: str, log: Any) -> None:
        """Takes a PredictionLog; returns at once and never raises."""
