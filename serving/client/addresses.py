"""How servers are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

_EXPECTED = "expected host:port, grpc://host:port, grpcs://host:port, unix:PATH, http://host:port or https://host:port"


@dataclass(frozen=True)
class Servers:
    """Servers of one scheme.

    Attributes:
        scheme: "grpc", "grpcs", "unix", "http" or "https"; "" for a bare host:port, which is gRPC with or without TLS.
        addresses: As the transport takes them: gRPC's targets, or URLs without a slash at the end.
    """

    scheme: str
    addresses: tuple[str, ...]

    @property
    def rest(self) -> bool:
        """Whether they speak REST."""
        return self.scheme in ("http", "https")


def parse_servers(servers: str | Sequence[str]) -> Servers:
    """Reads addresses.

    Args:
        servers: One or several: "host:port" or "grpc://host:port", "grpcs://…", "unix:/path" (gRPC); "http://…", "https://…"
            (REST; a path to go before /v1 may follow).

    Raises:
        ValueError: There is none, one is none of these, or they are of several schemes.
    """
    given = [servers] if isinstance(servers, str) else list(servers)
    if not given:
        raise ValueError("expected at least one address, got none")
    found = [_parse(address) for address in given]
    if len({scheme for scheme, _ in found}) > 1:
        raise ValueError(f"expected addresses of one scheme, got {', '.join(given)}")
    return Servers(found[0][0], tuple(address for _, address in found))


def _parse(address: str) -> tuple[str, str]:
    if address.startswith("unix:") and address != "unix:":
        return "unix", address
    scheme, separator, _ = address.partition("://")
    if separator and scheme not in ("grpc", "grpcs", "http", "https"):
        raise ValueError(f"{_EXPECTED}, got {address!r}")
    try:
        parts = urlsplit(address if separator else f"//{address}")
        good = bool(parts.hostname) and not parts.query and not parts.fragment and parts.username is None
        # gRPC needs a port; REST has its scheme's.
        good = good and ((scheme.startswith("http") and bool(separator)) or (parts.port is not None and parts.path in ("", "/")))
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"{_EXPECTED}, got {address!r}")
    if separator and scheme.startswith("http"):
        return scheme, address.rstrip("/")
    return scheme if separator else "", parts.netloc
