"""What becomes of Python's values, NumPy's scalars and arrays on their way to a server."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.client.values import Spec, declared, feature, natural


@pytest.mark.parametrize(
    ("value", "dtype", "exact"),
    [
        (1.5, np.float64, False),
        ([1, 2], np.int64, False),
        ([[1, 2.5]], np.float64, False),
        (np.float32(1.5), np.float32, False),
        ([np.float32(1.5)], np.float32, False),
        (True, np.bool_, True),
        (np.ones(2), np.float64, True),
        (np.ones(2, np.float16), np.float16, True),
        (np.ones(2, ">f4"), np.float32, True),
        (np.ones(2, ml_dtypes.bfloat16), ml_dtypes.bfloat16, True),
        ("text", object, True),
        (np.array(["a", "b"]), object, True),
        ([], np.float64, False),
    ],
)
def test_dtypes(value: Any, dtype: Any, exact: bool) -> None:
    array, chosen = natural(value)
    assert array.dtype == np.dtype(dtype) and array.dtype.isnative and chosen is exact


def test_values_of_another_byte_order_stay_the_same() -> None:
    assert natural(np.array([1.5, 2.5], ">f8"))[0].tolist() == [1.5, 2.5]


@given(st.lists(st.binary(max_size=5) | st.text(max_size=5), min_size=1))
def test_strings_keep_every_byte(strings: list[bytes | str]) -> None:
    array, _ = natural(strings)
    assert array.shape == (len(strings),)
    assert array.tolist() == [each.encode() if isinstance(each, str) else each for each in strings]


def test_nested_strings() -> None:
    array, _ = natural([["a", b"\0"], ["ü", ""]])
    assert array.tolist() == [[b"a", b"\0"], ["ü".encode(), b""]] and array.shape == (2, 2)
    assert natural(b"x\0")[0].item() == b"x\0"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([[1], [1, 2]], "equal lengths"),
        (["a", 1], "got int among them"),
        ([None], "got NoneType among them"),
        (np.array(["2020-01-01"], "datetime64[D]"), "datetime64"),
        (np.ones(1, np.longdouble), "float128"),
        ({"a": 1}, "got dict among them"),
    ],
)
def test_what_is_no_tensor(value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        natural(value)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([1.5], np.float32),
        ([1], np.float32),
        ([1], np.int32),
        ([255], np.uint8),
        ([-128], np.int8),
        ([2**64 - 1], np.uint64),
        ([1.5], ml_dtypes.bfloat16),
        ([], np.int32),
        ([float("nan")], np.float32),
    ],
)
def test_numbers_in_the_declared_dtype(value: Any, dtype: Any) -> None:
    array = declared(natural(value)[0], np.dtype(dtype))
    assert array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(array.astype(np.float64), np.array(value, np.float64))


@pytest.mark.parametrize(
    ("value", "dtype", "told"),
    [
        ([1.5], np.int32, "expected int32, got floats"),
        ([1.0], np.int64, "expected int64, got floats"),
        ([256], np.uint8, "from 256 to 256"),
        ([-1], np.uint64, "from -1 to -1"),
        ([1], np.bool_, "expected bool, got integers"),
        ([1], object, "expected strings, got integers"),
    ],
)
def test_numbers_that_do_not_fit(value: Any, dtype: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        declared(natural(value)[0], np.dtype(dtype))


@pytest.mark.parametrize(
    ("value", "kind", "values", "single"),
    [
        ("a", "bytes_list", [b"a"], True),
        ([b"a", "b"], "bytes_list", [b"a", b"b"], False),
        (3, "int64_list", [3], True),
        (True, "int64_list", [1], True),
        (np.array([1, 2], np.int8), "int64_list", [1, 2], False),
        ([1, 2.5], "float_list", [1.0, 2.5], False),
        (np.float32(0.5), "float_list", [0.5], True),
        ([np.float32(0.5)], "float_list", [0.5], False),
        (np.array("a"), "bytes_list", [b"a"], True),
    ],
)
def test_features(value: Any, kind: str, values: list[Any], single: bool) -> None:
    found = feature(value)
    assert (found.kind, list(found.values), found.single) == (kind, values, single)


@pytest.mark.parametrize("value", [["a", 1], None, [[1.0]], {"a": 1}])
def test_what_is_no_feature(value: Any) -> None:
    with pytest.raises(ValueError, match="in one feature"):
        feature(value)


def test_a_version_or_a_label() -> None:
    with pytest.raises(ValueError, match="got both: 1 and stable"):
        Spec("m", 1, "stable")
