"""Descriptions of .tflite files: what is in them, counted; and of broken ones what is broken."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.tflite_describe import TFLiteDescription, describe, describe_bytes
from serving.tflite_file import TFLiteFileError
from serving.tflite_metadata import write_metadata
from serving.tflite_weights import MOST_CLUSTERS
from tests.serving.tflite_files import X_SCALE, X_ZERO, make_metadata, make_tflite, pack, unpack

TYPES = schema.TensorType
PLAIN = make_tflite(int8=True)
TOLD = write_metadata(PLAIN, make_metadata(PLAIN))


def test_a_whole_description() -> None:
    found = describe_bytes(PLAIN)
    assert (found.file_bytes, found.schema_version, found.description) == (len(PLAIN), 3, "made by hand")
    assert list(found.signatures) == ["dense"] and found.signatures["dense"].stored
    (x,), (y,) = found.signatures["dense"].inputs, found.signatures["dense"].outputs
    assert (x.name, x.dtype, x.shape, x.scale, x.zero_point) == ("x", "int8", (1, 4), X_SCALE, X_ZERO)
    assert (y.name, y.shape) == ("y", (1, 3))
    assert found.ops == {"FULLY_CONNECTED": 1} and found.subgraphs == 1
    assert found.tensors["int8"].model_dump() == {"tensors": 3, "constants": 1, "bytes": 12}
    (kernel,) = found.weights
    assert (kernel.shape, kernel.values, kernel.bytes, kernel.scales, kernel.kernel) == ((3, 4), 12, 12, 3, True)
    assert kernel.zeros == pytest.approx(7 / 12) and kernel.distinct == 5 and kernel.clusters == 3
    assert found.buffers.model_dump() == {"count": 3, "filled": 2, "bytes": 20, "unused_bytes": 0}
    assert found.other_metadata == {"min_runtime_version": 8} and found.metadata is None and found.content_intact is None
    assert TFLiteDescription.model_validate_json(found.model_dump_json()) == found


def test_with_metadata_only_they_are_more() -> None:
    plain, told = describe_bytes(PLAIN).model_dump(), describe_bytes(TOLD)
    assert told.metadata == make_metadata(PLAIN) and told.content_intact is True
    changed = {key for key, value in told.model_dump().items() if plain[key] != value}
    assert changed == {"metadata", "content_intact", "file_bytes", "buffers"}
    assert told.buffers.unused_bytes == 0


def test_open_dimensions_and_several_signatures() -> None:
    found = describe_bytes(make_tflite(batch=-1, signatures=("a", "b")))
    assert list(found.signatures) == ["a", "b"]
    assert found.signatures["b"].inputs[0].shape == (-1, 4) and found.signatures["b"].inputs[0].scale is None


def test_without_signatures_the_tensors_names_are_those_to_call_by() -> None:
    (found,) = describe_bytes(make_tflite(signatures=())).signatures.items()
    assert found[0] == "serving_default" and not found[1].stored
    assert [info.name for info in (*found[1].inputs, *found[1].outputs)] == ["x", "y"]


@pytest.mark.parametrize(
    ("kind", "shape", "data", "zeros", "distinct"),
    [
        (TYPES.FLOAT32, (4,), np.array([0.0, -0.0, 1.5, 1.5], np.float32).tobytes(), 0.5, 2),
        (TYPES.FLOAT16, (4,), np.array([0, 1, 2, 2], np.float16).tobytes(), 0.25, 3),
        (TYPES.BFLOAT16, (2,), b"\0\x80\x80\x3f", 0.5, 2),
        (TYPES.INT4, (3,), bytes([0x7F, 0x00]), 1 / 3, 3),
        (TYPES.INT2, (5,), bytes([0b11_10_01_00, 0b00]), 0.4, 4),
        (TYPES.INT16, (2, 2), np.array([5, 0, -5, 0], np.int16).tobytes(), 0.5, 3),
        (TYPES.BOOL, (2,), b"\0\1", 0.5, 2),
        (TYPES.INT64, (), np.int64(3).tobytes(), 0.0, 1),
        (TYPES.FLOAT32, (2000,), np.arange(2000, dtype=np.float32).tobytes(), 1 / 2000, None),
        (TYPES.STRING, (1,), b"\1\0\0\0\x0c\0\0\0\x0d\0\0\0a", None, None),
    ],
)
def test_constants_of_every_type(
    kind: int, shape: tuple[int, ...], data: bytes, zeros: float | None, distinct: int | None
) -> None:
    found = next(each for each in describe_bytes(make_tflite(extra=[(kind, shape, data)])).weights if each.name == "extra0")
    assert found.zeros == (None if zeros is None else pytest.approx(zeros)) and found.distinct == distinct
    assert found.bytes == len(data) and found.shape == shape and found.kernel == (len(shape) > 1)


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_clusters_and_zeros_of_a_kernel_are_those_that_were_put_in(clusters: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    centres = generator.permutation(np.arange(1, 41))[:clusters].astype(np.float32)
    kernel = generator.choice(centres, (3, 400))
    kernel[generator.random(kernel.shape) < 0.7] = 0
    (found,) = describe_bytes(make_tflite(kernel=kernel)).weights
    assert found.distinct == found.clusters == len({*kernel.ravel().tolist()})
    assert found.zeros == pytest.approx(float((kernel == 0).mean()))


def test_above_the_limit_distinct_values_are_not_counted() -> None:
    values = np.arange(3 * MOST_CLUSTERS, dtype=np.float32).reshape(3, -1)
    assert describe_bytes(make_tflite(kernel=values % MOST_CLUSTERS)).weights[0].distinct == MOST_CLUSTERS
    assert describe_bytes(make_tflite(kernel=values)).weights[0].distinct is None


def test_sparse_constants_count_what_is_not_stored_as_zeros() -> None:
    model = unpack(make_tflite())
    model.buffers[1].data = np.frombuffer(np.array([1, 2, 0], np.float32).tobytes(), np.uint8)
    model.subgraphs[0].tensors[2].sparsity = schema.SparsityParametersT()
    (found,) = describe_bytes(pack(model)).weights
    assert found.sparse and found.zeros == pytest.approx(10 / 12) and found.bytes == 12


def test_custom_ops_have_their_own_names() -> None:
    model = unpack(make_tflite())
    model.operatorCodes[0] = schema.OperatorCodeT(builtinCode=32, deprecatedBuiltinCode=32, customCode=b"FlexAcos")
    assert describe_bytes(pack(model)).ops == {"FlexAcos": 1}


def test_data_that_nothing_uses_are_counted() -> None:
    model = unpack(PLAIN)
    model.buffers.append(schema.BufferT(data=np.zeros(100, np.uint8)))
    assert describe_bytes(pack(model)).buffers.unused_bytes == 100


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected a TFLite model, got an empty file"),
        (b"abc", "expected a TFLite model, got a file of 3 bytes"),
        (b"\x1c\0\0\0TFL2" + bytes(40), "got b'TFL2': a model of the old TFLite format"),
        (b"\x1c\0\0\0XXXX" + bytes(40), "got b'XXXX': not a TFLite file, or its start was overwritten"),
        (b"PK\x03\x04" + bytes(40), "got a zip archive, as Keras writes .keras"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "got an HDF5 file"),
        (b"\x1f\x8b" + bytes(40), "got gzipped: unpack it first"),
        (b"version https://git-lfs.github.com/spec/v1\n", "got a Git LFS pointer: run `git lfs pull`"),
        (PLAIN[:8], "its root table cannot be read: it leads outside of the file; the file of 8 bytes was cut short"),
        (PLAIN[:-300], "cannot be read: it leads outside of the file"),
        (b"\xff\xff\xff\x7f" + PLAIN[4:], "its root table cannot be read"),
    ],
)
def test_what_is_no_model_is_called_by_its_name(content: bytes, said: str) -> None:
    with pytest.raises(TFLiteFileError) as error:
        describe_bytes(content, "m.tflite")
    assert str(error.value).startswith("m.tflite: ") and said in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TFLiteFileError, match=r"none\.tflite: No such file"):
        describe(tmp_path / "none.tflite")


@pytest.mark.parametrize("content", [PLAIN, TOLD, make_tflite()], ids=["plain", "told", "float"])
def test_a_file_that_was_cut_short_is_never_taken_for_whole(content: bytes) -> None:
    for size in range(len(content)):
        with pytest.raises(TFLiteFileError):
            describe_bytes(content[:size])


def changed(change: Any) -> bytes:
    model = unpack(PLAIN)
    change(model)
    return pack(model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda model: setattr(model.buffers[1], "data", np.zeros(5, np.uint8)),
            "tensor 2 of subgraph 0 cannot be read: 'model/dense/MatMul' is int8 [3, 4], 12 bytes, its data have 5",
        ),
        (lambda model: setattr(model.subgraphs[0].tensors[0], "buffer", 9), "its data are in buffer 9, there are 3"),
        (lambda model: setattr(model.subgraphs[0].tensors[0], "type", 99), "it has the type 99"),
        (lambda model: setattr(model.subgraphs[0].tensors[0], "shape", [-5, 4]), "it has the shape [1, 4]"),
        (lambda model: setattr(model.subgraphs[0], "inputs", [7]), "it refers to tensor 7, there are 3"),
        (lambda model: setattr(model.subgraphs[0].operators[0], "inputs", [0, -2]), "it refers to tensor -2"),
        (lambda model: setattr(model.subgraphs[0].operators[0], "opcodeIndex", 4), "it is of operator code 4, there are 1"),
        (lambda model: setattr(model.operatorCodes[0], "builtinCode", 9999), "it is 9999, which no builtin op has"),
        (lambda model: setattr(model.signatureDefs[0], "subgraphIndex", 1), "it is of subgraph 1, there are 1"),
        (lambda model: setattr(model.signatureDefs[0].inputs[0], "tensorIndex", 5), "it names tensor 5 'x', there are 3"),
        (lambda model: setattr(model, "subgraphs", []), "the list of subgraphs cannot be read: it is empty"),
        (
            lambda model: setattr(model.subgraphs[0].tensors[0].quantization, "scale", np.array([np.nan], np.float32)),
            "or scales that are no numbers",
        ),
    ],
)
def test_what_leads_nowhere_is_named(change: Any, said: str) -> None:
    with pytest.raises(TFLiteFileError) as error:
        describe_bytes(changed(change))
    assert said in str(error.value)


def test_weights_that_changed_since_the_metadata_were_written_are_noticed() -> None:
    damaged = bytearray(TOLD)
    damaged[TOLD.index(bytes([1, 0, 0, 2, 0, 1, 0, 254]))] = 9
    with pytest.raises(TFLiteFileError, match="its SHA-256 differs"):
        describe_bytes(bytes(damaged), "m")


@given(st.data())
@settings(max_examples=400, deadline=1000)
def test_flipped_bytes_give_an_answer_or_one_clear_error(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([PLAIN, TOLD])))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    try:
        describe_bytes(bytes(content), "m")
    except TFLiteFileError as error:
        assert str(error).startswith("m: ")


def test_a_small_file_cannot_keep_its_reader_busy() -> None:
    """A thousand subgraphs that are all the same one, of a thousand tensors: a million tables."""

    def same(builder: Any, table: int) -> int:
        builder.StartVector(4, 1000, 4)
        for _ in range(1000):
            builder.PrependUOffsetTRelative(table)
        return int(builder.EndVector())

    builder = flatbuffers.Builder(1024)
    schema.TensorStart(builder)
    tensors = same(builder, schema.TensorEnd(builder))
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    subgraphs = same(builder, schema.SubGraphEnd(builder))
    schema.BufferStart(builder)
    buffer = schema.BufferEnd(builder)
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(buffer)
    buffers = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, subgraphs)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    started = time.monotonic()
    with pytest.raises(TFLiteFileError, match=r"every tensor of subgraph 1 .* it says that it has 1000 entries"):
        describe_bytes(bytes(builder.Output()))
    assert time.monotonic() - started < 2


def test_neither_tensorflow_nor_an_interpreter_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(TOLD)
    code = (
        "import sys; from pathlib import Path; from serving.tflite_describe import describe; "
        f"describe(Path({str(tmp_path / 'm.tflite')!r})); "
        "print([name for name in ('tensorflow', 'ai_edge_litert.interpreter') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
