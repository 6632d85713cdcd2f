"""Certificates for connections to model servers."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tls:
    """Certificates in PEM files.

    Attributes:
        ca: Whom to trust; None for the system's authorities.
        cert, key: The client's own, for servers that ask for one.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def grpc_credentials(self) -> Any:
        """As grpc.secure_channel takes it; OSError when a file cannot be read."""
        import grpc

        ca, key, cert = (path.read_bytes() if path else None for path in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)

    def context(self) -> ssl.SSLContext:
        """As HTTP clients take it; OSError (ssl.SSLError among them) when a file cannot be read or is none."""
        made = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        if self.cert:
            made.load_cert_chain(str(self.cert), str(self.key) if self.key else None)
        return made
