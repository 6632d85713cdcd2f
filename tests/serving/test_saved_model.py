"""What is said of a SavedModel, on a page and as JSON, and of one that is broken; that no damage ends in a traceback.

The models are two that TFX's wheel brings along, one of TensorFlow 1 and one of TensorFlow 2, or messages written here; models of
every kind, and what TensorFlow says of them, are in test_saved_model_exports.py.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from components.errors import TflineError
from pipelines.inspect_command import inspect_model, print_page
from serving.saved_model import SavedModelDescription, SavedModelError, TensorSpec, Variable, describe
from serving.tensor_bundle import BundleError, read_bundle
from serving.tensorflow_protos import tensorflow_protos

TFX = Path((find_spec("tfx") or pytest.fail("TFX is not installed")).submodule_search_locations[0])  # type: ignore[index]
TF1 = TFX / "components/testdata/pusher/model_push"
TF2 = TFX / "components/testdata/trainer/keras"
END = bytes(4) + b"\1\0\0\0"
"""What ends a table's block: one restart point, at its beginning."""
INDEX, DATA = "variables/variables.index", "variables/variables.data-00000-of-00001"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A SavedModel of TensorFlow 2 to break."""
    return Path(shutil.copytree(TF2 / "Format-Serving", tmp_path / "model"))


def problems(folder: Path) -> str:
    """What is said of a model that is broken."""
    with pytest.raises(SavedModelError) as error:
        describe(folder)
    assert str(error.value).startswith(str(folder)) or str(error.value).startswith(str(folder.parent))
    return str(error.value)


def rewrite(folder: Path, change: Callable[[Any], object]) -> None:
    """Changes the message of a model in its file."""
    path = folder / "saved_model.pb"
    message = tensorflow_protos().SavedModel.FromString(path.read_bytes())
    change(message)
    path.write_bytes(message.SerializeToString())


def small(folder: Path, **meta: Any) -> Path:
    """A SavedModel of one MetaGraph without variables, tagged "serve"."""
    folder.mkdir()
    message = tensorflow_protos().SavedModel()
    message.meta_graphs.add(**{"meta_info_def": {"tags": ["serve"], "tensorflow_version": "1.15.0"}, **meta})
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())
    return folder


def test_model_of_tensorflow_1() -> None:
    found = describe(TF1)
    assert (found.path, found.format) == (str(TF1 / "1584391735"), "tf1")
    assert (found.tensorflow_version, found.tags, found.fingerprint) == ("2.1.0", ["serve"], None)
    regression = found.signatures["regression"]
    assert regression.method == "tensorflow/serving/regress"
    assert regression.outputs["outputs"] == TensorSpec("float32", (None, 1), "dense", regression.outputs["outputs"].tensor)
    assert Variable("dnn/logits/kernel", "dnn/logits/kernel", "float32", (34, 1), 136) in found.variables
    assert {asset.filename: asset.bytes for asset in found.assets} == {
        "vocab_compute_and_apply_vocabulary_vocabulary": 49,
        "vocab_compute_and_apply_vocabulary_1_vocabulary": 1323,
    }
    assert found.ops["Const"] == 722 and sum(found.ops.values()) > found.nodes == 1904


def test_model_of_tensorflow_2_in_a_tfx_artifact() -> None:
    found = describe(TF2)
    assert (found.path, found.format, list(found.signatures)) == (str(TF2 / "Format-Serving"), "tf2", ["serving_default"])
    names = {variable.name: variable for variable in found.variables}
    key = "layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    assert names["dense/kernel"] == Variable("dense/kernel", key, "float32", (4, 8), 128)
    assert ".OPTIMIZER_SLOT" in names["Adam/dense/kernel/m"].key
    assert found.sizes["total"] == sum(found.files.values()) == sum(found.sizes.values()) - found.sizes["total"]


def test_newest_version_of_a_store(tmp_path: Path, model: Path) -> None:
    store = tmp_path / "store"
    for number in (9, 10):
        shutil.copytree(model, store / str(number))
    (store / ".staging-1-00000000").mkdir()
    assert describe(store).path == str(store / "10")
    assert describe(store / "9").path == str(store / "9")
    shutil.rmtree(store / "10" / "variables")
    assert f"{store}/10" in problems(store / "10")


def test_linked_variables(model: Path, tmp_path: Path) -> None:
    expected = describe(model)
    (model / "variables").rename(tmp_path / "elsewhere")
    (model / "variables").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    assert describe(model) == expected


def test_text_form(model: Path) -> None:
    from google.protobuf import text_format

    expected = describe(model)
    path = model / "saved_model.pb"
    text = text_format.MessageToString(tensorflow_protos().SavedModel.FromString(path.read_bytes()))
    path.unlink()
    (model / "saved_model.pbtxt").write_text(text)
    found = asdict(describe(model))
    assert {**found, "sizes": 0, "files": 0} == {**asdict(expected), "sizes": 0, "files": 0}
    (model / "saved_model.pbtxt").write_text(text[: len(text) // 2])
    assert "saved_model.pbtxt was cut short or is damaged: " in problems(model)


def test_assets_of_the_collection_alone(tmp_path: Path) -> None:
    asset = tensorflow_protos().AssetFileDef(filename="words.txt", tensor_info={"name": "file:0"})
    folder = small(tmp_path / "model")

    def declare(message: Any) -> None:
        message.meta_graphs[0].collection_def["saved_model_assets"].any_list.value.add().Pack(asset)

    rewrite(folder, declare)
    assert "assets/words.txt is missing; the graph reads it (file:0)" in problems(folder)
    (folder / "assets").mkdir()
    (folder / "assets" / "words.txt").write_text("12345")
    assert [(each.filename, each.bytes, each.tensor) for each in describe(folder).assets] == [("words.txt", 5, "file:0")]


def test_other_tags(tmp_path: Path) -> None:
    folder = small(tmp_path / "model", meta_info_def={"tags": ["train", "gpu"]})
    assert "expected a MetaGraph tagged [serve] in saved_model.pb, found [gpu, train]" in problems(folder)
    assert describe(folder, ["train", "gpu"]).tags == ["gpu", "train"]


def found_instead(folder: Path, *names: str, content: bytes = b"x") -> str:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(content)
    return problems(folder)


def test_what_is_there_instead(tmp_path: Path) -> None:
    assert "found nothing" in problems(tmp_path / "none")
    assert "found an empty folder" in found_instead(tmp_path / "a")
    assert "model.keras (a Keras model; export it" in found_instead(tmp_path / "b", "model.keras")
    assert "weights (a Keras HDF5 file" in found_instead(tmp_path / "c", "weights", content=b"\x89HDF\r\n\x1a\n")
    assert "model.bin (a TFLite model" in found_instead(tmp_path / "d", "model.bin", content=b"\x1c\0\0\0TFL3")
    said = found_instead(tmp_path / "e", "checkpoint", "ckpt-1.index", "ckpt-1.data-00000-of-00001")
    assert "checkpoint (the record of a checkpoint" in said and "ckpt-1.index (the index of a checkpoint" in said
    assert "frozen.pb (a protocol buffer, perhaps a frozen graph" in found_instead(tmp_path / "f", "frozen.pb")
    assert "saved_model.cpb, the form for graphs above 2 GB" in found_instead(tmp_path / "g", "saved_model.cpb")
    assert "found only notes.md" in found_instead(tmp_path / "h", "notes.md")
    assert "found a file, a Keras model" in problems(tmp_path / "b" / "model.keras")
    small(tmp_path / "i")
    assert "found SavedModels further down: i; name one of them" in problems(tmp_path)
    assert "found a file, which belongs to a SavedModel; name the folder" in problems(tmp_path / "i" / "saved_model.pb")


def test_what_is_missing_or_short(model: Path) -> None:
    data = (model / DATA).read_bytes()
    (model / DATA).write_bytes(data[:-100])
    assert f"{DATA} was cut short: it has {len(data) - 100} bytes, the index needs {len(data)}" in problems(model)
    (model / DATA).rename(model / "variables/variables.data-00000-of-00002")
    assert f"{DATA} is missing; there is variables/variables.data-00000-of-00002" in problems(model)
    (model / INDEX).unlink()
    assert f"{INDEX} is missing; the graph restores 28 tensors from it" in problems(model)
    shutil.rmtree(model / "variables")
    assert f"{INDEX} is missing, with all its folder; the graph restores 28 tensors from it" in problems(model)
    (model / "saved_model.pb").write_bytes(b"")
    assert "found no MetaGraph at all: the file was cut short" in problems(model)


def test_every_problem_is_told(model: Path) -> None:
    rewrite(model, lambda message: message.meta_graphs[0].asset_file_def.add(filename="../../words.txt"))
    (model / DATA).unlink()
    (model / "fingerprint.pb").write_bytes(b"\x0a")
    with pytest.raises(SavedModelError) as error:
        describe(model)
    assert [said.split(" ")[0] for said in error.value.problems] == [DATA, "assets/../../words.txt", "fingerprint.pb"]
    assert str(error.value).count("\n  - ") == 3
    asset = tensorflow_protos().AssetFileDef(filename="x", tensor_info={"name": "x:0"})
    rewrite(model, lambda message: message.meta_graphs[0].asset_file_def.extend([asset] * 20))
    assert problems(model).endswith("(x:0)\n  and 13 more")


def test_index_of_another_model(model: Path) -> None:
    shutil.copy(TF1 / "1584391735" / INDEX, model / INDEX)
    key = "keras_api/metrics/0/count/.ATTRIBUTES/VARIABLE_VALUE"
    said = f"variables.index belongs to another model: the graph restores '{key}' and 27 more, which it does not have"
    assert said in problems(model)


def test_variable_of_another_shape(model: Path) -> None:
    def change(message: Any) -> None:
        nodes = message.meta_graphs[0].object_graph_def.nodes
        node = next(node for node in nodes if node.variable.name == "dense/kernel")
        node.variable.shape.dim[0].size = 5

    rewrite(model, change)
    key = "layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    assert f"belongs to another model: '{key}' is float32 [4, 8], the graph has float32 [5, 8]" in problems(model)


def table(block: bytes, kind: int = 0) -> bytes:
    """A table file with one data block, whatever is in it, of a compression type."""

    def stored(content: bytes, kind: int) -> bytes:
        crc: int = google_crc32c.value(content + bytes([kind]))
        masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        return content + bytes([kind]) + masked.to_bytes(4, "little")

    handle = bytes([0, len(block)])
    index = bytes([0, 1, len(handle)]) + b"z" + handle + END
    blocks = stored(block, kind) + stored(END, 0)  # the second is the meta-index
    footer = bytes([len(block) + 5, len(END), len(blocks), len(index)]).ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(
        8, "little"
    )
    return blocks + stored(index, 0) + footer


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it has 0 bytes, fewer than the 48"),
        (b"x" * 100, "expected the magic number 0xdb4775248b80fb57 at its end, found 0x7878787878787878"),
        (table(END, kind=1), "the block at byte 0 is compressed (snappy)"),
        (b"\1" + table(END)[1:], "the block at byte 0 fails its checksum: 0x"),
        (table(END)[-48:], "a block should end at byte 26, the file's footer begins at 0"),
        (table(b"\0\0\0\1"), "too short for its 16777216 restart points"),
        (table(b"\0\x7f\0" + END), "an entry of the block at byte 0 reaches beyond its end"),
        (table(b"\x01\0\0" + END), "an entry of the block at byte 0 reaches beyond its end"),
        (table(b"\0\1\0k" + END), "it has no header entry"),
        (table(b"\0\0\0\0\1\0k" + END), "the entry b'k' lies in no data file (file 0 of 0)"),
    ],
)
def test_index_that_cannot_be_read(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "variables.index").write_bytes(content)
    with pytest.raises(BundleError, match=r"^variables\.index is damaged: ") as error:
        read_bundle(tmp_path / "variables.index")
    assert said in str(error.value)


def test_a_graph_that_no_protobuf_can_hold_is_not_read(tmp_path: Path) -> None:
    folder = small(tmp_path / "model")
    with (folder / "saved_model.pb").open("r+b") as graph:
        graph.truncate(3 << 30)  # on disk it is a hole
    with pytest.raises(SavedModelError, match="has 3221225472 bytes, more than the 2147483647 that a protobuf can have"):
        describe(folder)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose files are damaged and put right again, example by example."""
    return Path(shutil.copytree(TF2 / "Format-Serving", tmp_path_factory.mktemp("spoilt") / "model"))


