"""A transform that TFLite cannot hold, beside the .tflite: found out, taken apart, shipped, and applied by a host."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from components import isolate, optimize, push
from components.errors import TflineError
from components.layout import HOST_DIR
from components.model import UserModel
from components.variants import host_transform, source
from components.variants.config import Config, FineTune, Gates, Variant
from components.variants.page import render
from components.variants.report import Report
from serving.request_files import InputError
from serving.store import tree_digest
from serving.tflite_answers import answer_file
from serving.tflite_call import TFLiteModel
from serving.tflite_file import TFLiteFileError
from serving.tflite_metadata import TFLiteMetadata, read_metadata
from tests.components.tiny_net import Tiny, call_here
from tests.conftest import ROOT
from tests.serving.test_tflite_docs import HOST, block

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_this_process")]

CONFIG = Config(
    label="label",
    labels=("none", "one", "both"),
    variants=("float32", "dynamic", "int8", Variant(kind="pruned", sparsity=0.5)),
    fine_tune=FineTune(epochs=1, batch_size=64),
    gates=Gates(max_accuracy_drop=0.1),
    slices=(("group",),),
    select="most_accurate",
    latency_calls=5,
)


class Shipped(NamedTuple):
    report: Report
    tflite: Path
    folder: Path

    @property
    def about(self) -> TFLiteMetadata:
        found = read_metadata(self.tflite.read_bytes())
        assert found is not None
        return found


@pytest.fixture(scope="module")
def inputs(exported: Mapping[str, Path], raw: Path, model_run: Path, transformed: Mapping[str, Path]) -> Mapping[str, Path]:
    return {"model": exported["model"], "examples": raw, "model_run": model_run, **transformed}


@pytest.fixture(scope="module")
def shipped(
    inputs: Mapping[str, Path], user_model: Callable[..., UserModel], tmp_path_factory: pytest.TempPathFactory
) -> Shipped:
    """The stage on a model with a vocabulary and a feature of no fixed length."""
    home = tmp_path_factory.mktemp("shipped")
    outputs = {"tflite": home / "tflite", "report": home / "report"}
    for folder in outputs.values():
        folder.mkdir()
    optimize.run(inputs, outputs, CONFIG, user_model())
    report = Report.model_validate_json((outputs["report"] / "report.json").read_text(encoding="utf-8"))
    return Shipped(report, outputs["tflite"] / "model.tflite", home)


def asked(model: Path, rows: Any, **options: Any) -> tuple[Any, tuple[str, ...]]:
    """What `tfline tflite run` answers to rows of JSON, and what it says beside."""
    given = io.BytesIO(json.dumps(rows).encode())
    found = answer_file(model, None, given, **{"signature": None, "output": "json", **options})
    return json.loads(found.text)["predictions"], found.notes


def examples(folder: Path) -> list[dict[str, dict[str, Any]]]:
    found: list[dict[str, dict[str, Any]]] = json.loads((folder / HOST_DIR / "examples.json").read_text(encoding="utf-8"))
    return found


def float_answers(exported: Mapping[str, Path], **rows: Any) -> Any:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(exported["model"] / "Format-Serving"))
    given = {name: tf.constant(value) for name, value in rows.items()}
    return loaded.signatures["dense"](**given)["label_chances"].numpy()


def why_not_inside(inputs: Mapping[str, Path], user_model: UserModel, label: str) -> str:
    return host_transform.why_not_inside(
        user_model=user_model.model_dump(),
        transform_graph=str(inputs["transform_graph"]),
        label=label,
        examples=str(inputs["examples"]),
        split="eval",
        batch=1,
    )


def test_the_file_says_what_it_takes_and_what_has_to_come_before(shipped: Shipped) -> None:
    about = shipped.about
    assert about.features == shipped.report.features == "transformed"
    assert {info.name: info.dtype for info in about.inputs} == {"group": "int64", "tags": "float32", "x": "float32"}
    assert about.transform is not None
    assert about.transform.host == HOST_DIR
    assert about.transform.version == about.transform.digest[:12]
    assert about.transform.host_digest == tree_digest(shipped.tflite.parent / HOST_DIR)
    raw = {info.name: (info.dtype, info.shape) for info in about.transform.raw_inputs}
    assert raw == {"group": ("string", (-1, 1)), "tags": ("int64", (-1, -1)), "x": ("float32", (-1, 4))}
    assert about.transform.reason == shipped.report.why_transformed
    assert about.transform.reason is not None and about.transform.reason.startswith("tags of no fixed length")
    assert "takes transformed features" in render(shipped.report)
    assert optimize.summarise({"report": [str(shipped.folder / "report")]}).params["features"] == "transformed"


def test_every_variant_has_the_transform_beside_it_and_nothing_is_left_half_written(shipped: Shipped) -> None:
    variants = shipped.folder / "report" / "variants"
    names = {f"{row.name}.tflite" for row in shipped.report.rows}
    assert len(names) == 4 and all(row.made for row in shipped.report.rows), shipped.report.rows
    assert {path.name for path in variants.iterdir()} == names | {HOST_DIR}
    assert {path.name for path in shipped.tflite.parent.iterdir()} == {"model.tflite", HOST_DIR}
    assert tree_digest(variants / HOST_DIR) == tree_digest(shipped.tflite.parent / HOST_DIR)


def test_host_and_file_answer_together_what_the_float_model_answers(shipped: Shipped, exported: Mapping[str, Path]) -> None:
    variant = shipped.folder / "report" / "variants" / "float32.tflite"
    rows: list[dict[str, Any]] = [
        {"x": [1.0, 5.0, 2.0, 7.5], "group": "green", "tags": [2, 1]},
        {"x": [7.0, 6.0, 0.0, 0.0], "group": "red", "tags": 0},
        {"x": [0.5, 0.5, 8.0, 3.0], "group": "blue", "tags": None},
    ]
    missing = np.iinfo(np.int64).min
    wanted = float_answers(
        exported,
        x=np.array([row["x"] for row in rows], np.float32),
        group=np.array([[row["group"]] for row in rows]),
        tags=np.array([[2, 1], [0, missing], [missing, missing]]),
    )
    answers, notes = asked(variant, rows)
    np.testing.assert_allclose([row["label_chances"] for row in answers], wanted, atol=1e-5)
    assert [row["label_chances_label"] for row in answers] == [("none", "one", "both")[best] for best in wanted.argmax(axis=1)]
    assert notes == ("signature dense", "raw features, through host_transform from beside the file (TensorFlow)")
    # Beside the one with float weights: what the report says of each was measured behind the same transform.
    assert all(row.made and row.made.measured.comparison.accuracy_float > 0.6 for row in shipped.report.rows)
    plain = shipped.report.row("float32").made
    assert plain is not None
    assert plain.measured.comparison.accuracy_drop == 0
    assert plain.measured.comparison.max_difference < 1e-5
    assert {row[0] for row in plain.measured.comparison.slices.rows} == {"group:red", "group:green", "group:blue"}


def test_the_examples_hold_what_a_port_of_the_transform_has_to_give(shipped: Shipped, exported: Mapping[str, Path]) -> None:
    found = examples(shipped.tflite.parent)
    assert len(found) == 5
    raw, ready, outputs = ([row[kind] for row in found] for kind in ("raw", "transformed", "outputs"))
    variant = shipped.folder / "report" / "variants" / "float32.tflite"
    wanted = [row["label_chances"] for row in outputs]
    np.testing.assert_allclose([row["label_chances"] for row in asked(variant, raw, signature="raw")[0]], wanted, atol=1e-5)
    np.testing.assert_allclose([row["label_chances"] for row in asked(variant, ready, signature="dense")[0]], wanted, atol=1e-5)
    tags = [[tag for tag in row["tags"] if tag > np.iinfo(np.int64).min] for row in raw]
    assert [row["tags"] for row in ready] == [[len(each), sum(each)] for each in tags]
    alike = float_answers(
        exported,
        x=np.array([row["x"] for row in raw], np.float32),
        group=np.array([row["group"] for row in raw]),
        tags=np.array([row["tags"] for row in raw]),
    )
    np.testing.assert_allclose(wanted, alike, atol=1e-5)


def test_the_program_of_the_docs_applies_it_and_would_notice_a_wrong_port(shipped: Shipped, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(block("python", HOST), encoding="utf-8")
    shutil.copytree(shipped.tflite.parent / HOST_DIR, tmp_path / HOST_DIR)

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    assert [ast.literal_eval(line)["tags"] for line in done.stdout.splitlines()] == [
        row["transformed"]["tags"] for row in examples(tmp_path)
    ]
    file = tmp_path / HOST_DIR / "examples.json"
    rows = examples(tmp_path)
    rows[0]["transformed"]["x"][0] += 0.01
    file.write_text(json.dumps(rows), encoding="utf-8")
    wrong = run()
    assert wrong.returncode == 1 and "Not equal to tolerance" in wrong.stderr


def test_another_transform_beside_the_file_is_noticed_and_none_is_said(shipped: Shipped, tmp_path: Path) -> None:
    row = {"x": [1.0, 2.0, 3.0, 4.0], "group": "red", "tags": [1]}
    model = tmp_path / "model.tflite"
    shutil.copy(shipped.tflite, model)
    with pytest.raises(InputError, match=r"(?s)got x.*host_transform from beside the file comes first, which makes them of"):
        asked(model, [{**row, "weather": 1}])
    with pytest.raises(TFLiteFileError, match=r"expected it in .*host_transform, got no such folder; copy it from"):
        asked(model, [row], signature="raw")
    shutil.copytree(shipped.tflite.parent / HOST_DIR, tmp_path / HOST_DIR)
    (tmp_path / HOST_DIR / "examples.json").write_text("[]", encoding="utf-8")
    with pytest.raises(TFLiteFileError, match=r"not the transform that .*model.tflite was made with.*from the same version"):
        asked(model, [row], signature="raw")


def test_a_transform_that_cannot_be_loaded_or_fails_is_an_error_in_a_line(shipped: Shipped, tmp_path: Path) -> None:
    from serving.tflite_host import HostTransform

    (tmp_path / "empty").mkdir()
    with pytest.raises(TFLiteFileError, match=r"empty: no transform that TensorFlow can load: "):
        HostTransform(tmp_path / "empty")
    host = HostTransform(shipped.tflite.parent / HOST_DIR)
    with pytest.raises(InputError, match=r"the transform fails on these rows: "):
        host({"x": np.zeros((2, 3), np.float32), "group": np.array([["red"]] * 2), "tags": np.zeros((2, 1), np.int64)})


def test_the_stage_run_again_into_the_same_folders_gives_the_same_bytes(
    inputs: Mapping[str, Path], user_model: Callable[..., UserModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill and --resume: the folder is there already, and so is what an unfinished copy left."""

    def run(function: str, arguments: dict[str, Any], **options: Any) -> Any:
        # TensorFlow numbers the functions of a process; the stage's are made in processes of their own.
        saves = function in (source.TAKE_APART, source.PREPARE)
        return isolate.run_isolated(function, arguments, timeout_seconds=120) if saves else call_here(function, arguments)

    monkeypatch.setattr(source, "run_isolated", run)
    config = CONFIG.model_copy(update={"variants": ("float32",)})
    (tmp_path / f".{HOST_DIR}.1234").mkdir()
    first = optimize.optimize(inputs, tmp_path / "model.tflite", tmp_path, config, user_model())
    digest = tree_digest(tmp_path / HOST_DIR)
    again = optimize.optimize(inputs, tmp_path / "model.tflite", tmp_path, config, user_model())
    assert (again.best.sha256, tree_digest(tmp_path / HOST_DIR)) == (first.best.sha256, digest)
    assert {path.name for path in tmp_path.iterdir()} == {"model.tflite", "variants", HOST_DIR}


