"""Three servers for the suite, since a start costs seconds: one for requests, one with many flags, one whose models change."""

from __future__ import annotations

import datetime
import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.serving.conformance.models import make, model_list
from tests.serving.conformance.servers import ADDRESS, Connection, Server


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `models.make`."""
    return make(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def own_server() -> None:
    """For tests that must start a server, or know the one they talk to."""
    if ADDRESS:
        pytest.skip("needs a server of its own; TFLINE_SERVER_ADDRESS names a running one")


@pytest.fixture(scope="session")
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A server of all models of `models.config`."""
    if ADDRESS:
        grpc_address, _, rest_address = ADDRESS.partition(",")
        connection = Connection(grpc_address, rest_address)
        yield connection
        connection.close()
        return
    shop: Path = request.getfixturevalue("shop")
    folder = tmp_path_factory.mktemp("plain")
    monitoring = folder / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }\n", encoding="utf-8")
    flags = {
        "model_config_file": shop / "models.config",
        "allow_version_labels_for_unavailable_models": "true",
        "enable_grpc_healthcheck_service": "true",
        "monitoring_config_file": monitoring,
        "grpc_socket_path": folder / "socket",
        "per_process_gpu_memory_fraction": 0.5,
        "no_such_flag": 1,
    }
    server = Server(flags, folder)
    yield server
    server.stop()


@dataclass(frozen=True)
class Flagged:
    """The server with many flags, and the file of models that it reads again every second."""

    server: Server
    config: Path


@pytest.fixture(scope="session")
def flagged(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flagged]:
    """TLS, batching, TFLite, CORS, tensor content, the check of method names, and no metrics."""
    if ADDRESS:
        pytest.skip("needs a server of its own; TFLINE_SERVER_ADDRESS names a running one")
    folder = tmp_path_factory.mktemp("flagged")
    certificate, key = _certificate()
    (folder / "ssl.config").write_text(f"server_key: {json.dumps(key)}\nserver_cert: {json.dumps(certificate)}\n")
    (folder / "batching.config").write_text(
        "max_batch_size { value: 4 } batch_timeout_micros { value: 20000 } max_enqueued_batches { value: 1 }\n"
        "num_batch_threads { value: 1 } allowed_batch_sizes: 2 allowed_batch_sizes: 4\n"
    )
    config = folder / "models.config"
    models = {name: (shop / name, "") for name in ("half_plus_two", "kinds", "lite")}
    config.write_text(model_list(models))
    flags = {
        "model_config_file": config,
        "model_config_file_poll_wait_seconds": 1,
        "ssl_config_file": folder / "ssl.config",
        "enable_batching": "true",
        "batching_parameters_file": folder / "batching.config",
        "prefer_tflite_model": "true",
        "rest_api_enable_cors_support": "true",
        "enable_signature_method_name_check": "true",
        "enable_serialization_as_tensor_content": "true",
    }
    server = Server(flags, folder, certificate.encode())
    yield Flagged(server, config)
    server.stop()


@pytest.fixture(scope="session")
def changing_server(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose models each test sets by HandleReloadConfigRequest."""
    if ADDRESS:
        pytest.skip("needs a server of its own; TFLINE_SERVER_ADDRESS names a running one")
    folder = tmp_path_factory.mktemp("changing")
    (folder / "models.config").write_text(model_list({"first": (shop / "half_plus_two", "")}))
    flags = {
        "model_config_file": folder / "models.config",
        "max_num_load_retries": 0,
        "rest_api_timeout_in_ms": 1000,
    }
    server = Server(flags, folder)
    yield server
    server.stop()


def _certificate() -> tuple[str, str]:
    """A certificate that localhost signed for itself, and its key, both PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem.decode()
