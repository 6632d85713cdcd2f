"""TensorProto to NumPy and back: every dtype in both forms, what TensorFlow fills in, and that nothing malformed gets through."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from google.protobuf import descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.server.status import Code, StatusError
from serving.server.tensors import MAX_FILLED, dtype_name, numpy_dtype, tf_dtype, to_array, to_proto
from serving.tensorflow_protos import tensorflow_protos

tensorflow_protos()
TensorProto: Any = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName("tensorflow.TensorProto"))

NUMBERS = [*range(1, 20), *range(22, 31)]
NOT_STRING = [number for number in NUMBERS if number != 7]
BITS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def proto(dtype: int, *shape: int, **fields: Any) -> Any:
    return TensorProto(dtype=dtype, tensor_shape={"dim": [{"size": size} for size in shape]}, **fields)


def refusal(message: Any) -> str:
    with pytest.raises(StatusError) as error:
        to_array(message, "x")
    assert error.value.code == Code.INVALID_ARGUMENT
    return error.value.message


@st.composite
def numbers(draw: st.DrawFn) -> npt.NDArray[Any]:
    """An array of any numeric dtype with any bits: NaNs with payloads, infinities, subnormals, negative zeros."""
    number = draw(st.sampled_from(NOT_STRING))
    dtype = numpy_dtype(number)
    shape = draw(SHAPES)
    count = int(np.prod(shape, dtype=int))
    if number == 10:
        return np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool).reshape(shape)
    if number in (29, 30):
        low = -8 if number == 29 else 0
        values = draw(st.lists(st.integers(low, low + 15), min_size=count, max_size=count))
        return np.array(values, np.int8).astype(dtype).reshape(shape)
    data = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    return np.frombuffer(data, dtype).reshape(shape)


@given(numbers(), st.booleans())
def test_numbers_come_back_bit_for_bit(array: npt.NDArray[Any], as_content: bool) -> None:
    message = TensorProto.FromString(to_proto(array, as_content=as_content).SerializeToString())
    again = to_array(message, "x")
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert again.tobytes() == array.tobytes()
    assert message.dtype == tf_dtype(array)
    assert bool(message.tensor_content) == (as_content and array.size > 0)


@given(arrays.arrays(object, SHAPES, elements=st.binary(max_size=300), fill=st.nothing()), st.booleans())
def test_strings_come_back(array: npt.NDArray[Any], as_content: bool) -> None:
    message = to_proto(array, as_content=as_content)
    again = to_array(message, "x")
    assert again.shape == array.shape and again.tolist() == array.tolist() and again.dtype == object
    assert bool(message.tensor_content) == (as_content and array.size > 0)


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_no_bytes_give_anything_but_an_array_or_the_one_error(data: bytes) -> None:
    try:
        message = TensorProto.FromString(data)
    except Exception:
        return
    try:
        array = to_array(message, "x")
    except StatusError as error:
        assert error.message == "tensor parsing error: x"
    else:
        assert array.shape == tuple(dimension.size for dimension in message.tensor_shape.dim)


FIELDS = [field.name for field in TensorProto.DESCRIPTOR.fields if field.name.endswith("_val") and field.message_type is None]


@st.composite
def odd_protos(draw: st.DrawFn) -> Any:
    """Any dtype, any small or lying shape, with values in a field that may or may not be the dtype's own."""
    shape = draw(st.lists(st.integers(-1, 6) | st.sampled_from([2**20, 2**40, 2**62, 2**63 - 1]), max_size=4))
    message = proto(draw(st.integers(0, 34) | st.integers(100, 134)), *shape)
    field = draw(st.sampled_from(FIELDS))
    if field == "float8_val":
        message.float8_val = draw(st.binary(max_size=9))
    else:
        value = b"a" if field == "string_val" else 1
        getattr(message, field).extend([value] * draw(st.integers(0, 9)))
    message.tensor_content = draw(st.just(b"") | st.binary(max_size=40))
    return message


@settings(max_examples=500)
@given(odd_protos())
def test_lying_shapes_and_wrong_fields_cost_little_and_raise_nothing_else(message: Any) -> None:
    tracemalloc.start()
    try:
        array = to_array(message, "x")
    except StatusError as error:
        assert error.message == "tensor parsing error: x"
    else:
        assert array.dtype == numpy_dtype(message.dtype)
        assert array.nbytes <= MAX_FILLED
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2 * MAX_FILLED


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (proto(1, 2, 2, float_val=[1.5]), [[1.5, 1.5], [1.5, 1.5]]),
        (proto(1, 4, float_val=[1, 2]), [1, 2, 2, 2]),
        (proto(1, 2, float_val=[1, 2, 3]), [1, 2]),
        (proto(1, 2), [0, 0]),
        (proto(1, float_val=[7]), 7),
        (proto(1), 0),
        (proto(1, 0, 2**40, float_val=[1]), []),
        (proto(7, 3, string_val=[b"a", b"b"]), [b"a", b"b", b"b"]),
        (proto(7, 2), [b"", b""]),
        (proto(7, 1, string_val=[b"a", b"b"]), [b"a"]),
        (proto(10, 3, bool_val=[True]), [True, True, True]),
        (proto(10, 3, tensor_content=b"\0\1\7"), [False, True, True]),
        (proto(8, 2, scomplex_val=[1, 2, 3]), [1 + 2j, 1 + 2j]),
        (proto(18, 1, dcomplex_val=[1, 2]), [1 + 2j]),
        (proto(19, 2, half_val=[0x3C00]), [1, 1]),
        (proto(14, 2, half_val=[0x3F80, 0xC000]), [1, -2]),
        (proto(6, 2, int_val=[-1, 300]), [-1, 44]),
        (proto(23, 1, uint64_val=[2**64 - 1]), [2**64 - 1]),
        (proto(9, 2, int64_val=[-(2**63), 2**63 - 1]), [-(2**63), 2**63 - 1]),
        (proto(3, 2, tensor_content=b"\1\0\0\0\2\0\0\0", int_val=[9, 9]), [1, 2]),
    ],
)
def test_values_are_what_tensorflow_makes_of_them(message: Any, expected: Any) -> None:
    assert to_array(message, "x").tolist() == expected


