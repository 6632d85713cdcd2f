"""Metadata in a .tflite: what goes in comes out, and nothing else of the file changes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from serving.tflite_file import TFLiteFile, TFLiteFileError
from serving.tflite_metadata import (
    NAME,
    TensorInfo,
    TFLiteMetadata,
    Transform,
    content_intact,
    metadata_entries,
    read_metadata,
    write_metadata,
)
from tests.serving.tflite_files import DIGEST, invoke, make_metadata, make_tflite, pack, unpack

MODEL = make_tflite(int8=True)

_text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
_digests = st.text("0123456789abcdef", min_size=64, max_size=64)
_shapes = st.lists(st.integers(-1, 9), max_size=4).map(tuple)


@st.composite
def tensors(draw: st.DrawFn) -> TensorInfo:
    scale = draw(st.none() | st.floats(min_value=0, exclude_min=True, allow_infinity=False))
    zero_point = None if scale is None else draw(st.integers(-128, 127))
    kind = draw(st.sampled_from(["int8", "float32", "string"]))
    return TensorInfo(name=draw(_text), dtype=kind, shape=draw(_shapes), scale=scale, zero_point=zero_point)


@st.composite
def metadata(draw: st.DrawFn) -> TFLiteMetadata:
    outputs = draw(st.lists(tensors(), min_size=1, max_size=2))
    labels = draw(st.none() | st.lists(_text, min_size=1, max_size=5))
    if labels:
        outputs = [TensorInfo(name="scores", dtype="float32", shape=(-1, len(labels))), *outputs]
    host = draw(st.none() | st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,10}\Z"))
    transform = Transform(
        digest=draw(_digests),
        version=draw(st.none() | _text),
        host=host,
        raw_inputs=tuple(draw(st.lists(tensors(), max_size=2))) if host else (),
        reason=draw(st.none() | _text),
    )
    return TFLiteMetadata(
        model_name=draw(_text),
        model_version=draw(st.none() | _text),
        saved_model_digest=draw(_digests),
        variant=draw(_text),
        signature=draw(_text),
        inputs=tuple(draw(st.lists(tensors(), min_size=1, max_size=3))),
        outputs=tuple(outputs),
        labels=tuple(labels or ()),
        labels_of="scores" if labels else None,
        features="transformed" if host else "raw",
        transform=transform if host or draw(st.booleans()) else None,
    )


@given(metadata(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_goes_in_comes_out_and_the_model_stays_as_it_was(said: TFLiteMetadata, int8: bool) -> None:
    model = make_tflite(int8=int8)
    written = write_metadata(model, said)
    assert read_metadata(written) == said
    assert written.endswith(model) and (len(written) - len(model)) % 16 == 0, "weights stay aligned as schema.fbs wants"
    assert content_intact(written) is True


@given(metadata(), metadata())
@settings(max_examples=20, deadline=None)
def test_later_metadata_replace_earlier_ones(first: TFLiteMetadata, second: TFLiteMetadata) -> None:
    assert write_metadata(write_metadata(MODEL, first), second) == write_metadata(MODEL, second)


def test_none() -> None:
    assert read_metadata(MODEL) is None and content_intact(MODEL) is None


@pytest.mark.parametrize("int8", [False, True])
def test_the_answers_are_the_same(int8: bool) -> None:
    model = make_tflite(int8=int8)
    written = write_metadata(model, make_metadata(model))
    values = np.array([[1, -2, 3, 4]], np.int8 if int8 else np.float32)
    np.testing.assert_array_equal(invoke(written, values), invoke(model, values))
    assert invoke(model, values).any()


def test_the_whole_model_is_the_same_to_a_reader_of_the_schema() -> None:
    written = write_metadata(MODEL, make_metadata(MODEL))
    old, new = unpack(MODEL), unpack(written)
    assert len(new.buffers) == len(old.buffers) + 1 and [each.name for each in new.metadata] == [
        b"min_runtime_version",
        NAME.encode(),
    ]
    new.buffers, new.metadata = new.buffers[:-1], new.metadata[:-1]
    assert pack(new) == pack(old)


def test_metadata_of_others_stay_and_are_found() -> None:
    written = write_metadata(MODEL, make_metadata(MODEL))
    found = {name: bytes(data) for name, data in metadata_entries(TFLiteFile(written))}
    assert list(found) == ["min_runtime_version", NAME] and found["min_runtime_version"] == b"1.14.0\0\0"


def test_the_text_is_json_with_the_digest_of_the_model() -> None:
    entries = dict(metadata_entries(TFLiteFile(write_metadata(MODEL, make_metadata(MODEL)))))
    text = json.loads(bytes(entries[NAME]).decode("utf-8"))
    assert text["labels"] == ["zero", "öne", "two"] and text["inputs"][0]["scale"] == 0.5
    assert text["content"]["bytes"] == len(MODEL)


def test_one_bit_of_the_weights_is_noticed() -> None:
    written = bytearray(write_metadata(MODEL, make_metadata(MODEL)))
    kernel = bytes([1, 0, 0, 2, 0, 1, 0, 254])
    written[bytes(written).index(kernel)] ^= 4
    assert content_intact(bytes(written)) is False
    assert read_metadata(bytes(written)) == make_metadata(MODEL)


def test_metadata_of_a_changed_model_are_replaced_not_the_model() -> None:
    """A program that read and wrote the whole file left our metadata in it: its weights are the ones to keep."""
    model = unpack(write_metadata(MODEL, make_metadata(MODEL)))
    model.buffers[1].data = np.zeros(12, np.uint8)
    changed = pack(model)
    assert content_intact(changed) is False
    again = write_metadata(changed, make_metadata(MODEL, variant="zero"))
    found = read_metadata(again)
    assert again.endswith(changed) and found is not None and found.variant == "zero" and content_intact(again)
    assert [each.name for each in unpack(again).metadata].count(NAME.encode()) == 1


def test_what_another_program_added_later_stays() -> None:
    written = write_metadata(MODEL, make_metadata(MODEL))
    model = unpack(written)
    model.buffers.append(schema.BufferT(data=np.frombuffer(b"more", np.uint8)))
    model.metadata.append(schema.MetadataT(name=b"OTHER", buffer=len(model.buffers) - 1))
    again = write_metadata(pack(model), make_metadata(MODEL))
    assert [name for name, _ in metadata_entries(TFLiteFile(again))] == ["min_runtime_version", "OTHER", NAME]


def test_data_behind_the_flatbuffer_are_refused() -> None:
    model = unpack(MODEL)
    model.buffers[1].offset, model.buffers[1].size = 16, 12
    with pytest.raises(TFLiteFileError, match="its data lies behind the flatbuffer, as above 2 GB"):
        write_metadata(pack(model), make_metadata(MODEL))


def stored(text: bytes) -> bytes:
    model = unpack(MODEL)
    model.buffers.append(schema.BufferT(data=np.frombuffer(text, np.uint8)))
    model.metadata.append(schema.MetadataT(name=NAME.encode(), buffer=len(model.buffers) - 1))
    return pack(model)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff{}", "TFLINE_METADATA cannot be read: it is no JSON"),
        (b"[" * 100_000, "TFLINE_METADATA cannot be read: it is no JSON"),
        (b'{"format": 2}', "its metadata has format 2; this tfline reads 1: take a newer one"),
        (b"[1]", "m: its metadata TFLINE_METADATA is not tfline's: expected an object, got list"),
        (b'{"format": 1}', "m: its metadata TFLINE_METADATA is not tfline's: content: Input should be a valid"),
        (b'{"content": {"bytes": 0}}', "m: its metadata TFLINE_METADATA is not tfline's: bytes: Input should be greater"),
        (b'{"content": {"bytes": 1, "sha256": "%s"}}' % (b"0" * 64), "is not tfline's: model_name: Field required"),
    ],
)
def test_metadata_that_are_none(text: bytes, said: str) -> None:
    with pytest.raises(TFLiteFileError) as error:
        read_metadata(stored(text), "m")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels_of": None}, "expected labels and labels_of together"),
        ({"labels_of": "z"}, "labels_of is 'z', no output: ['y']"),
        ({"labels": ("a", "b")}, "2 labels for output 'y' with 3 values"),
        ({"features": "transformed"}, "features are 'transformed', but the transform's host is None"),
        ({"transform": Transform(digest=DIGEST, host="t.json")}, "features are 'raw', but the transform's host is 't.json'"),
        ({"saved_model_digest": "1234"}, "should match pattern"),
        ({"inputs": ()}, "at least 1 item"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        make_metadata(MODEL, **changes)
    assert said in str(error.value)


@pytest.mark.parametrize("host", ["../t", "/etc/t", "a/b", ".", "", "a\n"])
def test_the_host_transform_lies_beside_the_file(host: str) -> None:
    with pytest.raises(ValidationError):
        Transform(digest=DIGEST, host=host)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_are_positive_numbers(scale: float) -> None:
    with pytest.raises(ValidationError):
        TensorInfo(name="x", dtype="int8", shape=(1,), scale=scale, zero_point=0)


def test_a_scale_has_a_zero_point() -> None:
    with pytest.raises(ValidationError, match="expected scale and zero_point together, got only one"):
        TensorInfo(name="x", dtype="int8", shape=(1,), scale=1.0)
