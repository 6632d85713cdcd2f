"""SavedModels of every kind that TensorFlow and Keras write, described here and by TensorFlow itself."""

from __future__ import annotations

import re
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from serving.saved_model import SavedModelDescription, describe

pytestmark = pytest.mark.slow

MODELS = ("tf2", "tf2_plain", "keras2", "keras3", "tf1", "tf1_plain", "tf1_sharded", "tf1_text")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of MODELS."""
    root = tmp_path_factory.mktemp("exports")
    vocabulary = root / "vocabulary.txt"
    vocabulary.write_text("a\nb\n")
    export_modules(root, vocabulary)
    export_keras(root)
    export_graphs(root, vocabulary)
    export_sharded(root / "tf1_sharded")
    return root


def export_modules(root: Path, vocabulary: Path) -> None:
    import tensorflow as tf

    words = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, -2, tf.int64, -1)
    line = tf.Module(name="line")
    line.weight = tf.Variable(tf.ones([3, 4]), name="weight")
    line.odd = {"a/b.c": tf.Variable(tf.ones([2], tf.bfloat16), name="odd"), "text": tf.Variable(["x", "yy"], name="text")}
    line.table = tf.lookup.StaticHashTable(words, -1)
    line.counts = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    line.counts.insert("k", 1)
    line.serve = tf.function(
        lambda x: {"y": x @ line.weight, "n": tf.shape(x)[0]}, input_signature=[tf.TensorSpec([None, 3], name="x")]
    )
    line.look = tf.function(
        lambda word: {"id": line.table.lookup(word) + line.counts.lookup(word)},
        input_signature=[tf.TensorSpec(None, tf.string, name="word")],
    )
    tf.saved_model.save(line, str(root / "tf2"), {"serving_default": line.serve, "look": line.look})

    plain = tf.Module()
    plain.serve = tf.function(lambda x: {"y": tf.logical_not(x)}, input_signature=[tf.TensorSpec([], tf.bool, name="x")])
    tf.saved_model.save(plain, str(root / "tf2_plain"), plain.serve)


def export_keras(root: Path) -> None:
    import tensorflow as tf
    import tf_keras

    keras = import_module("keras")  # whatever TF_USE_LEGACY_KERAS makes of tf.keras

    for backend in (tf_keras.backend, keras.backend):
        backend.clear_session()  # layers are numbered through the process: names must not depend on the tests before
    trained = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,)), tf_keras.layers.BatchNormalization()])
    trained.compile("adam", "mse")
    trained.fit(tf.ones([4, 3]), tf.ones([4, 2]), verbose=0)
    tf.saved_model.save(trained, str(root / "keras2"))  # with its optimizer, unlike export()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()])
    model.export(str(root / "keras3"), verbose=False)


def export_graphs(root: Path, vocabulary: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    info = v1.saved_model.build_tensor_info
    for name in ("tf1", "tf1_text"):
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None, 3], name="x")
            sparse = v1.sparse_placeholder(tf.int64, [None, 5])
            ragged = v1.ragged.placeholder(tf.int32, 1, [])
            weight = v1.get_variable("w", [3, 2])
            parted = v1.get_variable("parted", [10, 4], partitioner=v1.fixed_size_partitioner(3), use_resource=False)
            y = x @ weight + tf.reduce_sum(tf.convert_to_tensor(parted))
            v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, tf.constant(str(vocabulary), name="file"))
            session.run(v1.global_variables_initializer())
            inputs = {"x": info(x), "sparse": info(sparse), "ragged": info(ragged)}
            signature = v1.saved_model.build_signature_def(inputs, {"y": info(y)}, "tensorflow/serving/predict")
            builder = v1.saved_model.Builder(str(root / name))
            assets = v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
            builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, assets)
            builder.add_meta_graph(["train"])
            builder.save(as_text=name == "tf1_text")
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.int32, [], name="x")
        v1.saved_model.simple_save(session, str(root / "tf1_plain"), {"x": x}, {"y": x + 1})


def session_of_two_devices() -> Any:
    import tensorflow as tf

    return tf.compat.v1.Session(config=tf.compat.v1.ConfigProto(device_count={"CPU": 2}))


def export_sharded(folder: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), session_of_two_devices() as session:
        with tf.device("/cpu:0"):
            first = v1.get_variable("first", [3, 2], use_resource=False)
        with tf.device("/cpu:1"):
            v1.get_variable("second", [5], tf.int64, v1.zeros_initializer(), use_resource=False)
        x = v1.placeholder(tf.float32, [3, 2])
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": x + first})
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, saver=v1.train.Saver(sharded=True)
        )
        builder.save()


def meta_graph(folder: Path) -> Any:
    """What saved_model_cli reads."""
    from tensorflow.python.tools import saved_model_utils

    return saved_model_utils.get_meta_graph_def(str(folder), "serve")


@pytest.mark.parametrize("name", MODELS)
def test_signatures_are_those_that_tensorflow_loads(exports: Path, name: str) -> None:
    import tensorflow as tf

    found = describe(exports / name)
    with tf.Graph().as_default(), session_of_two_devices() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(exports / name))
        assert found.nodes == len(meta.graph_def.node)
        signatures = {key: value for key, value in meta.signature_def.items() if key != "__saved_model_init_op"}
        assert list(found.signatures) == sorted(signatures)
        for key, signature in signatures.items():
            assert found.signatures[key].method == signature.method_name
            for specs, infos in (
                (found.signatures[key].inputs, signature.inputs),
                (found.signatures[key].outputs, signature.outputs),
            ):
                assert list(specs) == sorted(infos)
                for each, info in infos.items():
                    tensor = tf.compat.v1.saved_model.get_tensor_from_tensor_info(info)
                    # A SparseTensor put together again has forgotten its static shape.
                    static = tf.TensorShape(info.tensor_shape) if info.HasField("coo_sparse") else tensor.shape
                    shape = None if static.rank is None else tuple(static)
                    assert (specs[each].dtype, specs[each].shape) == (tensor.dtype.name, shape)
                    kind = re.sub("tensor(value)?$", "", type(tensor).__name__.lower()).replace("symbolic", "") or "dense"
                    assert (specs[each].kind, specs[each].tensor) == (kind, tensor.name if kind == "dense" else "")


@pytest.mark.parametrize("name", MODELS)
def test_variables_are_those_of_the_checkpoint(exports: Path, name: str) -> None:
    import tensorflow as tf

    found = describe(exports / name)
    prefix = exports / name / "variables" / "variables"
    if not prefix.with_suffix(".index").exists():
        assert (name, found.variables) == ("tf1_plain", [])
        return
    reader = tf.train.load_checkpoint(str(prefix))
    types = reader.get_variable_to_dtype_map()
    expected = [
        (key, tuple(shape)) for key, shape in tf.train.list_variables(str(prefix)) if key != "_CHECKPOINTABLE_OBJECT_GRAPH"
    ]
    assert [(each.key, each.shape) for each in found.variables] == expected
    for each in found.variables:
        assert each.dtype == types[each.key].name
        if each.dtype != "string":
            assert each.bytes == reader.get_tensor(each.key).nbytes


def names(found: SavedModelDescription) -> set[str]:
    return {variable.name for variable in found.variables if "VARIABLE_VALUE" in variable.key}


def test_variables_have_the_names_that_the_program_gave(exports: Path) -> None:
    import tensorflow as tf

    assert names(describe(exports / "tf2")) == {"weight", "odd", "text"}
    restored = tf.saved_model.load(str(exports / "keras2"))
    trained = {variable.name.removesuffix(":0") for variable in restored.variables}
    assert {"dense/kernel", "batch_normalization/moving_mean"} <= trained
    of_optimizer = {f"Adam/{moment}/{name}" for moment in "mv" for name in trained if "moving" not in name}
    assert names(describe(exports / "keras2")) == trained | of_optimizer | {"iteration", "learning_rate", "count", "total"}
    restored = tf.saved_model.load(str(exports / "keras3"))
    assert names(describe(exports / "keras3")) == {variable.name.removesuffix(":0") for variable in restored.variables}
    assert len(names(describe(exports / "keras3"))) == 6


def test_shards(exports: Path) -> None:
    found = describe(exports / "tf1_sharded")
    assert {file for file in found.files if "data" in file} == {f"variables/variables.data-0000{n}-of-00002" for n in range(2)}
    assert [(each.name, each.bytes) for each in found.variables] == [("first", 24), ("second", 40)]


@pytest.mark.parametrize("name", MODELS)
def test_ops_version_and_assets_are_those_of_the_graph(exports: Path, name: str) -> None:
    import tensorflow as tf

    found, meta = describe(exports / name), meta_graph(exports / name)
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(meta.graph_def, name="")
        definition = graph.as_graph_def()
    functions = definition.library.function
    counted = Counter(node.op for body in (definition.node, *(each.node_def for each in functions)) for node in body)
    assert found.ops == counted
    assert list(found.ops.values()) == sorted(counted.values(), reverse=True)
    assert found.functions == len(functions)
    assert (found.tensorflow_version, found.tensorflow_git_version) == (tf.__version__, tf.version.GIT_VERSION)
    declared = [("vocabulary.txt", 4)] if name in ("tf2", "tf1", "tf1_text") else []
    assert [(asset.filename, asset.bytes) for asset in found.assets] == declared
    assert all(graph.get_tensor_by_name(asset.tensor).dtype == tf.string for asset in found.assets)
    assert found.tag_sets == ([["serve"], ["train"]] if name in ("tf1", "tf1_text") else [["serve"]])
    assert found.format == ("tf1" if name.startswith("tf1") else "tf2")


@pytest.mark.parametrize("name", MODELS)
def test_fingerprint(exports: Path, name: str) -> None:
    import tensorflow as tf

    found = describe(exports / name).fingerprint
    if found is None:
        assert name.startswith("tf1")  # the builder of TensorFlow 1 writes none
        return
    expected = tf.saved_model.experimental.read_fingerprint(str(exports / name))
    hashes = {key: value for key, value in found.items() if key != "uuid"}
    assert hashes == {key: str(getattr(expected, key)) for key in hashes}
    assert len(hashes) == 5 and found["uuid"].isdecimal()


def test_every_dtype_has_tensorflows_name(tmp_path: Path) -> None:
    import tensorflow as tf
    from tensorflow.core.framework.types_pb2 import DataType
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    known = {}
    for number in DataType.values():
        try:
            known[str(number)] = tf.as_dtype(number).name
        except (KeyError, TypeError):  # DT_INVALID, and some that Python has no type for
            continue
    inputs = {number: {"name": "x", "dtype": int(number)} for number in known}
    meta = {"meta_info_def": {"tags": ["serve"]}, "signature_def": {"all": {"inputs": {**inputs, "new": {"dtype": 9999}}}}}
    message = SavedModel()
    message.meta_graphs.add(**meta)
    (tmp_path / "saved_model.pb").write_bytes(message.SerializeToString())
    found = {key: spec.dtype for key, spec in describe(tmp_path).signatures["all"].inputs.items()}
    assert found == {**known, "new": "dtype 9999"}
    assert len(known) > 40
