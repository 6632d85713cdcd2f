"""Numbers as TensorFlow Serving writes them in JSON, without a Python loop over the values.

A float is written with six significant digits (C's %g) where that gives the same value back, else with as many as its type may
need (%.9g, %.17g); one that looks like an integer gets ".0" (WriteDecimal in tensorflow_serving/util/json_tensor.cc). NaN and the
infinities come bare, as NaN, Infinity, -Infinity, which is no valid JSON; the strict form puts them in quotation marks, as the
JSON of protocol buffers does (protobuf.dev/programming-guides/json): the three stay apart, and float(...) reads them back.

How it is fast: a float32 is rounded to six or nine digits by arithmetic in float64; the shortest text of the result, which orjson
writes at C speed, is then these digits. From 1e-4 to 1e6 every step is exact or correctly rounded; below, a value for which the
rounding of a step might matter is left out. What is left, and the 17 digits of a float64, go through Python's %.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

FEW = 24
"""Up to so many values Python's % is faster than a dozen NumPy calls."""

_CONSTANTS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
# Between which powers of ten a number lies tells by how much to scale it so that 6, or 9, digits stand before the point. Above
# and below these bounds %g writes an exponent. The scales, up to 1e12, are exact; so is their product with a float32's 24 bits.
_BOUNDS = np.array([float(f"1e{power}") for power in range(-4, 7)])
_SCALE_6 = np.array([1.0, *(float(f"1e{5 - power}") for power in range(-4, 6)), 1.0])
_SCALE_9 = np.array([1.0, *(float(f"1e{8 - power}") for power in range(-4, 6)), 1.0])
# By the power of ten of a number below 1e-4, turned positive; float32 ends at 1e-45.
_POWERS = np.array([float(f"1e{power}") for power in range(56)])
_EXPONENTS = np.array([f"e-{power:02}".encode() for power in range(47)], dtype=object)


def compact_json(array: npt.NDArray[Any], strict: bool) -> bytes:
    """Nested lists without white space.

    Args:
        array: Any shape; bool, an integer type, float32 or float64.
        strict: Whether numbers that are not finite stand in quotation marks.
    """
    if array.dtype.kind != "f":
        # orjson knows no arrays without dimensions, and only those that are contiguous.
        return orjson.dumps(np.ascontiguousarray(array) if array.ndim else array.item(), option=orjson.OPT_SERIALIZE_NUMPY)
    if array.size <= FEW:
        return _nested(number_texts(array, strict), array.shape).encode()
    flat = array.ravel()
    values = flat.astype(np.float64)
    rounded, written = _fixed(values, flat.dtype)
    if written.all():
        return orjson.dumps(rounded.reshape(array.shape), option=orjson.OPT_SERIALIZE_NUMPY)
    others = ~written
    # orjson writes null for NaN, which is the place where the text of the others goes.
    rounded[others] = np.nan
    places = orjson.dumps(rounded.reshape(array.shape), option=orjson.OPT_SERIALIZE_NUMPY).split(b"null")
    texts = [*_other_texts(flat[others], values[others], strict), b""]
    # A whole number with an exponent has no point: 3e-05. No other text has this sequence.
    return b"".join(chain.from_iterable(zip(places, texts, strict=True))).replace(b".0e", b"e")


def number_texts(array: npt.NDArray[Any], strict: bool = False) -> list[str]:
    """The text of each float of an array, float32 or float64, in C order."""
    flat = array.ravel()
    narrow = flat.dtype == np.float32
    full = "%.9g" if narrow else "%.17g"
    texts = _formatted("%g", flat)
    if flat.size > FEW:
        different = np.flatnonzero(np.array(list(map(float, texts)), flat.dtype) != flat)
        for index, text in zip(different.tolist(), _formatted(full, flat[different]), strict=True):
            texts[index] = text
    else:
        kind = f"{flat.size}{'f' if narrow else 'd'}"
        back = struct.unpack(kind, struct.pack(kind, *map(float, texts)))
        texts = [text if was == now else full % was for text, was, now in zip(texts, flat.tolist(), back, strict=True)]
    return [text if "." in text or "e" in text else _whole(text, strict) for text in texts]


def _formatted(pattern: str, flat: npt.NDArray[Any]) -> list[str]:
    return (f"{pattern} " * flat.size % tuple(flat.tolist())).split()


def _whole(text: str, strict: bool) -> str:
    """What has neither point nor exponent."""
    if text in _CONSTANTS:
        return f'"{_CONSTANTS[text]}"' if strict else _CONSTANTS[text]
    return text + ".0"


def _nested(texts: Sequence[str], shape: tuple[int, ...]) -> str:
    """Texts in C order as nested lists."""
    if not shape:
        return texts[0]
    if len(shape) == 1:
        return f"[{','.join(texts)}]"
    step = len(texts) // shape[0] if shape[0] else 0
    return f"[{','.join(_nested(texts[row * step : (row + 1) * step], shape[1:]) for row in range(shape[0]))}]"


def _fixed(values: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Values whose shortest text is what is to be written, and for which of them it is: zero, and those from 1e-4 to 1e6.

    Of a float64 only those that six digits give back: there are too many digits in the others for arithmetic.
    """
    place = np.searchsorted(_BOUNDS, np.abs(values), side="right")
    within = (place > 0) & (place < len(_BOUNDS))
    six = _SCALE_6[place]
    rounded = np.rint(values * six) / six
    if dtype == np.float64:
        return rounded, (within & (rounded == values)) | (values == 0)
    nine = _SCALE_9[place]
    rounded = np.where(rounded.astype(np.float32) == values, rounded, np.rint(values * nine) / nine)
    return rounded, within | (values == 0)


def _other_texts(flat: npt.NDArray[Any], values: npt.NDArray[np.float64], strict: bool) -> list[bytes]:
    """Texts of what `_fixed` leaves; a whole number with an exponent may have ".0" before it."""
    texts = np.empty(flat.size, dtype=object)
    left = np.ones(flat.size, dtype=np.bool_)
    if flat.dtype == np.float32 and flat.size > FEW:
        magnitudes = np.abs(values)
        small = np.flatnonzero((magnitudes < _BOUNDS[0]) & (magnitudes > 0))
        small_texts, sure = _small(values[small], magnitudes[small])
        texts[small] = small_texts
        left[small[sure]] = False
    texts[left] = [text.encode() for text in number_texts(flat[left], strict)]
    done: list[bytes] = texts.tolist()
    return done


def _small(
    values: npt.NDArray[np.float64], magnitudes: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.bool_]]:
    """Texts with an exponent of float32 values below 1e-4, and of which of them the text is surely right."""
    power = -np.floor(np.log10(magnitudes)).astype(np.int64)
    six, nine = np.rint(values * _POWERS[power + 5]), values * _POWERS[power + 8]
    error = np.abs(six / _POWERS[power + 5] - values)
    half = np.spacing(magnitudes.astype(np.float32)).astype(np.float64) / 2
    mantissa = np.where(error < half, six / 1e5, np.rint(nine) / 1e8)
    # The powers and products are off by some 2e-16 of the value: 4e-7 of the ninth digit.
    sure = (np.abs(error - half) > 1e-6 * half) & (np.abs(nine - np.floor(nine) - 0.5) > 1e-6)
    sure &= (np.abs(mantissa) >= 1) & (np.abs(mantissa) < 10)
    digits = np.array(orjson.dumps(mantissa, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b","), dtype=object)
    texts: npt.NDArray[np.object_] = digits + _EXPONENTS[power]
    return texts, sure
