"""The training on small data: strategies, resumes after every kind of stop, early stopping, and what it refuses."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.code import bundle
from components.early_stopping import EarlyStopping
from components.errors import TflineError
from components.isolate import ProcessLost, run_isolated
from components.layout import SERVING_DIR
from components.model import ModelConfig, UserModel
from components.summary import Summary
from components.train import Config, TrainReport, read_history, summarise, train

UserModels = Callable[..., UserModel]
Stage = Mapping[str, Path]

pytestmark = pytest.mark.slow


def train_here(transformed: Stage, folder: Path, user_model: UserModel, **config: Any) -> TrainReport:
    settings = Config.model_validate({"epochs": 4, "early_stopping": None, **config})
    return train(transformed["transformed_examples"], transformed["transform_graph"], folder, settings, user_model)


def in_own_process(examples: str, graph: str, folder: str, config: dict[str, Any], user_model: dict[str, Any]) -> dict[str, Any]:
    settings, model = Config.model_validate(config), UserModel.model_validate(user_model)
    return train(Path(examples), Path(graph), Path(folder), settings, model).model_dump(mode="json")


@pytest.fixture
def train_apart(transformed: Stage) -> Callable[..., TrainReport]:
    """Trains in a process of its own, since devices are chosen once a process, and since some processes are killed."""

    def run(folder: Path, user_model: UserModel, **config: Any) -> TrainReport:
        arguments = {
            "examples": str(transformed["transformed_examples"]),
            "graph": str(transformed["transform_graph"]),
            "folder": str(folder),
            "config": {"epochs": 4, "early_stopping": None, **config},
            "user_model": user_model.model_dump(),
        }
        return TrainReport.model_validate(
            run_isolated("tests.components.test_train:in_own_process", arguments, timeout_seconds=120)
        )

    return run


def epochs_written(folder: Path) -> list[int]:
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def test_strategies_come_to_the_same_losses(
    tmp_path: Path, user_model: UserModels, train_apart: Callable[..., TrainReport]
) -> None:
    names = ("none", "one_device", "mirrored")
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda name: train_apart(tmp_path / name, user_model(), strategy=name, epochs=2), names))
    alone, one, mirrored = reports
    assert [report.strategy for report in reports] == list(names)
    assert [report.replicas for report in reports] == [1, 1, 2]
    assert one.curves["loss"] == pytest.approx(alone.curves["loss"], abs=1e-5)
    assert mirrored.curves["loss"] == pytest.approx(alone.curves["loss"], abs=1e-3)
    assert mirrored.curves["val_loss"] == pytest.approx(alone.curves["val_loss"], abs=1e-3)


def test_same_seed_same_training(tmp_path: Path, transformed: Stage, user_model: UserModels) -> None:
    first, second = (train_here(transformed, tmp_path / name, user_model(), seed=3, epochs=2) for name in "ab")
    other = train_here(transformed, tmp_path / "c", user_model(), seed=4, epochs=2)
    assert first.curves == second.curves
    assert first.curves != other.curves


def test_stops_early_and_says_so(tmp_path: Path, transformed: Stage, user_model: UserModels) -> None:
    report = train_here(
        transformed, tmp_path, user_model(learning_rate=0.0), epochs=9, early_stopping={"monitor": "val_loss", "patience": 2}
    )
    assert (report.epochs, report.best_epoch, report.stopped_early, report.resumed_at_epoch) == (3, 0, True, 0)
    assert epochs_written(tmp_path) == [0, 1, 2]


def test_best_weights_are_those_of_the_best_epoch(tmp_path: Path, transformed: Stage, user_model: UserModels) -> None:
    model = user_model(learning_rate=0.5)
    report = train_here(transformed, tmp_path, model, epochs=9)
    values = report.curves["val_loss"]
    assert values[report.best_epoch] == min(values)
    assert report.best_epoch < 8, "the last epoch is the best one: any weights would pass"
    assert loss_of(tmp_path / "best.weights.h5", transformed, model) == pytest.approx(min(values), rel=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {
        "best.weights.h5",
        "history.csv",
        "identity",
        "report.json",
        "tensorboard",
    }


def test_best_by_a_value_that_is_to_grow(tmp_path: Path, transformed: Stage, user_model: UserModels) -> None:
    stopping = {"monitor": "val_accuracy", "mode": "max", "patience": 6}
    report = train_here(transformed, tmp_path, user_model(learning_rate=0.05), epochs=6, early_stopping=stopping)
    values = report.curves["val_accuracy"]
    assert report.best_epoch == values.index(max(values)) != values.index(min(values))


def loss_of(weights: Path, transformed: Stage, user_model: UserModel) -> float:
    """Validation loss of a freshly built model with these weights."""
    import tensorflow_transform as tft

    from components.examples import batches, split_files
    from components.model import make_inputs

    spec = tft.TFTransformOutput(str(transformed["transform_graph"])).transformed_feature_spec()
    model = user_model.build(make_inputs(spec, "label"))
    model.load_weights(str(weights))
    files = split_files(transformed["transformed_examples"], "eval")
    return float(model.evaluate(batches(files, spec, label="label", batch_size=32), verbose=0)[0])


@pytest.mark.parametrize(("where", "kept"), [("in epoch", 2), ("before backup", 2), ("at end", 6)])
def test_resume_after_an_exception(tmp_path: Path, transformed: Stage, user_model: UserModels, where: str, kept: int) -> None:
    stone = tmp_path / "stone"
    stone.touch()
    epoch = 5 if where == "at end" else 2
    model = user_model(learning_rate=0.1, fault={"stone": str(stone), "where": where, "epoch": epoch})
    folder = tmp_path / "run"
    with pytest.raises(RuntimeError, match=r"^stumbled over the stone$"):
        train_here(transformed, folder, model, epochs=6)
    broken = read_history(folder / "history.csv")
    assert not (folder / "report.json").exists()
    stone.unlink()
    report = train_here(transformed, folder, model, epochs=6)
    assert (report.resumed_at_epoch, report.epochs) == (kept, 6)
    assert epochs_written(folder) == [0, 1, 2, 3, 4, 5]
    assert report.curves["loss"][:kept] == broken["loss"][:kept]
    values = report.curves["val_loss"]
    assert values[report.best_epoch] == min(values)
    assert loss_of(folder / "best.weights.h5", transformed, model) == pytest.approx(min(values), rel=1e-5)
    assert not (folder / "backup").exists()


def test_an_epoch_that_is_done_again_does_not_leave_its_first_weights(
    tmp_path: Path, transformed: Stage, user_model: UserModels
) -> None:
    """The epoch that is lost was by far the best; after the resume nothing may be left of it."""
    stone = tmp_path / "stone"
    stone.touch()
    model = user_model(learning_rate=0.0, fault={"stone": str(stone), "where": "before backup", "epoch": 2})
    folder = tmp_path / "run"
    with pytest.raises(RuntimeError):
        train_here(transformed, folder, model, epochs=4)
    (folder / "best-00002.weights.h5").write_bytes(b"half a file, as a kill leaves it")
    stone.unlink()
    report = train_here(transformed, folder, model, epochs=4)
    assert report.best_epoch == 0
    assert loss_of(folder / "best.weights.h5", transformed, model) == pytest.approx(report.curves["val_loss"][0], rel=1e-6)


def test_resume_after_a_kill(tmp_path: Path, user_model: UserModels, train_apart: Callable[..., TrainReport]) -> None:
    stone = tmp_path / "stone"
    stone.touch()
    model = user_model(fault={"stone": str(stone), "where": "in epoch", "epoch": 2, "kill": True})
    with pytest.raises(ProcessLost, match="killed by SIGKILL"):
        train_apart(tmp_path / "run", model)
    assert epochs_written(tmp_path / "run") == [0, 1]
    stone.unlink()
    report = train_apart(tmp_path / "run", model)
    assert (report.resumed_at_epoch, report.epochs) == (2, 4)
    assert epochs_written(tmp_path / "run") == [0, 1, 2, 3]


def test_patience_counts_over_a_resume(tmp_path: Path, transformed: Stage, user_model: UserModels) -> None:
    stone = tmp_path / "stone"
    stone.touch()
    model = user_model(learning_rate=0.0, fault={"stone": str(stone), "where": "in epoch", "epoch": 3})
    settings = {"epochs": 12, "early_stopping": {"patience": 4}}
    with pytest.raises(RuntimeError):
        train_here(transformed, tmp_path / "run", model, **settings)
    stone.unlink()
    report = train_here(transformed, tmp_path / "run", model, **settings)
    assert (report.resumed_at_epoch, report.epochs, report.stopped_early) == (3, 5, True)


def test_a_stop_before_the_report_trains_no_further(tmp_path: Path, transformed: Stage, user_model: UserModels) -> None:
    stone = tmp_path / "stone"
    stone.touch()
    model = user_model(learning_rate=0.0, fault={"stone": str(stone), "where": "at end", "epoch": 2})
    settings = {"epochs": 12, "early_stopping": {"patience": 2}}
    with pytest.raises(RuntimeError):
        train_here(transformed, tmp_path / "run", model, **settings)
    report = train_here(transformed, tmp_path / "run", model, **settings)
    assert (report.resumed_at_epoch, report.epochs, report.stopped_early) == (3, 3, True)


def test_a_finished_training_is_not_repeated(tmp_path: Path, transformed: Stage, user_model: UserModels) -> None:
    first = train_here(transformed, tmp_path, user_model(), epochs=1)
    weights = (tmp_path / "best.weights.h5").stat()
    assert train_here(transformed, tmp_path, user_model(), epochs=1) == first
    assert (tmp_path / "best.weights.h5").stat().st_mtime_ns == weights.st_mtime_ns


def test_other_hyperparameters_start_over_and_say_so(
    tmp_path: Path, transformed: Stage, user_model: UserModels, caplog: pytest.LogCaptureFixture
) -> None:
    train_here(transformed, tmp_path, user_model(learning_rate=0.01), epochs=3)
    (tmp_path / "leftover").mkdir()
    caplog.set_level(logging.INFO, "tfline.progress")
    report = train_here(transformed, tmp_path, user_model(learning_rate=0.02), epochs=2)
    assert (report.resumed_at_epoch, report.epochs) == (0, 2)
    assert not (tmp_path / "leftover").exists()
    assert "the model or its settings changed since the checkpoint was made: training starts over" in caplog.messages


def test_progress_is_told(tmp_path: Path, transformed: Stage, user_model: UserModels, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tfline.progress")
    report = train_here(transformed, tmp_path, user_model(), epochs=2)
    told = [f"epoch {epoch + 1}/2  val_loss {value:.4f}" for epoch, value in enumerate(report.curves["val_loss"])]
    assert caplog.messages == told


def test_tensorboard_logs(tmp_path: Path, transformed: Stage, user_model: UserModels) -> None:
    import tensorflow as tf

    report = train_here(transformed, tmp_path, user_model(), epochs=2)
    for name, curve in {"train": "loss", "validation": "val_loss"}.items():
        [file] = (tmp_path / "tensorboard" / name).iterdir()
        values = [value for event in tf.compat.v1.train.summary_iterator(str(file)) for value in event.summary.value]
        written = [float(tf.make_ndarray(value.tensor)) for value in values if value.tag == "epoch_loss"]
        assert written == pytest.approx(report.curves[curve], rel=1e-6)


def test_loss_that_is_no_number(tmp_path: Path, transformed: Stage, user_model: UserModels) -> None:
    expected = r"^the training loss became (nan|inf) in epoch 1; try a lower learning rate$"
    with pytest.raises(TflineError, match=expected):
        train_here(transformed, tmp_path, user_model(learning_rate=1e38))


def test_unknown_monitor(tmp_path: Path, transformed: Stage, user_model: UserModels) -> None:
    with pytest.raises(TflineError) as caught:
        train_here(transformed, tmp_path, user_model(), early_stopping={"monitor": "val_acuracy"})
    known = "accuracy, loss, val_accuracy, val_loss"
    assert str(caught.value) == f"train.early_stopping.monitor: expected one of {known}, got 'val_acuracy'"


def test_model_that_is_not_compiled(tmp_path: Path, transformed: Stage, user_model: UserModels) -> None:
    with pytest.raises(TflineError) as caught:
        train_here(transformed, tmp_path, user_model(uncompiled=True))
    assert str(caught.value) == (
        "model.py: build_model has to return a compiled Keras model (call model.compile(...)), got Stumbling without an optimizer"
    )


def test_module_without_build_model(tmp_path: Path, transformed: Stage) -> None:
    (tmp_path / "net.py").write_text("x = 1\n", encoding="utf-8")
    model = UserModel(config=ModelConfig(module="net.py"), code=bundle(tmp_path / "net.py"))
    with pytest.raises(TflineError) as caught:
        train_here(transformed, tmp_path / "run", model)
    assert str(caught.value) == "net.py: expected a function build_model(inputs, config), found none"


def test_label_that_is_no_feature(tmp_path: Path, transformed: Stage, code: str) -> None:
    with pytest.raises(TflineError) as caught:
        train_here(transformed, tmp_path, UserModel(config=ModelConfig(label="lable"), code=code))
    assert str(caught.value) == "model.label: expected a transformed feature, got 'lable'; there are: group, label, tags, x"


def test_split_that_is_not_there(tmp_path: Path, transformed: Stage, user_model: UserModels) -> None:
    with pytest.raises(TflineError) as caught:
        train_here(transformed, tmp_path, user_model(), validation_split="test")
    examples = transformed["transformed_examples"]
    assert str(caught.value) == f"no examples of split 'test' in {examples}; splits there: eval, train"


def test_summary(model_run: Path) -> None:
    report = TrainReport.model_validate_json((model_run / "report.json").read_text(encoding="utf-8"))
    summary = summarise({"model_run": [str(model_run)]})
    assert isinstance(summary, Summary)
    assert summary.headline == f"25 epochs, val_accuracy {report.curves['val_accuracy'][report.best_epoch]:.4f}"
    assert summary.curves == report.curves
    assert {name: len(values) for name, values in summary.curves.items()} == dict.fromkeys(report.curves, 25)
    assert summary.metrics["best_val_loss"] == min(report.curves["val_loss"])
    assert summary.params == {"strategy": "none", "replicas": "1", "stopped_early": "False"}
    # 4 numbers, 4 of a group's embedding, 2 for the tags; 16 units; 3 classes and 1 number that is not trained.
    assert summary.metrics["parameters"] == 4 * 4 + (10 * 16 + 16) + (16 * 3 + 3)
    assert not (model_run / SERVING_DIR).exists()


@pytest.mark.parametrize(
    ("values", "settings", "best", "waited"),
    [
        ([3.0, 2.0, 1.0], {}, 2, 0),
        ([1.0, 1.0, 2.0], {}, 0, 2),
        ([1.0, 0.95, 0.9], {"min_delta": 0.07}, 2, 0),
        ([1.0, 0.95, 0.94], {"min_delta": 0.07}, 2, 2),
        ([0.1, 0.4, 0.3], {"mode": "max"}, 1, 1),
    ],
)
def test_early_stopping_counts(values: list[float], settings: dict[str, Any], best: int, waited: int) -> None:
    stopping = EarlyStopping.model_validate(settings)
    assert (stopping.best(values), stopping.waited(values)) == (best, waited)