@pytest.mark.parametrize(
    "message",
    [
        proto(0, 1),
        proto(20, 1),
        proto(21, 1),
        proto(101, 1, float_val=[1]),
        proto(77, 1),
        proto(1, -1, float_val=[1]),
        proto(1, 2**40, float_val=[1]),
        proto(1, 2**40),
        proto(1, 2**62, 2**62, float_val=[1]),
        proto(7, 2**40, string_val=[b"a"]),
        proto(7, 2**40, tensor_content=b"\0"),
        proto(7, 2, tensor_content=b"\1\1a"),
        proto(7, 1, tensor_content=b"\xff\xff"),
        proto(1, 2, tensor_content=b"1234"),
        proto(1, 1, tensor_content=b"12345678"),
        proto(1, *([1] * 33), float_val=[1]),
    ],
)
def test_malformed_protos_are_refused_by_name(message: Any) -> None:
    assert refusal(message) == "tensor parsing error: x"


def test_one_value_may_fill_an_image_but_not_the_memory() -> None:
    assert to_array(proto(1, 1, 1024, 1024, float_val=[2]), "x").sum() == 2 * 1024 * 1024
    assert refusal(proto(1, MAX_FILLED // 4 + 1, float_val=[2])) == "tensor parsing error: x"
    many = to_array(proto(1, 8 << 20, float_val=np.ones(1 << 20).tolist()), "x")
    assert many.nbytes == 32 << 20 > MAX_FILLED


@pytest.mark.parametrize("as_content", [False, True])
def test_scalars_and_empty_tensors_have_a_shape(as_content: bool) -> None:
    scalar = to_proto(np.float32(3), as_content=as_content)  # type: ignore[arg-type]
    assert scalar.HasField("tensor_shape") and to_array(scalar).shape == ()
    assert to_array(to_proto(np.zeros((0, 3), np.int32), as_content=as_content)).shape == (0, 3)


def test_other_layouts_are_written_too() -> None:
    turned = np.arange(6, dtype=">f4").reshape(2, 3).T
    assert to_array(to_proto(turned)).tolist() == turned.tolist() == to_array(to_proto(turned, as_content=True)).tolist()
    assert to_array(to_proto(np.array(["ä", "b"]))).tolist() == ["ä".encode(), b"b"]
    assert to_array(to_proto(np.array([b"a"]))).tolist() == [b"a"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([b"a", 1], object), "Expected strings (bytes) in the array. Received int."),
        (np.array(["2020-01-01"], "M8[D]"), "TensorFlow has no dtype for NumPy's datetime64[D]"),
        (np.array([1], np.longdouble), f"TensorFlow has no dtype for NumPy's {np.dtype(np.longdouble)}"),
    ],
)
@pytest.mark.parametrize("as_content", [False, True])
def test_what_is_no_tensor_is_not_written(array: npt.NDArray[Any], message: str, as_content: bool) -> None:
    with pytest.raises(StatusError, match="^" + re.escape(message)):
        to_proto(array, as_content=as_content)


def test_names_are_tensorflows() -> None:
    assert [dtype_name(number) for number in (0, 1, 2, 7, 10, 14, 19, 20, 99)] == [
        "INVALID", "float", "double", "string", "bool", "bfloat16", "half", "resource", "unknown dtype enum (99)",
    ]  # fmt: skip
    assert numpy_dtype(14) == np.dtype(ml_dtypes.bfloat16)


def test_nothing_here_imports_tensorflow() -> None:
    modules = ("tensors", "text_protos", "batching", "warmup", "session_runtime", "tflite_runtime")
    code = f"""
import sys
import {", ".join(f"serving.server.{module}" for module in modules)}
import numpy
serving.server.tensors.to_proto(numpy.zeros(2))
sys.exit("tensorflow.python" in sys.modules or "tensorflow" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.slow
def test_tensorflow_agrees() -> None:
    import tensorflow as tf

    rng = np.random.default_rng(0)
    for number in [*range(1, 20), 22, 23, 24, 25]:
        dtype = numpy_dtype(number)
        if number == 7:
            array = np.array([[b"a", b"bc"], [b"", b"\xff"]], object)
        elif dtype.names:
            array = rng.integers(0, 100, (2, 3)).astype(dtype[0]).view(dtype)
        else:
            array = rng.integers(0, 2 if number == 10 else 5, (2, 3)).astype(dtype)
        theirs = tf.make_tensor_proto(array if not dtype.names else array.astype(dtype), dtype=tf.as_dtype(number))
        assert dtype == tf.as_dtype(number).as_numpy_dtype and theirs.dtype == number
        assert to_array(theirs).tolist() == array.tolist()
        for as_content in (False, True) if number != 7 else (False,):
            assert tf.make_ndarray(to_proto(array, as_content=as_content)).tolist() == array.tolist()
    strings = tf.constant(np.array([b"a", b"bc" * 100, b""], object))
    content = to_proto(strings.numpy(), as_content=True)
    assert tf.io.parse_tensor(content.SerializeToString(), tf.string).numpy().tolist() == strings.numpy().tolist()
