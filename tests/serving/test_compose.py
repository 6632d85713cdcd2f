"""infra/compose.yaml and nginx.conf as far as that goes without Docker: they parse, and what they say of each other is so."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.fleet_config import FleetConfig
from serving.server.flags import known_flags

INFRA = Path(__file__).parents[2] / "infra"
SERVERS = ("serving-1", "serving-2", "serving-3")


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((INFRA / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def nginx() -> str:
    """nginx.conf without its comments."""
    return re.sub(r"#.*", "", (INFRA / "nginx.conf").read_text(encoding="utf-8"))


def published(service: Any) -> dict[str, str]:
    """Port of the container to address on the host."""
    return {inner: outer for outer, _, inner in (port.rpartition(":") for port in service["ports"])}


def test_three_servers_and_a_balancer(compose: Any) -> None:
    assert sorted(compose["services"]) == ["nginx", *SERVERS]
    assert compose["services"]["nginx"]["depends_on"] == list(SERVERS)
    for service in compose["services"].values():
        name, _, tag = service["image"].partition(":")
        assert (name in ("nginx", "tensorflow/serving"), bool(re.match(r"\d+\.\d+\.\d+", tag))) == (True, True)
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    addresses = Counter(address for service in compose["services"].values() for address in published(service).values())
    assert max(addresses.values()) == 1


def test_the_servers_have_flags_that_there_are(compose: Any) -> None:
    known = {flag.name for flag in known_flags()}
    for name in SERVERS:
        flags = dict(flag.removeprefix("--").split("=") for flag in compose["services"][name]["command"])
        assert flags.keys() <= known
        assert "max_num_load_retries" in flags


def test_nginx_balances_over_the_servers(compose: Any, nginx: str) -> None:
    assert nginx.count("{") == nginx.count("}")
    upstreams = {
        name: re.findall(r"server ([\w-]+):(\d+) ", body) for name, body in re.findall(r"upstream (\w+) \{([^}]*)\}", nginx)
    }
    assert upstreams == {
        "grpc_servers": [(name, "8500") for name in SERVERS],
        "rest_servers": [(name, "8501") for name in SERVERS],
    }
    passed = dict(re.findall(r"(grpc|proxy)_pass \w+://(\w+);", nginx))
    assert passed == {"grpc": "grpc_servers", "proxy": "rest_servers"}
    listening = re.findall(r"listen (\d+);", nginx)
    balancer = compose["services"]["nginx"]
    assert published(balancer) == {port: f"127.0.0.1:{port}" for port in listening}
    (mount,) = balancer["volumes"]
    inside = mount.split(":")
    assert (INFRA / inside[0]).is_file()
    assert inside[1] == "/etc/nginx/nginx.conf"


def test_the_fleet_in_the_comment_is_that_of_the_file(compose: Any) -> None:
    text = (INFRA / "compose.yaml").read_text(encoding="utf-8")
    commented = [line.removeprefix("#")[1:] for line in text.splitlines() if line.startswith("#     ")]
    start = next(index for index, line in enumerate(commented) if line.strip() == "push:")
    section = yaml.safe_load("\n".join(commented[start:]))
    fleet = FleetConfig.model_validate(section["push"]["fleet"])
    assert [instance.name for instance in fleet.instances] == list(SERVERS)
    for instance in fleet.instances:
        service = compose["services"][instance.name]
        assert instance.address == published(service)["8500"].replace("127.0.0.1", "localhost")
        model = service["environment"]["MODEL_NAME"].removeprefix("${TFLINE_MODEL:-").removesuffix("}")
        assert instance.server_path == f"{service['environment']['MODEL_BASE_PATH']}/{model}"
        (volume,) = service["volumes"]
        assert volume.endswith(f":{service['environment']['MODEL_BASE_PATH']}:ro")
        assert "${TFLINE_STORE:?" in volume
