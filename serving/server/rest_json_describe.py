"""JSON values as error messages repeat them."""

from __future__ import annotations

import math
from contextlib import suppress
from decimal import Decimal
from typing import Any

import numpy as np

from serving.server.rest_numbers import number_texts

MAX_DESCRIPTION = 65536
"""Characters of a value in an error message; TensorFlow Serving has no limit (its b/67042542)."""

_MAX_DEPTH = 100
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_ESCAPES = {ord('"'): '\\"', ord("\\"): "\\\\", 8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
_ESCAPED = str.maketrans({code: _ESCAPES.get(code, f"\\u{code:04X}") for code in [*range(32), ord('"'), ord("\\")]})


def type_name(value: Any) -> str:
    """RapidJSON's name of a value's type, for error messages."""
    if isinstance(value, bool):
        return "True" if value else "False"
    return {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}[type(value)]


def describe(value: Any) -> str:
    """A value as TensorFlow Serving repeats it in error messages: indented by four, and cut where a number in it is not finite.

    The cut is RapidJSON's: its writer stops at such a number. A number that is the whole value comes whole.
    """
    if isinstance(value, float):
        return _decimal(value)
    writer = _Description()
    with suppress(_Full):
        writer.write(value, 0)
    return "".join(writer.parts)


def _decimal(value: float) -> str:
    """A number on its own: by the digits that a float32 needs if it is in its range, else those of a float64."""
    dtype = np.float32 if abs(value) <= _FLOAT32_MAX else np.float64
    return number_texts(np.array([value], dtype))[0]


class _Full(Exception):
    """The description ends here."""


class _Description:
    """RapidJSON's PrettyWriter."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._size = 0

    def write(self, value: Any, depth: int) -> None:
        if depth > _MAX_DEPTH:
            self._put("...")
            raise _Full
        if isinstance(value, dict):
            self._members("{", "}", [(f'"{key.translate(_ESCAPED)}": ', each) for key, each in value.items()], depth)
        elif isinstance(value, list):
            self._members("[", "]", [("", each) for each in value], depth)
        elif isinstance(value, str):
            self._put(f'"{value.translate(_ESCAPED)}"')
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise _Full
            self._put(_double(value))
        else:
            self._put("null" if value is None else str(value).lower())

    def _members(self, opening: str, closing: str, members: list[tuple[str, Any]], depth: int) -> None:
        self._put(opening)
        for index, (key, value) in enumerate(members):
            self._put(("," if index else "") + "\n" + "    " * (depth + 1) + key)
            self.write(value, depth + 1)
        self._put(("\n" + "    " * depth if members else "") + closing)

    def _put(self, text: str) -> None:
        room = MAX_DESCRIPTION - self._size
        if len(text) > room:
            self.parts.append(text[:room] + "...")
            raise _Full
        self.parts.append(text)
        self._size += len(text)


def _double(value: float) -> str:
    """The shortest digits that give the number back, laid out as RapidJSON does (internal/dtoa.h): 1e-7, 0.1, 100.0, 1e21."""
    sign, digit_tuple, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    digits = "".join(map(str, digit_tuple))
    point = len(digits) + exponent
    if value == 0:
        text = "0.0"
    elif exponent >= 0 and point <= 21:
        text = digits + "0" * exponent + ".0"
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        text = f"{digits[0]}{'.' if len(digits) > 1 else ''}{digits[1:]}e{point - 1}"
    return "-" + text if sign else text
