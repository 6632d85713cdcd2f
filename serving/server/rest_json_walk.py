"""Finds what is wrong with JSON, in the words and with the offsets of RapidJSON 1.1.0 (reader.h, error/en.h)."""

from __future__ import annotations

import math
import re

from serving.server.status import StatusError, invalid

_SPACE = re.compile(rb"[ \n\r\t]*")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX4 = re.compile(rb"[0-9a-fA-F]{4}")
_INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_DIGITS = re.compile(rb"[0-9]*")
_EXPONENT = re.compile(rb"[eE][+-]?([0-9]*)")
_NON_FINITE = re.compile(rb"-?(?:NaN|Inf)")


def _error(message: str, offset: int) -> StatusError:
    return invalid(f"JSON Parse error: {message} at offset: {offset}")


def skip_space(body: bytes, position: int) -> int:
    """Where the white space at `position` ends."""
    match = _SPACE.match(body, position)
    assert match is not None
    return match.end()


def check(body: bytes, position: int) -> None:
    """Raises what RapidJSON would say of a body, or returns: its recursive reader (reader.h), without recursion."""
    if not body[position : position + 1].strip(b"\x00"):
        raise _error("The document is empty.", position)
    closers: list[bytes] = []
    while True:
        char = body[position : position + 1]
        if char in (b"{", b"["):
            closer = b"}" if char == b"{" else b"]"
            position = skip_space(body, position + 1)
            if body[position : position + 1] != closer:
                closers.append(closer)
                if closer == b"}":
                    position = _check_name(body, position)
                continue
            position += 1
        else:
            position = _check_scalar(body, position)
        while closers:
            position = skip_space(body, position)
            char = body[position : position + 1]
            if char == b",":
                position = skip_space(body, position + 1)
                if closers[-1] == b"}":
                    position = _check_name(body, position)
                break
            if char != closers[-1]:
                what = "object member" if closers[-1] == b"}" else "array element"
                raise _error(f"Missing a comma or {closers[-1].decode()} after an {what}.", position)
            closers.pop()
            position += 1
        else:
            return


def _check_name(body: bytes, position: int) -> int:
    """Past a member's name and colon, where its value begins."""
    if body[position : position + 1] != b'"':
        raise _error("Missing a name for object member.", position)
    position = skip_space(body, _check_string(body, position))
    if body[position : position + 1] != b":":
        raise _error("Missing a colon after a name of object member.", position)
    return skip_space(body, position + 1)


def _check_scalar(body: bytes, position: int) -> int:
    """Past a string, number or literal."""
    char = body[position : position + 1]
    if char == b'"':
        return _check_string(body, position)
    for literal in (b"true", b"false", b"null"):
        if char == literal[:1]:
            return _check_letters(body, position, literal)
    return _check_number(body, position)


def _check_letters(body: bytes, position: int, letters: bytes) -> int:
    """Past these letters."""
    for letter in letters:
        if body[position : position + 1] != bytes([letter]):
            raise _error("Invalid value.", position)
        position += 1
    return position


def _check_number(body: bytes, start: int) -> int:
    """Past a number, NaN or an infinity."""
    if constant := _NON_FINITE.match(body, start):
        position = constant.end()
        if constant[0].endswith(b"Inf") and body[position : position + 1] == b"i":
            return _check_letters(body, position, b"inity")
        return position
    integer = _INTEGER.match(body, start)
    if integer is None:
        raise _error("Invalid value.", start + (body[start : start + 1] == b"-"))
    position = integer.end()
    if body[position : position + 1] == b".":
        position += 1
        digits = _DIGITS.match(body, position)
        assert digits is not None
        if digits.end() == position:
            raise _error("Miss fraction part in number.", position)
        position = digits.end()
    if body[position : position + 1] in (b"e", b"E"):
        exponent = _EXPONENT.match(body, position)
        assert exponent is not None
        position = exponent.end()
        if not exponent[1]:
            raise _error("Miss exponent in number.", position)
    if math.isinf(float(body[start:position])):
        raise _error("Number too big to be stored in double.", start)
    return position


def _check_string(body: bytes, position: int) -> int:
    """Past a string; `position` is its opening quotation mark."""
    position += 1
    while True:
        plain = _PLAIN.match(body, position)
        assert plain is not None
        position = plain.end()
        char = body[position : position + 1]
        if char == b'"':
            return position + 1
        if char != b"\\":
            missing = char in (b"", b"\x00")
            message = "Missing a closing quotation mark in string." if missing else "Invalid escape character in string."
            raise _error(message, position)
        position = _check_escape(body, position)


def _check_escape(body: bytes, start: int) -> int:
    """Past a backslash and what it begins."""
    char = body[start + 1 : start + 2]
    if char != b"u":
        if not char or char not in b'"\\/bfnrt':
            raise _error("Invalid escape character in string.", start)
        return start + 2
    unit = _HEX4.match(body, start + 2)
    if unit is None:
        raise _error("Incorrect hex digit after \\u escape in string.", start)
    if not 0xD800 <= int(unit[0], 16) <= 0xDBFF:
        return unit.end()
    if body[unit.end() : unit.end() + 2] != b"\\u":
        raise _error("The surrogate pair in string is invalid.", start)
    second = _HEX4.match(body, unit.end() + 2)
    if second is None:
        raise _error("Incorrect hex digit after \\u escape in string.", start)
    if not 0xDC00 <= int(second[0], 16) <= 0xDFFF:
        raise _error("The surrogate pair in string is invalid.", start)
    return second.end()
