"""What is asked of whom, in which order and how often: everything about a client that is not a transport.

Each of its methods is a generator. It yields a step (ask this server this; wait so long) and gets the step's result sent, or its
RequestError thrown; what it returns is the answer. So the sync and the async client, which only carry out steps, cannot differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import DecodeError

from serving.client import grpc_calls, rest_calls
from serving.client.endpoints import Endpoints, Retry
from serving.client.errors import RequestError, UnexpectedAnswer
from serving.client.grpc_calls import GrpcCall
from serving.client.rest_calls import RestCall
from serving.client.values import Array, Prediction, Signature, Spec, VersionStatus, declared, natural
from serving.server.status import Code, StatusError

T = TypeVar("T")
Call: TypeAlias = GrpcCall | RestCall


@dataclass(frozen=True)
class Ask:
    """Send a call to a server, and read the answer, within so many seconds."""

    call: Call
    address: str
    seconds: float


@dataclass(frozen=True)
class Wait:
    """Do nothing for so many seconds."""

    seconds: float


Steps: TypeAlias = Generator[Ask | Wait, Any, T]

# What a server may say of a request that was written for the signature of an older version.
_OUTDATED = frozenset({Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.INTERNAL})


class Conversation:
    """A client's questions to its servers; may be used from many threads."""

    def __init__(self, addresses: Sequence[str], *, rest: bool, timeout: float, retry: Retry, rest_seconds: float) -> None:
        """Args: as `Client` has them; `rest` is whether REST is spoken."""
        self._rest = rest
        self._timeout = timeout
        self._retry = retry
        self._endpoints = Endpoints(addresses, rest_seconds)
        self._signatures: dict[Spec, dict[str, Signature]] = {}

    def predict(
        self, spec: Spec, name: str, inputs: Any, outputs: Sequence[str] = (), timeout: float | None = None
    ) -> Steps[Prediction]:
        """A model's outputs.

        Metadata is asked for once, and only where it is needed: by REST, whose numbers have no dtypes, for Python's numbers, and
        for an input without a name. When a request that was written by it fails, a new version may have come: it is asked for
        again, and if it is another one, so is the question.
        """
        ends = self._ends(timeout)
        given = {str(key): natural(value) for key, value in inputs.items()} if isinstance(inputs, Mapping) else natural(inputs)
        if not self._rest and isinstance(given, dict) and all(exact for _, exact in given.values()):
            arrays = {key: array for key, (array, _) in given.items()}
            return (yield from self._ask(grpc_calls.predict(spec, name, arrays, outputs), ends))  # type: ignore[no-any-return]
        known = self._signatures.get(spec)
        if known is None or name not in known:
            known = yield from self._fresh_signatures(spec, ends)
        try:
            return (yield from self._predict_by(known, spec, name, given, outputs, ends))
        except (RequestError, ValueError) as error:
            if isinstance(error, RequestError) and error.code not in _OUTDATED:
                raise
            fresh = yield from self._fresh_signatures(spec, ends)
            if fresh == known:
                raise
        return (yield from self._predict_by(fresh, spec, name, given, outputs, ends))

    def classify(
        self, spec: Spec, name: str, examples: Sequence[Mapping[str, Any]], timeout: float | None = None
    ) -> Steps[list[list[tuple[str, float]]]]:
        """Labels and scores of each example."""
        asked = rest_calls.classify if self._rest else grpc_calls.classify
        return (yield from self._ask(asked(spec, name, examples), self._ends(timeout)))  # type: ignore[no-any-return]

    def regress(
        self, spec: Spec, name: str, examples: Sequence[Mapping[str, Any]], timeout: float | None = None
    ) -> Steps[list[float]]:
        """A number for each example."""
        asked = rest_calls.regress if self._rest else grpc_calls.regress
        return (yield from self._ask(asked(spec, name, examples), self._ends(timeout)))  # type: ignore[no-any-return]

    def status(self, spec: Spec, timeout: float | None = None) -> Steps[list[VersionStatus]]:
        """The versions that a server knows, the newest first."""
        asked = rest_calls.status if self._rest else grpc_calls.status
        return (yield from self._ask(asked(spec), self._ends(timeout)))  # type: ignore[no-any-return]

    def metadata(self, spec: Spec, timeout: float | None = None) -> Steps[tuple[int, dict[str, Signature]]]:
        """Which version answers, and its signatures by name."""
        return (yield from self._metadata(spec, self._ends(timeout)))

    def reload(self, config: Any, timeout: float | None = None) -> Steps[None]:
        """Gives the one server a whole new configuration."""
        if self._rest or len(self._endpoints.addresses) != 1:
            raise ValueError("expected a client of one server, by gRPC, to reload its configuration")
        code, told = yield from self._ask(grpc_calls.reload(config), self._ends(timeout))
        if code is not Code.OK:
            raise RequestError(code, told, self._endpoints.addresses[0])

    def _ends(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    def _metadata(self, spec: Spec, ends: float) -> Steps[tuple[int, dict[str, Signature]]]:
        asked = rest_calls.metadata if self._rest else grpc_calls.metadata
        return (yield from self._ask(asked(spec), ends))  # type: ignore[no-any-return]

    def _fresh_signatures(self, spec: Spec, ends: float) -> Steps[dict[str, Signature]]:
        _, known = yield from self._metadata(spec, ends)
        self._signatures[spec] = known
        return known

    def _predict_by(
        self,
        known: Mapping[str, Signature],
        spec: Spec,
        name: str,
        given: Mapping[str, tuple[Array, bool]] | tuple[Array, bool],
        outputs: Sequence[str],
        ends: float,
    ) -> Steps[Prediction]:
        address = self._endpoints.addresses[0]
        if name not in known:
            told = f'Serving signature key "{name}" not found. {spec.model} has: {", ".join(known)}.'
            raise RequestError(Code.FAILED_PRECONDITION, told, address)
        signature = known[name]
        arrays = _by_name(given, signature, check=self._rest)
        if not self._rest:
            return (yield from self._ask(grpc_calls.predict(spec, name, arrays, outputs), ends))  # type: ignore[no-any-return]
        _check_outputs(outputs, signature, address)
        return (yield from self._ask(rest_calls.predict(spec, name, arrays, outputs, signature), ends))  # type: ignore[no-any-return]

    def _ask(self, call: Call, ends: float) -> Steps[Any]:
        """Asks one server after another until one answers, there is no time left, or all have been asked often enough."""
        waits, tried = self._retry.waits(), set[str]()
        while True:
            address = self._endpoints.take(tried)
            try:
                seconds = ends - time.monotonic()
                if seconds <= 0:
                    raise RequestError(Code.DEADLINE_EXCEEDED, "no time left to ask", address)
                answer = yield Ask(call, address, seconds)
            except RequestError as error:
                if error.code is Code.DEADLINE_EXCEEDED:
                    self._endpoints.failed(address)
                if error.code is not Code.UNAVAILABLE:
                    raise
                self._endpoints.failed(address)
                tried.add(address)
                if not call.repeatable:
                    raise
                last = error
            else:
                self._endpoints.answered(address)
                return answer
            finally:
                self._endpoints.give_back(address)
            if len(tried) == len(self._endpoints.addresses):
                wait = next(waits, None)
                if wait is None or time.monotonic() + wait >= ends:
                    raise last
                tried.clear()
                yield Wait(wait)


def run(steps: Steps[T], take: Callable[[Ask | Wait], Any]) -> T:
    """Carries out a conversation's steps, one after the other; returns its answer, or raises its error."""
    try:
        step = next(steps)
        while True:
            try:
                result = take(step)
            except RequestError as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()


def read_answer(call: Call, answer: bytes, address: str) -> Any:
    """The value of an answer; UnexpectedAnswer when it has none."""
    try:
        return call.read(answer)
    except (AttributeError, DecodeError, KeyError, StatusError, TypeError, ValueError) as error:
        raise UnexpectedAnswer(f"{type(error).__name__}: {error}", address) from None


def _by_name(
    given: Mapping[str, tuple[Array, bool]] | tuple[Array, bool], signature: Signature, *, check: bool
) -> dict[str, Array]:
    """Inputs in the signature's dtypes; one without a name belongs to its only input."""
    if isinstance(given, tuple):
        if len(signature.inputs) != 1:
            raise ValueError(f"expected an array for each of the inputs {', '.join(signature.inputs)}, got one without a name")
        given = {next(iter(signature.inputs)): given}
    arrays = {}
    for key, (array, exact) in given.items():
        known = signature.inputs.get(key)
        try:
            if known is None or (exact and (not check or array.dtype == known.dtype)):
                arrays[key] = array
            elif exact:
                # By gRPC the server would say so; JSON does not carry a dtype that it could look at.
                raise ValueError(f"expected {_kind(known.dtype)}, got an array of {_kind(array.dtype)}")
            else:
                arrays[key] = declared(array, known.dtype)
        except ValueError as error:
            raise ValueError(f"input {key}: {error}") from None
    return arrays


def _kind(dtype: Any) -> str:
    return "strings" if dtype.kind == "O" else str(dtype)


def _check_outputs(outputs: Sequence[str], signature: Signature, address: str) -> None:
    """What a server by gRPC says of an output filter (contract of PredictionService.Predict)."""
    for index, name in enumerate(outputs):
        if name not in signature.outputs:
            known = ",".join(sorted(signature.outputs))
            told = f"output tensor alias not found in signature: {name} Outputs expected to be in the set {{{known}}}."
            raise RequestError(Code.INVALID_ARGUMENT, told, address)
        if name in outputs[:index]:
            raise RequestError(Code.INVALID_ARGUMENT, f"duplicate output tensor alias: {name}", address)
