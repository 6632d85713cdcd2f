"""The evaluation gate on real TFMA runs, its figures against plain NumPy, and every sentence it refuses with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from components.errors import TflineError
from components.evaluate import Config, Report, evaluate, run, summarise
from components.export import Config as ExportConfig
from components.export import export
from components.layout import SERVING_DIR, load_schema
from components.model import UserModel
from components.train import Config as TrainConfig
from components.train import train

UserModels = Callable[..., UserModel]
Stage = Mapping[str, Path]

METRICS = {"accuracy": {"kind": "SparseCategoricalAccuracy"}, "loss": {"kind": "SparseCategoricalCrossentropy"}}


def settings(thresholds: Sequence[Mapping[str, Any]], **others: Any) -> Config:
    beam = ["--runner=FnApiRunner"]
    return Config.model_validate({"metrics": METRICS, "thresholds": list(thresholds), "beam_args": beam, **others})


@dataclass(frozen=True)
class Bench:
    """Evaluates models on the small data; `evaluation` and `blessing` of the last one are kept."""

    raw: Path
    schema: Path
    folder: Path

    def __call__(self, model: Path, config: Config, champion: Path | None = None) -> Report:
        for name in ("evaluation", "blessing", "no-champion"):
            (self.folder / name).mkdir()
        inputs = {
            "model": model,
            "champion": champion or self.folder / "no-champion",
            "examples": self.raw,
            "schema": self.schema,
        }
        return evaluate(inputs, self.folder / "evaluation", self.folder / "blessing", config)

    def blessing(self) -> list[str]:
        return [path.name for path in (self.folder / "blessing").iterdir()]


@pytest.fixture
def bench(raw: Path, schema_dir: Path, tmp_path: Path) -> Bench:
    return Bench(raw, schema_dir, tmp_path)


@pytest.fixture(scope="module")
def make_model(
    transformed: Stage, raw: Path, user_model: UserModels, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Trains for one epoch and exports; with `learning_rate=0.0` a model that knows nothing."""

    def make(**chosen: Any) -> Path:
        folder, model, graph = tmp_path_factory.mktemp("model"), user_model(**chosen), transformed["transform_graph"]
        for name in ("model", "golden"):
            (folder / name).mkdir()
        config = TrainConfig(epochs=1, early_stopping=None)
        train(transformed["transformed_examples"], graph, folder / "run", config, model)
        export(folder / "run", graph, raw, folder / "model", folder / "golden", ExportConfig(), model)
        return folder / "model"

    return make


@pytest.fixture(scope="module")
def poor(make_model: Callable[..., Path]) -> Path:
    return make_model(learning_rate=0.0)


@dataclass(frozen=True)
class Truth:
    """What NumPy says of a model: whether each held-out example is right, its loss, its group, its label."""

    right: Any
    losses: Any
    groups: Any
    labels: Any

    def accuracy(self, **of: Any) -> float:
        chosen = np.all([getattr(self, name) == value for name, value in of.items()] or [self.labels >= 0], axis=0)
        return float(np.mean(self.right[chosen]))


def truth_of(model: Path, raw: Path) -> Truth:
    import tensorflow as tf

    files = sorted(str(path) for path in (raw / "Split-eval").iterdir())
    records = list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())
    features = [tf.train.Example.FromString(record).features.feature for record in records]
    labels = np.array([found["label"].int64_list.value[0] for found in features])
    groups = np.array([found["group"].bytes_list.value[0].decode() for found in features])
    loaded = tf.saved_model.load(str(model / SERVING_DIR))
    chances = loaded.signatures["serving_default"](examples=tf.constant(records))["label_chances"].numpy()
    return Truth(chances.argmax(axis=1) == labels, -np.log(chances[np.arange(len(labels)), labels]), groups, labels)