def test_two_outputs_and_an_open_batch(
    inputs: Mapping[str, Path],
    transformed: Mapping[str, Path],
    raw: Path,
    model_run: Path,
    user_model: Callable[..., UserModel],
    tmp_path: Path,
) -> None:
    from components.export import Config as ExportConfig
    from components.export import export
    from components.train import Config as TrainConfig
    from components.train import train

    for name in ("run", "model", "golden"):
        (tmp_path / name).mkdir()
    user = user_model(form="dict")
    train(transformed["transformed_examples"], transformed["transform_graph"], tmp_path / "run",
          TrainConfig(epochs=8, early_stopping=None), user)  # fmt: skip
    export(tmp_path / "run", transformed["transform_graph"], raw, tmp_path / "model", tmp_path / "golden", ExportConfig(), user)
    config = Config(label="label", output="label_chances", batch="any", variants=("float32", "int8_io"), latency_calls=5)
    config = config.model_copy(update={"gates": Gates(max_accuracy_drop=0.2)})
    given = {**inputs, "model": tmp_path / "model", "model_run": tmp_path / "run"}
    report = optimize.optimize(given, tmp_path / "model.tflite", tmp_path, config, user)
    made = report.row("float32").made
    assert made is not None, report.row("float32").reason
    assert {edge.name: edge.shape[0] for edge in made.measured.inputs} == {"group": -1, "tags": -1, "x": -1}
    assert {edge.name for edge in made.measured.outputs} == {"label_chances", "rest"}
    assert made.measured.comparison.max_difference < 1e-5
    integer = report.row("int8_io").made
    assert integer is not None, report.row("int8_io").reason
    assert {edge.name: edge.dtype for edge in integer.measured.inputs} == {"group": "int64", "tags": "int8", "x": "int8"}


