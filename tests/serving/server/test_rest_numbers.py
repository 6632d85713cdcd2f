"""Numbers in JSON: TensorFlow Serving's format, whatever the value, its type and how many there are."""

from __future__ import annotations

import json
import math
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.server.rest_numbers import FEW, compact_json, number_texts

FLOAT32 = st.floats(width=32)
FLOAT64 = st.floats(width=64)


def expected(value: float, dtype: str) -> str:
    """WriteDecimal, one value at a time."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    text = f"{value:g}"
    if np.array(float(text), dtype) != np.array(value, dtype):
        text = format(value, ".9g" if dtype == "float32" else ".17g")
    return text if "." in text or "e" in text else text + ".0"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9000000, "9e+06"),
        (999999, "999999.0"),
        (0.5, "0.5"),
        (0.0003, "0.0003"),
        (0.00003, "3e-05"),
        (555557.5, "555557.5"),
        (0.1, "0.1"),
        (1e-7, "1e-07"),
        (1 / 3, "0.333333343"),
        (16777216, "16777216.0"),
        (123456792, "123456792.0"),
        (1234567936, "1.23456794e+09"),
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (3.4028234663852886e38, "3.40282347e+38"),
        (1e-45, "1.4013e-45"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
    ],
)
def test_float32_as_in_tensorflow_serving(value: float, text: str) -> None:
    """The first six are json_tensor_test.cc's."""
    few = np.array([value], "float32")
    assert compact_json(few, strict=False) == f"[{text}]".encode()
    many = np.full(FEW + 1, value, "float32")
    assert compact_json(many, strict=False) == f"[{','.join([text] * (FEW + 1))}]".encode()


@pytest.mark.parametrize(
    ("value", "text"), [(0.1, "0.1"), (1 / 3, "0.33333333333333331"), (1e300, "1e+300"), (2.0**53, "9007199254740992.0")]
)
def test_float64_has_17_digits(value: float, text: str) -> None:
    assert number_texts(np.array([value])) == [text]


@settings(deadline=None)
@given(arrays.arrays(np.float32, st.integers(0, 3 * FEW), elements=FLOAT32))
@example(np.nextafter(np.float32(10) ** np.arange(-38, 38, dtype=np.float32), np.float32(0)))
@example(np.float32(10) ** np.arange(-38, 38, dtype=np.float32))
def test_every_float32(values: npt.NDArray[np.float32]) -> None:
    assert _written(values) == _expected(values, "float32")


@settings(deadline=None)
@given(arrays.arrays(np.float64, st.integers(0, 3 * FEW), elements=FLOAT64))
def test_every_float64(values: npt.NDArray[np.float64]) -> None:
    assert _written(values) == _expected(values, "float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("decades", [(-45, 39), (-6, 8), (-10, -3)])
def test_many_numbers(dtype: str, decades: tuple[int, int]) -> None:
    """Of every size, and such as have few digits, which hypothesis does not find often."""
    random = np.random.default_rng(4)
    any_digits = 10.0 ** random.uniform(*decades, 4000)
    few_digits = random.integers(1, 10**6, 4000) * 10.0 ** random.integers(decades[0], max(decades[1] - 6, decades[0] + 1), 4000)
    values = np.concatenate([any_digits, -few_digits]).clip(-1e38, 1e38).astype(dtype)
    assert _written(values) == _expected(values, dtype)


def _written(values: npt.NDArray[Any]) -> list[str]:
    texts = compact_json(values, strict=False)[1:-1].decode().split(",") if values.size else []
    back = np.array([float(text) for text in texts], values.dtype)
    np.testing.assert_array_equal(back, values)
    return texts


def _expected(values: npt.NDArray[Any], dtype: str) -> list[str]:
    return [expected(value, dtype) for value in values.tolist()]


@pytest.mark.parametrize("size", [1, FEW, FEW + 1])
def test_strict_form_is_json(size: int) -> None:
    values = np.resize(np.array([1.5, math.nan, math.inf, -math.inf, 1e-7], "float32"), size)
    refused: list[str] = []
    read = json.loads(compact_json(values, strict=True), parse_constant=refused.append)
    assert not refused
    np.testing.assert_array_equal(np.array([float(each) for each in read], "float32"), values)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(["bool", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "float32", "float64"]).flatmap(
        lambda dtype: arrays.arrays(
            dtype,
            arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
            elements={"allow_nan": False, "allow_infinity": False} if dtype.startswith("float") else None,
        )
    )
)
def test_nesting_and_values_of_every_type(array: npt.NDArray[np.generic]) -> None:
    read = json.loads(compact_json(array, strict=False))
    np.testing.assert_array_equal(np.array(read, array.dtype).reshape(array.shape), array)
    assert array.size == 0 or np.array(read).shape == array.shape
    assert compact_json(array.copy(order="F"), strict=False) == compact_json(array, strict=False)