@pytest.mark.slow
def test_figures_and_no_champion(bench: Bench, exported: Stage, raw: Path) -> None:
    limits = [{"metric": "accuracy", "at_least": 0.5, "worse_by": 0.0}]
    report = bench(exported["model"], settings(limits, slices=[["group"], ["label", "group"]]))
    assert (report.blessed, report.champion, report.failures, bench.blessing()) == (True, False, (), ["BLESSED"])
    truth = truth_of(exported["model"], raw)
    overall = report.slices[0]
    assert overall.slice == "overall"
    assert overall.champion == {}
    assert overall.candidate == pytest.approx(
        {"accuracy": truth.accuracy(), "loss": float(np.mean(truth.losses)), "examples": 90}, abs=1e-5
    )
    groups = ("blue", "green", "red")
    crossed = [f"group:{group}, label:{label}" for group in groups for label in range(3)]
    assert [entry.slice for entry in report.slices[1:]] == sorted([*(f"group:{group}" for group in groups), *crossed])
    by_name = {entry.slice: entry.candidate for entry in report.slices}
    assert by_name["group:red"]["accuracy"] == pytest.approx(truth.accuracy(groups="red"))
    assert by_name["group:red, label:1"]["accuracy"] == pytest.approx(truth.accuracy(groups="red", labels=1))
    assert by_name["group:red"]["examples"] == sum(truth.groups == "red")


@pytest.mark.slow
def test_a_limit_is_on_the_whole_or_on_the_slice_it_names(bench: Bench, exported: Stage, raw: Path) -> None:
    truth = truth_of(exported["model"], raw)
    worst = min(range(3), key=lambda label: truth.accuracy(labels=label))
    overall, lowest = truth.accuracy(), truth.accuracy(labels=worst)
    limit = round((overall + lowest) / 2, 3)
    assert lowest < limit < overall, "the model is equally good at every label: nothing to tell apart"
    limits = [
        {"metric": "accuracy", "at_least": limit},
        {"metric": "accuracy", "at_least": limit, "slice": {"label": str(worst)}},
        {"metric": "accuracy", "at_most": 0.125, "slice": {"group": "green"}},
        {"metric": "accuracy", "at_least": 0.0, "slice": {"group": "pink"}},
    ]
    report = bench(exported["model"], settings(limits, slices=[["label"], ["group"]]))
    green = truth.accuracy(groups="green")
    assert not report.blessed
    assert bench.blessing() == ["NOT_BLESSED"]
    assert report.failures == (
        f"accuracy (group:green) is {green:.4f}, at most 0.125 expected; over by {green - 0.125:.4f}",
        f"accuracy (label:{worst}) is {lowest:.4f}, at least {limit:g} expected; short by {limit - lowest:.4f}",
        "slice group:pink has a threshold but no example",
    )
    by_name = {entry.slice: entry.candidate["examples"] for entry in report.slices}
    assert by_name[f"label:{worst}"] == sum(truth.labels == worst), "a slice that is asked for twice counted twice"


@pytest.mark.slow
def test_champion_that_was_made_for_other_columns(bench: Bench, exported: Stage, tmp_path: Path) -> None:
    import tensorflow as tf

    module, champion = tf.Module(), tmp_path / "champion"

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(examples: Any) -> dict[str, Any]:
        gone = tf.io.parse_example(examples, {"gone": tf.io.FixedLenFeature([1], tf.float32)})["gone"]
        return {"label_chances": tf.concat([gone, gone, gone], axis=1)}

    tf.saved_model.save(module, str(champion / SERVING_DIR), signatures={"serving_default": serve})
    (champion / "champion.json").write_text(json.dumps({"version": 7}))
    with pytest.raises(TflineError, match=r"^the champion, version 7, cannot answer these examples \(.*gone.*another `name`"):
        bench(exported["model"], settings([{"metric": "accuracy", "at_least": 0.1}]), champion=champion)


@pytest.mark.slow
def test_worse_than_the_champion(bench: Bench, exported: Stage, poor: Path, raw: Path) -> None:
    limits = [
        {"metric": "accuracy", "worse_by": 0.01},
        {"metric": "loss", "worse_by": 0.25, "higher_is_better": False},
    ]
    report = bench(poor, settings(limits), champion=exported["model"])
    ours, theirs = truth_of(poor, raw), truth_of(exported["model"], raw)
    accuracy, loss = theirs.accuracy() - ours.accuracy(), float(np.mean(ours.losses) - np.mean(theirs.losses))
    assert (report.blessed, report.champion, bench.blessing()) == (False, True, ["NOT_BLESSED"])
    assert report.failures == (
        f"accuracy (overall) is {accuracy:.4g} worse than the champion's; allowed: 0.01",
        f"loss (overall) is {loss:.4g} worse than the champion's; allowed: 0.25",
    )
    assert report.slices[0].champion == pytest.approx(
        {"accuracy": theirs.accuracy(), "loss": float(np.mean(theirs.losses)), "examples": 90}, abs=1e-5
    )


