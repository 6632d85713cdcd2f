"""Which request an HTTP request is, by method and path (tensorflow_serving/model_servers/http_rest_api_util.cc).

The whole of path and query must match, in either case of letters; but the method's name and `metadata` count in lower case only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from serving.server.status import invalid

METHODS = ("predict", "classify", "regress")

_CALL = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:(classify|regress|predict)", re.IGNORECASE | re.ASCII
)
_LOOK = re.compile(r"/v1/models(?:/([^/:]+))?(?:/versions/(\d+)|/labels/([^/:]+))?(?:/(metadata))?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Route:
    """What is asked of what.

    Attributes:
        action: predict, classify, regress, metadata or status.
        model: Its name; "" if the path has none.
        version: None for the newest, or all.
        label: Instead of a version.
    """

    action: str
    model: str
    version: int | None = None
    label: str | None = None


def route(method: str, path: str) -> Route:
    """Reads method and path.

    Args:
        method: The HTTP method, in capital letters.
        path: As sent, with the query and without any decoding, each byte a character (Latin-1).

    Raises:
        StatusError: INVALID_ARGUMENT: malformed, a version above int64, no model name.
    """
    match = {"POST": _CALL, "GET": _LOOK}[method].fullmatch(path) if method in ("POST", "GET") else None
    if match is None:
        raise invalid(f"Malformed request: {method} {path}")
    name, version, label, last = match.groups()
    number = None
    if version is not None:
        # An integer of thousands of digits is not even parsed.
        number = int(version) if len(version) < 32 else 2**63
        if number >= 2**63:
            raise invalid(f"Failed to convert version: {version} to numeric.")
    if method == "POST" and last not in METHODS:
        raise invalid(f"Malformed request: {method} {path}")
    if method == "GET":
        last = "metadata" if last == "metadata" else "status"
        if not name:
            raise invalid("Missing model name in request.")
    return Route(last, _decoded(name), number, None if label is None else _decoded(label))


def _decoded(text: str) -> str:
    return unquote_to_bytes(text.encode("latin-1")).decode("utf-8", "replace")
