"""The transform stage on the real component's output, and the strategy that the name in the configuration stands for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components import transform
from components.code import bundle, stage_digest
from components.errors import TflineError, UsageError
from components.layout import split_names
from components.strategy import make_strategy, replicas_of, scope
from tests.components.small_line import SPLITS, channel


def packed(folder: Path, text: str) -> dict[str, Any]:
    (folder / "features.py").write_text(text, encoding="utf-8")
    return {"code": bundle(folder / "features.py"), "module": "features.py"}


def test_users_function_is_called(tmp_path: Path) -> None:
    config = packed(tmp_path, "def preprocessing_fn(inputs):\n    return {'doubled': inputs['x'] * 2}\n")
    assert transform.preprocessing_fn({"x": 2, "y": 3}, config) == {"doubled": 4}


def test_features_pass_as_they_are_without_a_function(tmp_path: Path) -> None:
    inputs: dict[str, Any] = {"x": 2, "y": 3}
    assert transform.preprocessing_fn(inputs, packed(tmp_path, "x = 1\n")) == inputs


def test_custom_config_goes_to_a_function_that_asks_for_it(tmp_path: Path) -> None:
    text = "def preprocessing_fn(inputs, custom_config):\n    return {'scaled': inputs['x'] * custom_config['by']}\n"
    assert transform.preprocessing_fn({"x": 2}, {**packed(tmp_path, text), "custom_config": {"by": 5}}) == {"scaled": 10}


def test_error_in_the_users_function_has_its_line(tmp_path: Path) -> None:
    text = "def halve(x):\n    return x / 0\n\n\ndef preprocessing_fn(inputs):\n    return {'x': halve(inputs['x'])}\n"
    with pytest.raises(TflineError, match=r"^features\.py:2: ZeroDivisionError: division by zero$"):
        transform.preprocessing_fn({"x": 2}, packed(tmp_path, text))


def test_component_carries_the_code(tmp_path: Path) -> None:
    config = packed(tmp_path, "x = 1\n")
    component = transform.component(channel("Examples"), channel("Schema"), **config, analyze_split="a", splits=["a", "b"])
    assert component.id == "transform"
    properties = component.exec_properties
    assert properties["preprocessing_fn"] == "components.transform.preprocessing_fn"
    assert config["code"] in properties["custom_config"], "so that a changed line is a changed cache key"
    assert stage_digest("components.transform") in properties["custom_config"]


@pytest.mark.slow
def test_transformed_features(transformed: Mapping[str, Path]) -> None:
    """Splits, shapes and values, against the raw examples and plain arithmetic."""
    import numpy as np
    import tensorflow as tf

    from components.examples import records, split_files
    from tests.components.small_line import example

    assert split_names(transformed["transformed_examples"]) == sorted(SPLITS)
    summary = transform.summarise({"transform_graph": [str(transformed["transform_graph"])]})
    assert summary.headline == "4 features: group, label, tags, x"
    assert summary.params == {"group": "int64 [1]", "label": "int64 [1]", "tags": "float32 [2]", "x": "float32 [4]"}
    raw = [tf.train.Example.FromString(example(number)).features.feature for number in range(SPLITS["train"])]
    values = np.array([found["x"].float_list.value for found in raw])
    low, high = values.min(axis=0), values.max(axis=0)
    expected = sorted(
        (*((x - low) / (high - low)).round(4), len(found["tags"].int64_list.value), sum(found["tags"].int64_list.value))
        for x, found in zip(values, raw, strict=True)
    )
    stored = [
        tf.train.Example.FromString(record).features.feature
        for record in records(split_files(transformed["transformed_examples"], "train")).as_numpy_iterator()
    ]
    written = sorted((*np.round(found["x"].float_list.value, 4), *found["tags"].float_list.value) for found in stored)
    np.testing.assert_allclose(written, expected, atol=2e-4)


@pytest.mark.parametrize(("name", "replicas"), [("none", 1), ("one_device", 1)])
def test_strategies_without_replicas(name: Any, replicas: int) -> None:
    strategy = make_strategy(name)
    with scope(strategy):
        assert replicas_of(strategy) == replicas


def test_more_replicas_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one", "two"] if kind == "GPU" else ["cpu"])
    with pytest.raises(UsageError) as caught:
        make_strategy("mirrored", replicas=3)
    assert str(caught.value) == "train.replicas: expected at most 2, the number of GPUs here, got 3"