@pytest.mark.slow
def test_worse_than_the_champion_by_no_more_than_allowed(bench: Bench, exported: Stage, poor: Path, raw: Path) -> None:
    lost = truth_of(exported["model"], raw).accuracy() - truth_of(poor, raw).accuracy()
    report = bench(poor, settings([{"metric": "accuracy", "worse_by": lost + 0.001}]), champion=exported["model"])
    assert (report.blessed, report.champion, report.failures) == (True, True, ())


@pytest.mark.slow
def test_equal_to_the_champion_is_not_worse(bench: Bench, exported: Stage) -> None:
    limits = [{"metric": "accuracy", "worse_by": 0.0}, {"metric": "loss", "worse_by": 0.0, "higher_is_better": False}]
    report = bench(exported["model"], settings(limits), champion=exported["model"])
    assert (report.blessed, report.champion) == (True, True)


@pytest.mark.slow
def test_the_output_that_is_named_is_judged(bench: Bench, make_model: Callable[..., Path], raw: Path) -> None:
    model = make_model(form="two", learning_rate=0.02)
    with pytest.raises(TflineError) as caught:
        bench(model, settings([{"metric": "accuracy", "at_least": 0.0}]))
    assert str(caught.value) == ("evaluate.output: expected one of the outputs label_chances, rest of serving_default, got none")
    for folder in bench.folder.iterdir():
        folder.rmdir()
    report = bench(model, settings([{"metric": "accuracy", "at_least": 0.0}], output="label_chances"))
    assert report.slices[0].candidate["accuracy"] == pytest.approx(truth_of(model, raw).accuracy())


@pytest.mark.slow
def test_binary_classifier_by_area_under_curve(tmp_path: Path, schema_dir: Path) -> None:
    import tensorflow as tf
    from sklearn.metrics import roc_auc_score

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def answer(self, examples: Any) -> Any:
            x = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
            return {"chance": x}

    draw = np.random.default_rng(5)
    labels = draw.integers(0, 2, 400)
    scores = np.asarray(np.clip(0.35 * labels + draw.random(400) * 0.6, 0, 1), np.float32)
    features = [
        {
            "x": tf.train.Feature(float_list=tf.train.FloatList(value=[score])),
            "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        }
        for score, label in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    (tmp_path / "raw" / "Split-eval").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(tmp_path / "raw" / "Split-eval" / "data.gz"), "GZIP") as writer:
        for found in features:
            writer.write(tf.train.Example(features=tf.train.Features(feature=found)).SerializeToString())
    model = Model()
    tf.saved_model.save(model, str(tmp_path / "model" / SERVING_DIR), signatures={"serving_default": model.answer})
    schema = load_schema(schema_dir)
    del schema.feature[1:3]
    schema.feature[0].shape.dim[0].size = 1
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "schema.pbtxt").write_text(str(schema), encoding="utf-8")
    bench = Bench(tmp_path / "raw", tmp_path / "schema", tmp_path)
    metrics = {"auc": {"kind": "AUC", "options": {"num_thresholds": 2000}}, "hits": {"kind": "BinaryAccuracy"}}
    report = bench(tmp_path / "model", settings([{"metric": "auc", "at_least": 0.99}], metrics=metrics))
    auc = float(roc_auc_score(labels, scores))
    assert report.slices[0].candidate["auc"] == pytest.approx(auc, abs=1e-3)
    assert report.slices[0].candidate["hits"] == pytest.approx(float(np.mean((scores > 0.5) == labels)))
    measured = report.slices[0].candidate["auc"]
    assert report.failures == (f"auc (overall) is {measured:.4f}, at least 0.99 expected; short by {0.99 - measured:.4f}",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label": "lable"}, "evaluate.label: expected a raw feature, got 'lable'; there are: group, label, tags, x"),
        ({"slices": [["group"], ["hu"]]}, "evaluate.slices: expected a raw feature, got 'hu'; there are: group, label, tags, x"),
        ({"signature": "serve"}, "evaluate.signature: expected one of dense, serving_default, got 'serve'"),
        ({"output": "chances"}, "evaluate.output: expected one of the outputs label_chances of serving_default, got 'chances'"),
        ({"split": "test"}, "no examples of split 'test' in {raw}; splits there: eval, train"),
        (
            {"metrics": {"accuracy": {"kind": "SparseCategoricalAccuracy", "options": {"top": 1}}}},
            "evaluate.metrics: SparseCategoricalAccuracy.__init__() got an unexpected keyword argument 'top'",
        ),
    ],
)  # fmt: skip
def test_names_that_are_not_there(wrong: dict[str, Any], message: str, bench: Bench, exported: Stage, raw: Path) -> None:
    with pytest.raises(TflineError) as caught:
        bench(exported["model"], settings([{"metric": "accuracy", "at_least": 0.0}], **wrong))
    assert str(caught.value) == message.replace("{raw}", str(raw))
    assert bench.blessing() == []


