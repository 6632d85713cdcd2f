from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from components.variants.config import Config, Variant


@pytest.mark.parametrize(
    ("field", "value"),
    [("lable", "digit"), ("train_split", "../train"), ("representative_examples", 0), ("select", "best")],
)
def test_a_wrong_setting_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        Config.model_validate({"label": "digit", field: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "int8", "sparsity": 0.5}, "sparsity: int8 has no such setting, expected with pruned, pqat, pcqat"),
        ({"kind": "pruned", "clusters": 4}, "clusters: pruned has no such setting"),
        ({"kind": "qat", "convert": "int8"}, "convert: qat has no such setting"),
        ({"kind": "float16", "epochs": 3}, "epochs: float16 has no such setting, expected with qat"),
        ({"kind": "int8", "learning_rate": 0.1}, "learning_rate: int8 has no such setting"),
        ({"kind": "pruned", "pattern": "2:4", "sparsity": 0.7}, "expected none with the pattern 2:4"),
        ({"kind": "pruned", "block": (2, 2)}, "block: expected with `pattern: block`"),
        ({"kind": "pruned", "pattern": "block", "block": (0, 2)}, "two numbers of at least 1"),
        ({"kind": "int8", "name": "../up"}, "name"),
        ({"kind": "int4"}, "kind"),
    ],
)
def test_what_a_variant_would_ignore_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Variant.model_validate(settings)


def test_kinds_may_stand_for_themselves_and_names_must_differ() -> None:
    config = Config.model_validate({"variants": ["int8", {"kind": "pruned", "name": "half", "sparsity": 0.5}, "pruned"]})
    assert [(each.title, each.kind, each.trained) for each in config.chosen()] == [
        ("int8", "int8", False),
        ("half", "pruned", True),
        ("pruned", "pruned", True),
    ]
    assert config.trains
    with pytest.raises(ValidationError, match="pruned is there more than once; give each a `name` of its own"):
        Config.model_validate({"variants": ["pruned", {"kind": "pruned", "sparsity": 0.5}]})
    with pytest.raises(ValidationError, match="expected at least one"):
        Config.model_validate({"variants": []})


def test_the_default_trains_nothing() -> None:
    config = Config()
    assert [variant.kind for variant in config.chosen()] == ["int8_io"]
    assert not config.trains


def test_a_stage_gets_back_what_was_configured() -> None:
    variants = ["int8", {"kind": "pruned", "pattern": "2:4"}, {"kind": "pcqat", "clusters": 8, "edges": "integer"}]
    config = Config.model_validate({"variants": variants, "gates": {"slices": [{"slice": {"a": "1"}, "max_accuracy_drop": 0.1}]}})
    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("settings", "converted_as"),
    [
        ({"kind": "float16"}, "float16"),
        ({"kind": "qat"}, "int8"),
        ({"kind": "pcqat", "edges": "integer"}, "int8_io"),
        ({"kind": "pruned"}, "float32"),
        ({"kind": "clustered", "convert": "dynamic"}, "dynamic"),
    ],
)
def test_each_is_converted_in_its_way(settings: dict[str, Any], converted_as: str) -> None:
    assert Variant.model_validate(settings).converted_as == converted_as
