"""The client against small real servers: gRPC and REST, sync and async by the same tests."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serving.client import AsyncClient, Client, RequestError, Retry, Tls
from serving.client.errors import UnexpectedAnswer
from serving.client.messages import message
from serving.client.values import State
from serving.server.status import Code
from tests.serving.client.fake_servers import VERSION, GrpcServer, RestServer, Server, free_port

X = {"x": np.array([1.5, -2.0], np.float32)}
FAST = Retry(rounds=3, first_wait=0.01)


class Synced:
    """An AsyncClient in an event loop of its own, asked as a Client is."""

    def __init__(self, servers: Any, **options: Any) -> None:
        self.runner = asyncio.Runner()

        async def make() -> AsyncClient:
            return AsyncClient(servers, **options)

        self._client = self.runner.run(make())

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **chosen: self.runner.run(method(*args, **chosen))


Make = Callable[..., Any]


@pytest.fixture(params=["grpc", "rest"])
def kind(request: pytest.FixtureRequest) -> type[GrpcServer] | type[RestServer]:
    return GrpcServer if request.param == "grpc" else RestServer


@pytest.fixture
def start(kind: Callable[..., Server]) -> Iterator[Callable[..., Server]]:
    """Starts a server of the kind."""
    started: list[Server] = []

    def start_one(*args: Any, **options: Any) -> Server:
        started.append(kind(*args, **options))
        return started[-1]

    yield start_one
    for server in started:
        server.stop()


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    return start()


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes clients, and closes them."""
    made: list[Any] = []

    def make_one(servers: Any, **options: Any) -> Any:
        made.append((Client if request.param == "sync" else Synced)(servers, **{"retry": FAST, "timeout": 5.0, **options}))
        return made[-1]

    yield make_one
    for client in made:
        client.close()
        if isinstance(client, Synced):
            client.runner.close()


def test_every_kind_of_question(server: Server, make: Make) -> None:
    client = make(server.address)
    np.testing.assert_array_equal(client.predict("echo", X)["y"], X["x"])
    both = {"a": np.ones(3, np.float32), "b": np.zeros(2, np.float32)}
    answer = client.predict("echo", both, signature="two", version=3)
    assert sorted(answer) == ["a", "b"] and answer["a"].dtype == np.float32 and answer["a"].shape == (3,)
    assert answer.version in (VERSION, None)
    assert client.classify("echo", [{"cat": 0.5, "dog": [1.0, 2.5]}]) == [[("cat", 0.5), ("dog", 3.5)]]
    assert client.regress("echo", [{"x": 2.0}, {"x": np.float32(0.5)}]) == [2.0, 0.5]
    found = client.status("echo")
    assert [(each.version, each.state, each.code) for each in found] == [
        (VERSION, State.AVAILABLE, Code.OK),
        (5, State.END, Code.UNAVAILABLE),
    ]
    version, signatures = client.metadata("echo", label="stable")
    assert version == VERSION and sorted(signatures) == ["serving_default", "two"]
    assert signatures["serving_default"].inputs["x"].shape == (None,)


def test_python_numbers_get_the_declared_dtype(server: Server, make: Make) -> None:
    client = make(server.address)
    for declared, dtype in (("float", np.float32), ("int32", np.int32)):
        # The same client: the second time, the metadata that it knows is outdated.
        server.behaviour.dtype = declared
        assert client.predict("echo", [1, 2])["y"].dtype == dtype
    with pytest.raises(ValueError, match="input x: expected int32, got floats"):
        client.predict("echo", {"x": [1.5]})


def test_one_array_for_several_inputs(server: Server, make: Make) -> None:
    with pytest.raises(ValueError, match="for each of the inputs a, b"):
        make(server.address).predict("echo", [1.0], signature="two")


def test_asks_for_metadata_once(server: Server, make: Make) -> None:
    client = make(server.address)
    for _ in range(3):
        client.predict("echo", [1.0])
    assert server.behaviour.asked.total() == 4


def test_unknown_signature(server: Server, make: Make) -> None:
    with pytest.raises(RequestError, match=r'Serving signature key "s" not found.*serving_default, two') as raised:
        make(server.address).predict("echo", [1.0], signature="s")
    assert raised.value.code is Code.FAILED_PRECONDITION