@pytest.mark.slow
def test_metric_that_does_not_exist(bench: Bench, exported: Stage) -> None:
    with pytest.raises(TflineError, match=r"^evaluate\.metrics: Unknown metric function: 'Acuracy'\."):
        bench(exported["model"], settings([{"metric": "accuracy", "at_least": 0.0}], metrics={"accuracy": {"kind": "Acuracy"}}))


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ([{"metric": "acuracy", "at_least": 0.9}], "a threshold is on metric 'acuracy', expected one of accuracy, loss"),
        ([{"metric": "accuracy"}], "expected at least one of at_least, at_most, worse_by"),
        ([{"metric": "accuracy", "worse_by": -0.1}], "Input should be greater than or equal to 0"),
        ([], "thresholds: expected at least one, got none"),
    ],
)
def test_limits_that_mean_nothing(thresholds: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(thresholds)
    assert [error["msg"].removeprefix("Value error, ") for error in caught.value.errors()] == [message]


def write_report(folder: Path, **changed: Any) -> dict[str, list[str]]:
    slices = [
        {"slice": "overall", "candidate": {"loss": 0.5, "accuracy": 0.75, "examples": 8.0}, "champion": {"accuracy": 0.875}},
        {"slice": "group:red", "candidate": {"accuracy": 1.0}, "champion": {}},
    ]
    report = {"blessed": True, "champion": True, "slices": slices, "failures": [], **changed}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return {"evaluation": [str(folder)]}


def test_summary_of_a_blessed_model(tmp_path: Path) -> None:
    summary = summarise(write_report(tmp_path))
    assert summary.headline == "accuracy 0.7500 (champion 0.8750)"
    assert summary.metrics == {"loss": 0.5, "accuracy": 0.75, "examples": 8.0, "champion_accuracy": 0.875}
    assert summary.params == {"blessed": "True", "compared_with_champion": "True"}
    table = summary.tables["slices"]
    champions = ("champion accuracy", "champion examples", "champion loss")
    assert table.columns == ("slice", "accuracy", "examples", "loss", *champions)
    assert table.rows == (
        ("overall", 0.75, 8.0, 0.5, 0.875, None, None),
        ("group:red", 1.0, None, None, None, None, None),
    )
    assert summary.refusal is None


def test_summary_of_a_refused_model(tmp_path: Path) -> None:
    refusal = summarise(write_report(tmp_path, blessed=False, failures=["too bad"])).refusal
    assert refusal is not None
    assert (refusal.gate, refusal.reasons) == ("evaluation", ("too bad",))


@pytest.mark.parametrize("blessed", [True, False])
def test_blessing_becomes_a_property(blessed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Report(blessed=blessed, champion=False, slices=(), failures=() if blessed else ("too bad",))
    monkeypatch.setattr("components.evaluate.evaluate", lambda *_: made)
    config = settings([{"metric": "accuracy", "at_least": 0.0}])
    outputs = {"evaluation": tmp_path, "blessing": tmp_path}
    assert run({}, outputs, config) == {"blessing": {"blessed": int(blessed)}}
