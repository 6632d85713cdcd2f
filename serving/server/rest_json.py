"""JSON as TensorFlow Serving reads it, and as it repeats it in error messages.

It parses with RapidJSON 1.1.0 and kParseNanAndInfFlag, which takes more than the standard does: NaN, Inf, Infinity and their
negatives, strings that are not UTF-8, a byte order mark; what follows the first value is ignored. orjson, which is strict and
five times as fast, goes first; what it refuses is read again by the standard library, and what that refuses is walked through
once more for RapidJSON's words and offset.

Where this differs from RapidJSON: of a key that occurs twice the last counts, not the first; nesting deeper than about 1000 is
refused, where RapidJSON goes on until the stack ends; decimals are rounded correctly, where RapidJSON is up to 3 units in the
last place off; a value in an error message is cut at 64 KiB.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import orjson

from serving.server.rest_json_describe import describe
from serving.server.rest_json_walk import check, skip_space
from serving.server.status import invalid

_BOM = b"\xef\xbb\xbf"
_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|-?(?:NaN|Inf(?:inity)?)', re.DOTALL)
_WITHIN_64_BITS = range(-(2**63), 2**64)
# What the standard library takes and RapidJSON does not: a number past the largest double, half a surrogate pair.
_SUSPECT = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{200}|\\u[dD][89abAB]")


@dataclass(frozen=True)
class Document:
    """A request's body.

    Attributes:
        value: The object in it.
        has_bool: Whether `true` or `false` occur anywhere; when not, numbers need no look at each one's type.
    """

    value: dict[str, Any]
    has_bool: bool


def parse(body: bytes) -> Document:
    """Reads a request's body.

    Strings with bytes that are not UTF-8 have surrogates in their place; `encode` gives the bytes back.

    Raises:
        StatusError: INVALID_ARGUMENT `JSON Parse error: … at offset: N`, or `JSON Value: … Is not object`.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = _tolerant(body)
    if not isinstance(value, dict):
        raise invalid(f"JSON Value: {describe(value)} Is not object")
    return Document(value, b"true" in body or b"false" in body)


def encode(text: str) -> bytes:
    """The bytes of a string from `parse`, as they stood in the body."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        pass
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _tolerant(body: bytes) -> Any:
    """What orjson refuses and RapidJSON takes."""
    start = skip_space(body, len(_BOM) if body.startswith(_BOM) else 0)
    if _SUSPECT.search(body):
        check(body, start)
    text = body.decode("utf-8", "surrogateescape")
    if "Inf" in text or "-NaN" in text:
        text = _CONSTANT.sub(_spelt_out, text)
    decoder = json.JSONDecoder(parse_int=_integer)
    try:
        return decoder.raw_decode(text, len(body[:start].decode()))[0]
    except RecursionError:
        raise invalid("JSON Parse error: nested too deeply") from None
    except ValueError as error:
        check(body, start)
        # Both parsers refused and the walk found nothing; no such body is known, but it must be a 400 all the same.
        raise invalid(f"JSON Parse error: {error}") from None


def _spelt_out(match: re.Match[str]) -> str:
    """The standard library knows NaN, Infinity and -Infinity only."""
    token = match[0]
    if token[0] == '"':
        return token
    if token.endswith("NaN"):
        return "NaN"
    return "-Infinity" if token[0] == "-" else "Infinity"


def _integer(text: str) -> int | float:
    """RapidJSON makes a double of an integer that needs more than 64 bits."""
    if len(text) <= 20:
        value = int(text)
        return value if value in _WITHIN_64_BITS else float(text)
    return float(text)