@pytest.mark.parametrize("command", [["run", "--signature", "raw"], ["benchmark", "--calls", "2", "--seconds", "0"]])
def test_the_commands_take_rows_of_raw_features(shipped: Shipped, tmp_path: Path, command: list[str]) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text('x,group,tags,more\n"[1, 5, 2, 7]",red,2,a\n"[7, 6, 0, 0]",blue,,b\n', encoding="utf-8")
    asked = [command[0], str(shipped.tflite.parent), "--input", str(rows), *command[1:]]
    done = subprocess.run(
        [sys.executable, "-c", "from pipelines.cli import main; main()", "tflite", *asked],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    if command[0] == "run":
        assert len(json.loads(done.stdout)["predictions"]) == 2
        assert "not inputs of host_transform, left out: more" in done.stderr
    else:
        assert "rows of the file" in done.stdout


def test_a_push_takes_the_transform_along(shipped: Shipped, tmp_path: Path) -> None:
    made = push._stamped(shipped.tflite.parent, 7, tmp_path / "made")
    assert {path.name for path in made.iterdir()} == {"model.tflite", HOST_DIR}
    about = read_metadata((made / "model.tflite").read_bytes())
    assert about is not None
    assert (about.model_version, about.transform) == ("7", shipped.about.transform)
    assert asked(made / "model.tflite", [row["raw"] for row in examples(made)], signature="raw")[0]


def test_a_transform_that_tflite_can_hold_goes_inside_unless_told_otherwise(tiny: Tiny, tmp_path: Path) -> None:
    assert why_not_inside(tiny.inputs, tiny.user_model(), "digit") == ""
    config = Config(
        label="digit", variants=("int8_io",), features="transformed", gates=Gates(max_accuracy_drop=0.05), latency_calls=5
    )
    report = optimize.optimize(tiny.inputs, tmp_path / "model.tflite", tmp_path, config, tiny.user_model())
    assert report.features == "transformed"
    model = TFLiteModel((tmp_path / "model.tflite").read_bytes())
    pixels = tiny.images[-20:]
    given = model({"image": pixels / 16})["probabilities"]
    assert (given.argmax(axis=1) == tiny.answer(pixels).argmax(axis=1)).mean() >= 0.9
    assert model.metadata is not None and model.metadata.transform is not None
    assert model.metadata.transform.reason == "optimize.features is transformed"


def test_a_transform_whose_ops_tflite_computes_differently_stays_outside(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_transform, "_run", lambda _content, raw: {"image": raw["image"].numpy() / 16 + 0.01})
    said = why_not_inside(tiny.inputs, tiny.user_model(), "digit")
    assert said == "TFLite computes something else for image"


def test_a_converter_that_crashes_on_the_transform_is_a_reason(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(function: str, arguments: dict[str, Any], **options: Any) -> Any:
        if function == source.WHY_NOT_INSIDE:
            return isolate.run_isolated("tests.components.variants.test_host_transform:crash", {}, timeout_seconds=60)
        return call_here(function, arguments, **options)

    monkeypatch.setattr(source, "run_isolated", run)
    config = Config(label="digit", variants=("dynamic",), gates=Gates(max_accuracy_drop=0.05), latency_calls=5)
    report = optimize.optimize(tiny.inputs, tmp_path / "model.tflite", tmp_path, config, tiny.user_model())
    assert report.features == "transformed"
    assert report.why_transformed.startswith("converting it fails: ") and "SIGABRT" in report.why_transformed


def test_a_time_limit_does_not_decide_where_the_transform_goes(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(function: str, arguments: dict[str, Any], **options: Any) -> Any:
        assert function == source.WHY_NOT_INSIDE
        return isolate.run_isolated("time:sleep", {}, timeout_seconds=0.01)

    monkeypatch.setattr(source, "run_isolated", run)
    with pytest.raises(TflineError, match=r"finding out whether TFLite can hold the transform failed: .* and was stopped"):
        optimize.optimize(tiny.inputs, tmp_path / "m.tflite", tmp_path, Config(label="digit"), tiny.user_model())


def crash() -> None:
    """A converter that ends its process."""
    os.abort()


def test_a_model_that_trained_itself_is_not_taken_apart(tiny: Tiny, tmp_path: Path) -> None:
    config = Config(label="digit", variants=("dynamic",), features="transformed")
    alone = {key: tiny.inputs[key] for key in ("model", "examples")}
    with pytest.raises(TflineError, match=r"optimize.features is transformed, but there is no model_run and no transform_graph"):
        optimize.optimize(alone, tmp_path / "model.tflite", tmp_path, config, tiny.user_model())
    auto = config.model_copy(update={"features": "auto", "gates": Gates(max_accuracy_drop=0.05)})
    assert optimize.optimize(alone, tmp_path / "model.tflite", tmp_path, auto).features == "raw"


def test_weights_of_another_model_are_named(
    inputs: Mapping[str, Path], user_model: Callable[..., UserModel], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.weights.h5").write_bytes(b"no weights")
    with pytest.raises(TflineError, match=r"taking the model and its transform apart .* do not fit the model that build_model"):
        optimize.optimize({**inputs, "model_run": run}, tmp_path / "model.tflite", tmp_path, CONFIG, user_model())
    assert not list(tmp_path.glob("*.tflite"))
