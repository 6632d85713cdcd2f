from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import isolate, optimize
from components.errors import TflineError
from components.variants import source, tfmot_training
from components.variants.config import Config, FineTune, Gates, Variant
from components.variants.report import Made, Report
from tests.components.tiny_net import TRAIN, Tiny, call_here

pytestmark = pytest.mark.slow

VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"kind": "float32"},
    "qat": {"kind": "qat", "edges": "integer"},
    # Pruning goes on for half of the steps, 22 an epoch: the other half has to make up for it.
    "sparse": {"kind": "pruned", "sparsity": 0.75, "sparse_encoding": True, "epochs": 3, "learning_rate": 0.01},
    "two_of_four": {"kind": "pruned", "pattern": "2:4"},
    "block": {"kind": "pruned", "pattern": "block", "sparsity": 0.5, "schedule": "constant", "convert": "dynamic"},
    "clustered": {"kind": "clustered", "clusters": 8},
    "pqat": {"kind": "pqat", "sparsity": 0.5},
    "cqat": {"kind": "cqat", "clusters": 8},
    "pcqat": {"kind": "pcqat", "sparsity": 0.5, "clusters": 8},
}
TUNING = FineTune(epochs=1, learning_rate=0.001, batch_size=64, seed=7)


@pytest.fixture(scope="module")
def report(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Report]:
    """Every technique, in one run of the stage."""
    folder = tmp_path_factory.mktemp("techniques")
    variants = tuple(Variant(name=name, **settings) for name, settings in VARIANTS.items())
    config = Config(label="digit", variants=variants, fine_tune=TUNING, gates=Gates(max_accuracy_drop=0.1), latency_calls=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "run_isolated", call_here)
        yield optimize.optimize(tiny.inputs, folder / "model.tflite", folder, config, tiny.user_model())


def made(report: Report, name: str) -> Made:
    found = report.row(name)
    assert found.made is not None, found.reason
    return found.made


@pytest.mark.parametrize("name", VARIANTS)
def test_each_technique_makes_a_model_that_still_knows_its_digits(report: Report, name: str) -> None:
    found = made(report, name)
    assert found.measured.comparison.accuracy_float > 0.85
    assert found.measured.comparison.accuracy_drop < 0.1
    assert found.measured.comparison.eval_examples == 450
    if name != "float32":
        assert found.fine_tuned is not None
        assert all(
            len(losses) == VARIANTS[name].get("epochs", 1) and np.isfinite(losses).all()
            for losses in found.fine_tuned.losses.values()
        )
        assert found.fine_tuned.learning_rate == VARIANTS[name].get("learning_rate", 0.001)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("qat", ["quantization"]),
        ("sparse", ["pruning"]),
        ("clustered", ["clustering"]),
        ("pqat", ["pruning", "quantization"]),
        ("cqat", ["clustering", "quantization"]),
        ("pcqat", ["pruning", "clustering", "quantization"]),
    ],
)
def test_techniques_are_combined_in_their_order(report: Report, name: str, steps: list[str]) -> None:
    tuned = made(report, name).fine_tuned
    assert tuned is not None
    assert list(tuned.losses) == steps


def test_quantized_in_training_is_int8_to_its_edges_with_the_transform_inside(report: Report) -> None:
    found = made(report, "qat")
    assert found.measured.float_ops == ()
    assert {edge.dtype for edge in (*found.measured.inputs, *found.measured.outputs)} == {"int8"}
    assert found.measured.inputs[0].scale == pytest.approx(16 / 255, rel=0.05), "raw pixels, 0 to 16"
    assert found.ratio < 0.45
    for name in ("pqat", "cqat", "pcqat"):
        assert set(made(report, name).measured.float_ops) <= {"QUANTIZE", "DEQUANTIZE"}
        assert {edge.dtype for edge in made(report, name).measured.inputs} == {"float32"}


@pytest.mark.parametrize(("name", "least"), [("sparse", 0.75), ("two_of_four", 0.45), ("block", 0.5), ("pcqat", 0.5)])
def test_the_zeros_are_in_the_files_weights(report: Report, name: str, least: float) -> None:
    kernels = made(report, name).kernels
    dense = max(kernels.kernels, key=lambda kernel: np.prod(kernel.shape))
    assert dense.sparsity >= least - 0.001
    assert made(report, "float32").kernels.sparsity == pytest.approx(0, abs=0.01)
    assert made(report, name).gzip_bytes < made(report, "float32").gzip_bytes


