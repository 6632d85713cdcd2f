"""Which server is asked next, and how addresses are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.client.addresses import Servers, parse_servers
from serving.client.client import tls_for
from serving.client.endpoints import Endpoints, Retry
from serving.client.tls import Tls


def test_waits_grow_up_to_a_limit() -> None:
    waits = list(Retry(rounds=6, first_wait=0.1, longest_wait=0.5).waits())
    assert len(waits) == 5
    for wait, full in zip(waits, [0.1, 0.2, 0.4, 0.5, 0.5], strict=True):
        assert full / 2 <= wait <= full
    assert list(Retry(rounds=1).waits()) == []


@given(st.lists(st.sampled_from("abc"), min_size=1), st.data())
def test_whatever_happens_there_is_somebody_to_ask(servers: list[str], data: st.DataObject) -> None:
    endpoints = Endpoints(servers, rest_seconds=60)
    for _ in range(data.draw(st.integers(0, 20))):
        address = endpoints.take()
        assert address in servers
        if data.draw(st.booleans()):
            endpoints.failed(address)
        else:
            endpoints.answered(address)
        if data.draw(st.booleans()):
            endpoints.give_back(address)


def test_never_one_that_was_tried() -> None:
    endpoints = Endpoints(["a", "b", "c"], rest_seconds=60)
    endpoints.failed("c")
    assert endpoints.take({"a", "b"}) == "c"


def test_those_that_rest_come_last() -> None:
    endpoints = Endpoints(["a", "b"], rest_seconds=60)
    endpoints.failed("a")
    assert [endpoints.take() for _ in range(3)] == ["b"] * 3
    endpoints.answered("a")
    assert endpoints.take() == "a"


def test_the_least_busy_first() -> None:
    endpoints = Endpoints(["a", "b"])
    assert [endpoints.take(), endpoints.take()] == ["a", "b"]
    endpoints.give_back("b")
    assert endpoints.take() == "b"


@pytest.mark.parametrize(
    ("given", "scheme", "address"),
    [
        ("localhost:8500", "", "localhost:8500"),
        ("[::1]:8500", "", "[::1]:8500"),
        ("grpc://host:1/", "grpc", "host:1"),
        ("grpcs://host:1", "grpcs", "host:1"),
        ("unix:/run/serving.sock", "unix", "unix:/run/serving.sock"),
        ("unix:///run/serving.sock", "unix", "unix:///run/serving.sock"),
        ("http://host", "http", "http://host"),
        ("https://host:8501/serving/", "https", "https://host:8501/serving"),
    ],
)
def test_addresses(given: str, scheme: str, address: str) -> None:
    assert parse_servers(given) == Servers(scheme, (address,))


@pytest.mark.parametrize(
    "wrong", ["", "localhost", "ftp://host:1", "grpc://host", "host:port", "unix:", "http://", "http:host", "http://h/?q"]
)
def test_what_is_no_address(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"expected host:port, .*, got"):
        parse_servers(wrong)


def test_several_addresses() -> None:
    assert parse_servers(["a:1", "b:2"]).addresses == ("a:1", "b:2")
    with pytest.raises(ValueError, match="of one scheme"):
        parse_servers(["a:1", "http://b:2"])
    with pytest.raises(ValueError, match="at least one"):
        parse_servers([])


def test_certificates_go_with_secure_addresses() -> None:
    assert tls_for(parse_servers("https://host"), None) == Tls()
    assert tls_for(parse_servers("host:1"), None) is None
    assert tls_for(parse_servers("host:1"), Tls()) == Tls()
    with pytest.raises(ValueError, match="grpcs:// or https://"):
        tls_for(parse_servers("http://host"), Tls())
