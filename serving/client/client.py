"""The client: one class for gRPC and REST, for TensorFlow Serving and the embedded server alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from serving.client.addresses import Servers, parse_servers
from serving.client.conversation import Ask, Conversation, Wait, run
from serving.client.endpoints import DEFAULT_RETRY, Retry
from serving.client.grpc_calls import GrpcCall
from serving.client.grpc_transport import Channels, send
from serving.client.tls import Tls
from serving.client.values import Prediction, Signature, Spec, VersionStatus

DEFAULT_SIGNATURE = "serving_default"


class Client:
    """Asks model servers. May be used from many threads; connections stay open until `close`, or the end of a `with`.

    Of several servers the one with the fewest requests of this client is asked, in turn among equals; one that does not answer
    rests a while, and its requests go to the others. Requests are repeated only on UNAVAILABLE, never beyond the deadline; they
    change nothing on a server. `reload`, which does, is never repeated.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        timeout: float = 10.0,
        retry: Retry = DEFAULT_RETRY,
        tls: Tls | None = None,
        rest_seconds: float = 5.0,
        compress: bool = False,
    ) -> None:
        """Makes a client; nothing is connected yet.

        Args:
            servers: "host:port" or "grpc://host:port", "grpcs://…", "unix:/path", "http://…", "https://…"; one or several of one
                scheme.
            timeout: Seconds for a request, all attempts together.
            retry: When to ask again.
            tls: Certificates, for grpcs, https, and a bare "host:port"; None: the system's authorities for the first two.
            rest_seconds: How long a server that did not answer is passed over.
            compress: Whether requests go gzipped, and REST answers may; for slow networks.

        Raises:
            ValueError: An address is none of these, or certificates are given for one that does not use them.
            OSError: A certificate cannot be read.
        """
        given = parse_servers(servers)
        tls = tls_for(given, tls)
        self._conversation = Conversation(
            given.addresses, rest=given.rest, timeout=timeout, retry=retry, rest_seconds=rest_seconds
        )
        self._http: Any = None
        self._channels: Any = None
        if given.rest:
            from serving.client.rest_transport import Connections

            self._http = Connections(tls, compress=compress)
        else:
            self._channels = Channels(tls, compress=compress)

    def predict(
        self,
        model: str,
        inputs: Any,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
    ) -> Prediction:
        """Asks a model for its outputs.

        Args:
            model: Its name.
            inputs: Array by input name; or one array, for a signature with one input. Whatever NumPy takes; text and bytes for
                strings. Arrays must have the signature's dtypes; Python's own numbers get them.
            version: None for the newest.
            label: Such as "stable", instead of a version.
            signature: Which way to call it.
            outputs: Only these; all when empty.
            timeout: Seconds; None for the client's.

        Returns:
            An array by output name, in the signature's dtypes, perhaps read-only; strings as object arrays of bytes. By gRPC
            also the version that answered.

        Raises:
            RequestError: The server refused or did not answer.
            ValueError: The inputs are no arrays, or not of the signature's dtypes.
        """
        return run(self._conversation.predict(Spec(model, version, label), signature, inputs, outputs, timeout), self._take)

    def classify(
        self,
        model: str,
        examples: Sequence[Mapping[str, Any]],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = DEFAULT_SIGNATURE,
        timeout: float | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Classifies examples (feature by name: a value or a list of them); for each, label and score of every class."""
        return run(self._conversation.classify(Spec(model, version, label), signature, examples, timeout), self._take)

    def regress(
        self,
        model: str,
        examples: Sequence[Mapping[str, Any]],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = DEFAULT_SIGNATURE,
        timeout: float | None = None,
    ) -> list[float]:
        """A number for each example; examples as `classify` has them."""
        return run(self._conversation.regress(Spec(model, version, label), signature, examples, timeout), self._take)

    def status(self, model: str, version: int | None = None, *, timeout: float | None = None) -> list[VersionStatus]:
        """The versions of a model that the server knows, the newest first; RequestError NOT_FOUND when it knows none."""
        return run(self._conversation.status(Spec(model, version), timeout), self._take)

    def metadata(
        self, model: str, version: int | None = None, *, label: str | None = None, timeout: float | None = None
    ) -> tuple[int, dict[str, Signature]]:
        """Which version answers, and its signatures by name."""
        return run(self._conversation.metadata(Spec(model, version, label), timeout), self._take)

    def reload(self, config: Any, *, timeout: float | None = None) -> None:
        """Gives the server a whole new configuration; gRPC only.

        Args:
            config: A `serving.client.messages.message("tensorflow.serving.ModelServerConfig")()`, or tensorflow-serving-api's.
            timeout: Seconds; the server answers when new models are loaded.

        Raises:
            RequestError: It refused.
            ValueError: The client has several servers, or speaks REST, which has no such request.
        """
        run(self._conversation.reload(config, timeout), self._take)

    def close(self) -> None:
        """Closes the connections; requests under way by gRPC end with CANCELLED, later ones raise RuntimeError."""
        if self._http:
            self._http.close()
        else:
            for channel in self._channels.close():
                channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _take(self, step: Ask | Wait) -> Any:
        if isinstance(step, Wait):
            time.sleep(step.seconds)
            return None
        if isinstance(step.call, GrpcCall):
            return send(self._channels, step.call, step.address, step.seconds)
        return self._http.send(step.call, step.address, step.seconds)


def tls_for(servers: Servers, given: Tls | None) -> Tls | None:
    """The certificates that a connection to these servers uses; ValueError when some are given and it uses none."""
    if given and servers.scheme in ("grpc", "http", "unix"):
        raise ValueError(f"expected an address of grpcs:// or https:// with certificates, got {servers.addresses[0]}")
    return given or (Tls() if servers.scheme in ("grpcs", "https") else None)