@pytest.mark.parametrize("name", ["clustered", "cqat", "pcqat"])
def test_the_clusters_are_in_the_files_weights(report: Report, name: str) -> None:
    kernels = made(report, name).kernels
    dense = max(kernels.kernels, key=lambda kernel: np.prod(kernel.shape))
    assert dense.clusters is not None
    assert 2 <= dense.clusters <= 8
    assert made(report, name).gzip_bytes < 0.5 * made(report, "float32").gzip_bytes


def test_what_is_sparse_can_be_stored_so(report: Report) -> None:
    assert made(report, "sparse").bytes < 0.7 * made(report, "float32").bytes


def tune(tiny: Tiny, folder: Path, variant: dict[str, Any], tuning: FineTune = TUNING, **chosen: Any) -> Mapping[str, Any]:
    """The subprocess's function, called here."""
    return tfmot_training.fine_tune(**arguments(tiny, folder, variant, tuning, **chosen))


def arguments(tiny: Tiny, folder: Path, variant: dict[str, Any], tuning: FineTune, **chosen: Any) -> dict[str, Any]:
    return {
        "variant": variant,
        "fine_tune": tuning.model_dump(),
        "user_model": tiny.user_model(**chosen).model_dump(),
        **{key: str(tiny.inputs[key]) for key in optimize.OPTIONAL},
        "signature": "dense",
        "batch": 1,
        "takes": None,
        "target": str(folder / "saved"),
    }


def test_a_layer_that_cannot_be_quantized_is_named_and_may_be_left_out(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(
        TflineError, match=r"qat: .* does not know odd_one \(ELU\): `layers: able` leaves it in float; .*annotate"
    ):
        tune(tiny, tmp_path, {"kind": "qat"}, odd=True)
    found = tune(tiny, tmp_path, {"kind": "qat", "layers": "able"}, odd=True)
    assert found["fine_tuned"]["left_out"] == {"quantization": ("odd_one (ELU)",)}


def test_what_cannot_be_clustered_is_told(tiny: Tiny, tmp_path: Path) -> None:
    found = tune(tiny, tmp_path, {"kind": "clustered", "clusters": 100})
    assert found["fine_tuned"]["left_out"] == {"clustering": ("conv (Conv2D)",)}
    assert [asked["layer"] for asked in found["asked"]] == ["probabilities.kernel"]


def test_a_learning_rate_that_is_too_high_is_an_error(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(TflineError, match=r"qat: the loss became (nan|inf) .* learning rate of 1e\+30"):
        tune(tiny, tmp_path, {"kind": "qat"}, TUNING.model_copy(update={"learning_rate": 1e30}))


def test_a_variant_may_train_otherwise_than_the_rest(tiny: Tiny, tmp_path: Path) -> None:
    found = tune(tiny, tmp_path, {"kind": "pruned", "epochs": 2, "learning_rate": 0.002})["fine_tuned"]
    assert len(found["losses"]["pruning"]) == 2
    assert found["learning_rate"] == 0.002


def test_weights_of_another_model_are_an_error(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "best.weights.h5").write_bytes(b"no weights")
    asked = arguments(tiny, tmp_path, {"kind": "qat"}, TUNING) | {"model_run": str(tmp_path)}
    with pytest.raises(TflineError, match=r"best.weights.h5 do not fit the model that build_model makes"):
        tfmot_training.fine_tune(**asked)


def test_two_replicas_train_as_training_does(tiny: Tiny, tmp_path: Path) -> None:
    tuning = TUNING.model_copy(update={"strategy": "mirrored", "replicas": 2})
    asked = arguments(tiny, tmp_path, {"kind": "qat"}, tuning)
    found = isolate.run_isolated("components.variants.tfmot_training:fine_tune", asked, timeout_seconds=120)
    assert (found["fine_tuned"]["strategy"], found["fine_tuned"]["replicas"]) == ("mirrored", 2)
    # The same pictures, in the same order and batches, as one replica has.
    alone = tune(tiny, tmp_path / "alone", {"kind": "qat"})
    assert found["fine_tuned"]["losses"]["quantization"] == pytest.approx(alone["fine_tuned"]["losses"]["quantization"], rel=0.05)


def test_the_saved_model_answers_raw_pixels(tiny: Tiny, tmp_path: Path) -> None:
    import tensorflow as tf

    tune(tiny, tmp_path, {"kind": "pruned", "sparsity": 0.01}, TUNING.model_copy(update={"learning_rate": 1e-9}))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    image = tiny.images[TRAIN : TRAIN + 1]
    given = loaded.signatures["dense"](image=tf.constant(image))["probabilities"].numpy()
    np.testing.assert_allclose(given, tiny.answer(image), atol=0.05)