def test_repeats_on_unavailable(server: Server, make: Make) -> None:
    server.behaviour.refuse = [Code.UNAVAILABLE, Code.UNAVAILABLE]
    assert len(make(server.address).status("echo")) == 2
    assert len(server.behaviour.seen) == 3


def test_gives_up_after_all_rounds(server: Server, make: Make) -> None:
    server.behaviour.always = Code.UNAVAILABLE
    with pytest.raises(RequestError, match="UNAVAILABLE: as the test wants it") as raised:
        make(server.address).status("echo")
    assert raised.value.code is Code.UNAVAILABLE and raised.value.endpoint == server.address
    assert len(server.behaviour.seen) == FAST.rounds


@pytest.mark.parametrize("code", [Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED])
def test_repeats_nothing_else(server: Server, make: Make, code: Code) -> None:
    server.behaviour.always = code
    with pytest.raises(RequestError, match="as the test wants it") as raised:
        make(server.address).status("echo")
    assert raised.value.code is code and len(server.behaviour.seen) == 1


def test_deadline_holds_for_all_attempts_together(server: Server, make: Make) -> None:
    server.behaviour.always, server.behaviour.delay = Code.UNAVAILABLE, 0.05
    client = make(server.address, retry=Retry(rounds=1000, first_wait=0.01, longest_wait=0.01))
    began = time.monotonic()
    with pytest.raises(RequestError):
        client.predict("echo", [1.0], timeout=0.4)
    assert 0.2 < time.monotonic() - began < 0.9
    assert len(server.behaviour.seen) > 2


def test_a_server_that_hangs(server: Server, make: Make) -> None:
    server.behaviour.delay = 2.0
    began = time.monotonic()
    with pytest.raises(RequestError) as raised:
        make(server.address).status("echo", timeout=0.2)
    assert raised.value.code is Code.DEADLINE_EXCEEDED and time.monotonic() - began < 1.0


def test_no_time_at_all(server: Server, make: Make) -> None:
    with pytest.raises(RequestError) as raised:
        make(server.address).status("echo", timeout=0)
    assert raised.value.code is Code.DEADLINE_EXCEEDED and not server.behaviour.seen


def test_takes_turns(start: Callable[..., Server], make: Make) -> None:
    servers = [start() for _ in range(3)]
    client = make([each.address for each in servers])
    for _ in range(12):
        client.predict("echo", X) if isinstance(servers[0], GrpcServer) else client.status("echo")
    assert [len(each.behaviour.seen) for each in servers] == [4, 4, 4]


def test_goes_on_with_the_others_when_one_is_gone(start: Callable[..., Server], make: Make) -> None:
    servers = [start() for _ in range(3)]
    client = make([each.address for each in servers], rest_seconds=60, retry=Retry(rounds=1))
    client.status("echo")
    servers[1].stop()
    for _ in range(10):
        client.status("echo")
    assert len(servers[0].behaviour.seen) + len(servers[2].behaviour.seen) >= 10


def test_passes_over_one_that_failed_and_takes_it_back(start: Callable[..., Server], make: Make) -> None:
    good, bad = start(), start()
    bad.behaviour.always = Code.UNAVAILABLE
    client = make([good.address, bad.address], rest_seconds=0.3)
    for _ in range(6):
        client.status("echo")
    assert len(bad.behaviour.seen) == 1 and len(good.behaviour.seen) == 6
    bad.behaviour.always = None
    time.sleep(0.35)
    for _ in range(6):
        client.status("echo")
    assert len(bad.behaviour.seen) == 4


def test_passes_over_one_that_hangs(start: Callable[..., Server], make: Make) -> None:
    good, slow = start(), start()
    slow.behaviour.delay = 1.0
    client = make([good.address, slow.address], rest_seconds=60)
    client.status("echo")
    with pytest.raises(RequestError):
        client.status("echo", timeout=0.1)
    for _ in range(4):
        client.status("echo", timeout=0.5)
    assert len(good.behaviour.seen) == 5


