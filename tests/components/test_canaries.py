"""Canary requests made of the golden examples of the shipped pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.canaries import canaries


@pytest.mark.slow
def test_every_signature_is_asked(digits: Any) -> None:
    outputs = digits.last("digits")[1]["export"].outputs
    model, golden = Path(outputs["model"][0]), Path(outputs["golden"][0])
    found = {canary.signature: canary for canary in canaries(model, golden, 5)}
    assert sorted(found) == ["dense", "serving_default"]
    assert found["dense"].inputs["image"].shape == (5, 64)
    assert found["serving_default"].inputs["examples"].shape == (5,)
    for canary in found.values():
        assert canary.outputs["probabilities"].shape == (5, 10)
        np.testing.assert_allclose(canary.outputs["probabilities"].sum(axis=1), 1, atol=1e-5)
    assert canaries(model, golden, 0) == []
