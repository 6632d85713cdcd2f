"""The comparison of transports: what is asked, counted, and said; and all of it once against small servers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.client import Client, RequestError
from serving.client.values import Signature, Spec, Tensor
from serving.request_files import InputError, Requests
from serving.transport_comparison.comparison import GRPC, REST, Cell, Comparison, Plan, compare
from serving.transport_comparison.inputs import choose, random_rows, rows_of
from serving.transport_comparison.load import percentiles
from serving.transport_comparison.plot import draw
from serving.transport_comparison.wire import Bytes, Relay, grpc_bytes, rest_bytes
from serving.transport_comparison.words import advice
from tests.serving.client.fake_servers import GrpcServer, RestServer

FLOAT, TEXT = np.dtype(np.float32), np.dtype(object)


@pytest.fixture
def servers() -> Iterator[tuple[GrpcServer, RestServer]]:
    grpc, rest = GrpcServer(), RestServer()
    yield grpc, rest
    grpc.stop()
    rest.stop()


def test_measures_both(servers: tuple[GrpcServer, RestServer], tmp_path: Path) -> None:
    told: list[str] = []
    plan = Plan("echo", servers[0].address, servers[1].address, rows=(1, 100), clients=(2,), seconds=0.1)
    found = compare(plan, None, told.append)
    assert (found.version, found.signature, found.inputs) == (7, "serving_default", "random")
    assert [(cell.transport, cell.rows, cell.clients) for cell in found.cells] == [
        (transport, rows, 2) for rows in (1, 100) for transport in (GRPC, REST)
    ]
    for cell in found.cells:
        assert 0 < cell.p50 <= cell.p95 <= cell.p99 and cell.rate > 0 and not cell.errors
    # 100 floats: 400 bytes by gRPC, and as many each way.
    assert 400 < found.bytes[GRPC][100].request < found.bytes[GRPC][100].sent < 700
    assert told[-1] == "100 rows, 2 clients"
    assert len(advice(found)) >= 4
    draw(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_counts_every_byte(servers: tuple[GrpcServer, RestServer]) -> None:
    with Client(servers[1].address) as client:
        signature = client.metadata("echo")[1]["serving_default"]
    inputs = {"x": np.array([1.5], np.float32)}
    rest = rest_bytes(servers[1].address, Spec("echo"), "serving_default", inputs, signature)
    body = b'{"signature_name":"serving_default","inputs":{"x":[1.5]}}'
    assert rest.request == len(body)
    seen = servers[1].behaviour.headers[-1]
    lines = ["POST /v1/models/echo:predict HTTP/1.1", *(f"{name}: {value}" for name, value in seen.items()), "", ""]
    assert rest.sent == len("\r\n".join(lines)) + len(body)
    assert rest.received > rest.answer > 0 and rest.total == rest.sent + rest.received
    grpc = grpc_bytes(servers[0].address, Spec("echo"), "serving_default", inputs)
    # HTTP/2: two frames of 9 bytes and gRPC's prefix of 5, at least, around the message.
    assert grpc.request + 23 <= grpc.sent < grpc.request + 200


def test_a_relay_to_nowhere() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with (
            Relay(*unused.getsockname()) as relay,
            Client(f"http://127.0.0.1:{relay.port}") as client,
            pytest.raises(RequestError),
        ):
            client.status("echo", timeout=1)


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (Plan("m", "grpcs://h:1", "http://h:2"), "--grpc: expected host:port without TLS"),
        (Plan("m", "http://h:1", "http://h:2"), "--grpc: expected host:port"),
        (Plan("m", "h:1", "h:2"), "--rest: expected http://host:port"),
        (Plan("m", "nothing", "http://h:2"), "expected host:port"),
        (Plan("m", "h:1", "http://h:2", seconds=0), "above zero"),
    ],
)
def test_plans_that_cannot_be(plan: Plan, told: str) -> None:
    with pytest.raises(InputError, match=told):
        compare(plan, None, print)


def test_which_signature_without_a_file() -> None:
    text, dense = Signature({"s": Tensor(TEXT, (None,))}, {}, ""), Signature({"x": Tensor(FLOAT, (None,))}, {}, "")
    assert choose(None, {"serving_default": text, "dense": dense}, None) == "dense"
    assert choose(None, {"a": dense, "serving_default": dense}, None) == "serving_default"
    assert choose(None, {"serving_default": text}, "serving_default") == "serving_default"
    for signatures, wanted, told in (({"serving_default": text}, None, "give --input"), ({"a": dense}, "b", "got b")):
        with pytest.raises(InputError, match=told):
            choose(None, signatures, wanted)


def test_random_rows() -> None:
    tensors: dict[str, tuple[np.dtype[Any], tuple[int | None, ...]]] = {
        "f": (FLOAT, (None, None, 3)),
        "i": (np.dtype(np.int64), (None,)),
        "s": (TEXT, (None, 2)),
        "fixed": (FLOAT, (4, 1)),
    }
    signature = Signature({name: Tensor(dtype, shape) for name, (dtype, shape) in tensors.items()}, {}, "")
    found = random_rows(signature, 4)
    assert {name: (array.shape, array.dtype) for name, array in found.items()} == {
        "f": ((4, 8, 3), FLOAT),
        "i": ((4,), np.int64),
        "s": ((4, 2), TEXT),
        "fixed": ((4, 1), FLOAT),
    }
    assert set(found["i"].tolist()) <= {0, 1} and isinstance(found["s"][0, 0], bytes)
    np.testing.assert_array_equal(random_rows(signature, 4)["f"], found["f"])
    with pytest.raises(InputError, match=r"input fixed has the shape \[4, 1\]: it takes no requests of 5 rows"):
        random_rows(signature, 5)


def test_rows_of_a_file_again_and_again() -> None:
    signature = Signature({"x": Tensor(FLOAT, (None,))}, {}, "")
    requests = Requests("f", "rows", [1.0, 2.0, 3.0], ["1", "2", "3"])
    assert rows_of(requests, signature, 7)["x"].tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert rows_of(requests, signature, 2)["x"].tolist() == [1, 2]


def test_percentiles() -> None:
    assert percentiles(np.arange(101.0)) == (50, 95, 99)
    assert all(np.isnan(percentiles([])))


def comparison(rates: dict[int, tuple[float, float]], errors: int = 0) -> Comparison:
    """With these requests a second by gRPC and REST, by rows."""
    cells = [
        Cell(transport, rows, 1, 1.0, 2.0, 3.0, rate, errors, "late" if errors else "")
        for rows, pair in rates.items()
        for transport, rate in zip((GRPC, REST), pair, strict=True)
    ]
    counted = {GRPC: dict.fromkeys(rates, Bytes(100, 100, 90, 90)), REST: dict.fromkeys(rates, Bytes(1000, 500, 800, 400))}
    return Comparison("m", 1, "s", "random", 1.0, cells, counted, 2)


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({1: (200, 100), 32: (90, 30)}, ["Use gRPC wherever speed matters"]),
        ({1: (100, 200)}, ["Use REST: it is faster"]),
        ({1: (100, 110), 32: (100, 95)}, ["Use whichever is easier"]),
        (
            {1: (100, 100), 32: (90, 30), 64: (9, 3)},
            ["Use gRPC for requests of 32 and 64 rows.", "For requests of 1 row it makes no"],
        ),
        ({1: (100, 200), 32: (90, 30)}, ["Use gRPC for requests of 32 rows.", "Use REST for requests of 1 row."]),
    ],
)
def test_what_follows_from_the_numbers(rates: dict[int, tuple[float, float]], said: list[str]) -> None:
    sentences = advice(comparison(rates))
    for expected, sentence in zip(said, sentences[-len(said) :], strict=True):
        assert sentence.startswith(expected)


def test_sentences() -> None:
    sentences = advice(comparison({1: (100, 100), 32: (90, 30)}, errors=2))
    assert sentences[0].startswith(
        "One row a request: no difference in speed; p50 with one client 1.00 ms by gRPC, 1.00 ms by REST;"
    )
    assert sentences[1].startswith("32 rows a request: gRPC answers 3.0 times as many requests;")
    assert "at most 90 requests a second (gRPC, 1 clients)" in sentences[1]
    assert sentences[2].startswith("A request with its answer takes 200 bytes by gRPC and 1.5 kB by REST (7.5 times) at one row;")
    assert sentences[3] == "8 requests failed, the first by gRPC: late"