def test_finds_a_server_that_comes_back(kind: Callable[..., Server], make: Make, request: pytest.FixtureRequest) -> None:
    port = free_port()
    first = kind(port)
    client = make(first.address, retry=Retry(rounds=1))
    client.status("echo")
    first.stop()
    # By then gRPC's own waits between connections have grown to 2.6 s, unless they are bounded.
    ends = time.monotonic() + (3.1 if "grpc-sync" in request.node.name else 0.2)
    while time.monotonic() < ends:
        with pytest.raises(RequestError) as raised:
            client.status("echo", timeout=1.0)
        assert raised.value.code is Code.UNAVAILABLE
        time.sleep(0.05)
    second = kind(port)
    began = time.monotonic()
    try:
        while not second.behaviour.seen:
            assert time.monotonic() - began < 1.2
            try:
                client.status("echo")
            except RequestError:
                time.sleep(0.02)
    finally:
        second.stop()


@pytest.mark.parametrize(("kind", "make"), [("grpc", "sync"), ("rest", "async")], indirect=True)
def test_a_host_that_does_not_answer(make: Make, kind: Callable[..., Server], start: Callable[..., Server]) -> None:
    # A full queue of connections that nobody takes: what a host that is off looks like.
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        filling = [socket.socket() for _ in range(3)]
        for each in filling:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        good = start()
        address = f"127.0.0.1:{port}"
        client = make([address if kind is GrpcServer else f"http://{address}", good.address], timeout=8.0)
        began = time.monotonic()
        assert client.status("echo")
        assert time.monotonic() - began < 4.0
        for each in filling:
            each.close()


def test_messages_of_many_megabytes(server: Server, make: Make) -> None:
    # 8 MB, above gRPC's default of 4.
    many = np.arange(2_000_000 if isinstance(server, GrpcServer) else 400_000, dtype=np.float32)
    np.testing.assert_array_equal(make(server.address, timeout=20).predict("echo", {"x": many})["y"], many)


def test_compressed(server: Server, make: Make) -> None:
    client = make(server.address, compress=True)
    many = np.random.default_rng(0).normal(size=30_000).astype(np.float32)
    np.testing.assert_array_equal(client.predict("echo", {"x": many})["y"], many)
    np.testing.assert_array_equal(client.predict("echo", X)["y"], X["x"])
    if isinstance(server, RestServer):
        assert server.behaviour.headers[-1]["content-encoding"] == "gzip"


def test_not_compressed_unasked(server: Server, make: Make) -> None:
    make(server.address).predict("echo", X)
    if isinstance(server, RestServer):
        assert server.behaviour.headers[-1]["accept-encoding"] == "identity"
        assert "content-encoding" not in server.behaviour.headers[-1]


def test_garbage(server: Server, make: Make) -> None:
    server.behaviour.answer = b"\xff\xff not an answer"
    client = make(server.address)
    for arguments in (("status", "echo"), ("predict", "echo", [1.0])):
        with pytest.raises(UnexpectedAnswer, match="unexpected answer") as raised:
            getattr(client, arguments[0])(*arguments[1:])
        assert raised.value.code is Code.INTERNAL


def test_closed(server: Server, make: Make) -> None:
    client = make(server.address)
    client.status("echo")
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.status("echo")


def test_from_many_threads(server: Server) -> None:
    def ask(client: Client, number: int) -> bool:
        return np.array_equal(client.predict("echo", [float(number)])["y"], [float(number)])

    with Client(server.address, timeout=20) as client, ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda number: ask(client, number), range(200)))


def test_many_at_once_in_one_loop(server: Server) -> None:
    async def ask() -> list[float]:
        async with AsyncClient(server.address, timeout=20) as client:
            answers = await asyncio.gather(*(client.predict("echo", [float(number)]) for number in range(100)))
            return [float(answer["y"][0]) for answer in answers]

    assert asyncio.run(ask()) == list(range(100))


def test_a_cancelled_request_leaves_the_client_usable(server: Server) -> None:
    async def ask() -> None:
        async with AsyncClient(server.address) as client:
            server.behaviour.delay = 0.5
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.status("echo")
            server.behaviour.delay = 0.0
            assert await client.status("echo")

    asyncio.run(ask())


