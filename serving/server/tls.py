"""gRPC's TLS credentials, from the SSLConfig that --ssl_config_file names: keys and certificates are in its text, as PEM."""

from __future__ import annotations

import grpc

from serving.server.status import invalid
from serving.server.text_protos import SSLConfig

__all__ = ["SSLConfig", "server_credentials"]


def server_credentials(config: SSLConfig) -> grpc.ServerCredentials:
    """Of an SSLConfig (BuildServerCredentialsFromSSLConfigFile in tensorflow_serving/model_servers/server.cc).

    Raises:
        StatusError: INVALID_ARGUMENT when there is no key or no certificate, or client_verify without custom_ca.
    """
    if not config.server_key or not config.server_cert:
        raise invalid("--ssl_config_file: SSLConfig needs server_key and server_cert, both as PEM text")
    if config.client_verify and not config.custom_ca:
        raise invalid("--ssl_config_file: client_verify needs custom_ca, the PEM certificates that clients' must be signed with")
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