def judged(folder: Path, file: str, damaged: bytes) -> SavedModelDescription | str:
    """What is said with one file damaged; any other error than the module's own fails the test."""
    whole = (folder / file).read_bytes()
    try:
        (folder / file).write_bytes(damaged)
        return describe(folder)
    except SavedModelError as error:
        return str(error)
    finally:
        (folder / file).write_bytes(whole)


@given(data=st.data(), file=st.sampled_from([INDEX, DATA, "saved_model.pb"]))
@settings(max_examples=60, deadline=None)
def test_any_truncation_is_told(spoilt: Path, data: st.DataObject, file: str) -> None:
    content = (spoilt / file).read_bytes()
    said = judged(spoilt, file, content[: data.draw(st.integers(0, len(content) - 1))])
    assert isinstance(said, str) and file in said


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_flipped_bytes_of_an_index(spoilt: Path, data: st.DataObject) -> None:
    content, whole = bytearray((spoilt / INDEX).read_bytes()), describe(spoilt)
    footer = len(content) - 48
    at = data.draw(st.one_of(st.integers(0, footer - 1), st.integers(footer, len(content) - 1)))
    content[at] ^= data.draw(st.integers(1, 255))
    said = judged(spoilt, INDEX, bytes(content))
    # The footer has no checksum, and most of it is padding that nobody reads.
    assert (isinstance(said, str) and INDEX in said) or (at >= footer and said == whole)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_flipped_bytes_of_the_graph(spoilt: Path, data: st.DataObject) -> None:
    content = bytearray((spoilt / "saved_model.pb").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    said = judged(spoilt, "saved_model.pb", bytes(content))
    if isinstance(said, SavedModelDescription):  # then what it says can be shown
        json.dumps(asdict(said)).encode()
        page = io.StringIO()
        print_page(said, Console(file=page, width=80))
        assert page.getvalue()


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_flipped_signs_of_the_text_form(spoilt_text: Path, data: st.DataObject) -> None:
    content = bytearray((spoilt_text / "saved_model.pbtxt").read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert judged(spoilt_text, "saved_model.pbtxt", bytes(content))


@pytest.fixture(scope="module")
def spoilt_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from google.protobuf import text_format

    folder = small(tmp_path_factory.mktemp("text") / "model", graph_def={"node": [{"name": "x", "op": "NoOp"}]})
    message = tensorflow_protos().SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    (folder / "saved_model.pb").unlink()
    (folder / "saved_model.pbtxt").write_text(text_format.MessageToString(message))
    return folder


def shown(description: SavedModelDescription) -> str:
    paper = io.StringIO()
    print_page(description, Console(file=paper, width=80, markup=False, highlight=False, emoji=False))
    return paper.getvalue()


def test_page() -> None:
    page = shown(describe(TF2))
    first, *lines = page.splitlines()
    assert first == str(TF2 / "Format-Serving")  # in one line, for copying
    assert max(map(len, lines)) <= 80
    assert "TensorFlow 2.3.1 (v2.3.0-54-gfcc4b966f1), object graph (TF2)" in lines
    assert "    in   examples  string   [?]" in map(str.rstrip, lines)
    assert "Variables  27 with 426 values, 1.7 kB" in lines
    squeezed = [line.split() for line in lines]
    assert ["dense/kernel", "float32", "[4,", "8]", "128", "bytes"] in squeezed
    assert ["count", "(keras_api/metrics/1/count)", "float32", "[]", "4", "bytes"] in squeezed
    assert ["81", "Identity", "6", "Softmax"] in squeezed
    assert "Assets  none" in lines and "Fingerprint  none, as before TensorFlow 2.12" in lines


def test_page_of_a_model_with_names_that_steer_terminals(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07[bold]:smile:"
    signature = {evil: {"inputs": {evil: {"name": "x", "tensor_shape": {"unknown_rank": True}}}, "method_name": evil}}
    folder = small(tmp_path / "model", graph_def={"node": [{"name": "x", "op": evil}]}, signature_def=signature)
    page = shown(describe(folder))
    assert "\x1b" not in page and "\x07" not in page
    assert "  \\x1b]0;owned\\x07[bold]:smile:  \\x1b]0;owned\\x07[bold]:smile:" in page
    assert "unknown rank" in page


def test_page_of_many_variables(model: Path) -> None:
    whole = describe(model)
    many = [Variable(f"v{size}", f"v{size}", "float32", (size,), 4 * size) for size in range(100)]
    page = shown(SavedModelDescription(**{**vars(whole), "variables": many}))
    assert "v99 " in page and "v60 " in page and "v59 " not in page
    assert "and 60 smaller ones, which --json has" in page


def test_json() -> None:
    with redirect_stdout(io.StringIO()) as stdout:
        inspect_model(TF2, as_json=True)
    found = json.loads(stdout.getvalue())
    assert found == json.loads(json.dumps(asdict(describe(TF2))))
    assert found["signatures"]["serving_default"]["outputs"]["output_0"]["shape"] == [None, 3]
    assert found["variables"][4]["bytes"] == 32


@pytest.mark.parametrize("as_json", [True, False])
def test_a_broken_model_prints_nothing(model: Path, as_json: bool) -> None:
    (model / DATA).unlink()
    with redirect_stdout(io.StringIO()) as stdout, pytest.raises(TflineError, match=f"{DATA} is missing") as error:
        inspect_model(model, as_json=as_json)
    assert (stdout.getvalue(), error.value.exit_code) == ("", 1)


def in_a_process(code: str, *arguments: Path | str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_tensorflow_and_at_once() -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from pipelines.inspect_command import inspect_model
        inspect_model(Path(sys.argv[1]))
        heavy = {"tensorflow", "tfx", "mlflow", "apache_beam", "numpy"}
        print(sorted({name.partition(".")[0] for name in sys.modules} & heavy))
    """
    took = []
    for _ in range(3):
        began = time.perf_counter()
        assert in_a_process(code, TF1).splitlines()[-1] == "[]"
        took.append(time.perf_counter() - began)
    assert min(took) < 0.6


@pytest.mark.slow
def test_tensorflow_is_whole_when_imported_later() -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from serving.saved_model import describe
        from serving.tensorflow_protos import tensorflow_protos
        before = describe(Path(sys.argv[1]))
        import tensorflow as tf
        from tensorflow.core.protobuf import saved_model_pb2
        assert saved_model_pb2.SavedModel is tensorflow_protos().SavedModel
        assert len(tf.saved_model.load(sys.argv[1]).signatures) == len(before.signatures)
        assert describe(Path(sys.argv[1])) == before
        print("whole", tf.core.protobuf.saved_model_pb2 is saved_model_pb2 if hasattr(tf, "core") else True)
    """
    assert in_a_process(code, TF2 / "Format-Serving") == "whole True\n"