def test_the_least_busy_server_first(start: Callable[..., Server]) -> None:
    fast, slow = start(), start()
    slow.behaviour.delay = 0.3
    with Client([fast.address, slow.address], timeout=20) as client, ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: client.status("echo"), range(40)))
    assert len(slow.behaviour.seen) < 10


def test_connections_are_kept() -> None:
    server = RestServer()
    with Client(server.address) as client:
        for _ in range(10):
            client.predict("echo", X)
    assert server.connections == 1
    server.stop()


def test_an_answer_that_trickles_in() -> None:
    def trickle(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(40):
                time.sleep(0.05)
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        threading.Thread(target=trickle, args=(listening,), daemon=True).start()
        began = time.monotonic()
        with Client(f"http://127.0.0.1:{listening.getsockname()[1]}") as client, pytest.raises(RequestError) as raised:
            client.status("echo", timeout=0.3)
        assert raised.value.code is Code.DEADLINE_EXCEEDED and time.monotonic() - began < 0.8


@pytest.mark.parametrize("make", ["sync", "async"], indirect=True)
def test_sending_may_take_longer_than_connecting(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_slowly(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            time.sleep(0.6)
            left = 4_000_000
            while left > 0:
                left -= len(connection.recv(1 << 20))
            time.sleep(0.1)
            connection.sendall(b'HTTP/1.1 400 Bad\r\nContent-Length: 15\r\n\r\n{"error":"all"}')

    monkeypatch.setattr("serving.client.rest_transport.CONNECT_SECONDS", 0.3)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        threading.Thread(target=read_slowly, args=(listening,), daemon=True).start()
        client = make(f"http://127.0.0.1:{listening.getsockname()[1]}", retry=Retry(rounds=1))
        with pytest.raises(RequestError, match="INVALID_ARGUMENT: all"):
            client.classify("echo", [{"x": b"x" * 3_000_000}])


def test_what_a_proxy_says(make: Make) -> None:
    server = RestServer()
    server.behaviour.always = Code.UNKNOWN
    with pytest.raises(RequestError, match="UNKNOWN: as the test wants it"):
        make(server.address).status("echo")
    server.stop()
    with pytest.raises(RequestError, match="output tensor alias not found in signature: q"):
        server = RestServer()
        make(server.address).predict("echo", X, outputs=["q"])
    server.stop()


def test_rest_refuses_arrays_of_another_dtype(make: Make) -> None:
    server = RestServer()
    with pytest.raises(ValueError, match="input x: expected float32, got an array of float64"):
        make(server.address).predict("echo", {"x": np.ones(2)})
    server.stop()


def test_unix_socket(make: Make, tmp_path: Path) -> None:
    server = GrpcServer(address=f"unix:{tmp_path}/grpc.sock")
    np.testing.assert_array_equal(make(server.address).predict("echo", X)["y"], X["x"])
    server.stop()


def test_reload(make: Make) -> None:
    server = GrpcServer()
    config = message("tensorflow.serving.ModelServerConfig")()
    with pytest.raises(RequestError, match="INVALID_ARGUMENT: no models"):
        make(server.address).reload(config)
    config.model_config_list.config.add(name="echo", base_path="/models/echo")
    make(server.address).reload(config)
    server.behaviour.always = Code.UNAVAILABLE
    with pytest.raises(RequestError):
        make(server.address).reload(config)
    assert server.behaviour.asked["HandleReloadConfigRequest"] == 3
    server.stop()
    for servers in ("http://localhost:1", ["localhost:1", "localhost:2"]):
        with pytest.raises(ValueError, match="one server, by gRPC"):
            make(servers).reload(config)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key and a certificate for localhost, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    folder = tmp_path_factory.mktemp("tls")
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    (folder / "cert.pem").write_bytes(signed.public_bytes(pem))
    return folder / "key.pem", folder / "cert.pem"


def test_tls(kind: type, start: Callable[..., Server], make: Make, certificate: tuple[Path, Path]) -> None:
    key, cert = certificate
    if kind is GrpcServer:
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
        server = start(credentials=credentials)
        address = f"grpcs://{server.address}"
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        server = start(context=context)
        address = server.address
    assert make(address, tls=Tls(ca=cert)).status("echo")
    with pytest.raises(RequestError) as raised:
        make(address).status("echo")
    assert raised.value.code is Code.UNAVAILABLE
