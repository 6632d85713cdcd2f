"""The net as an MLflow model from code. `python with_mlflow.py FOLDER` saves it; `mlflow models serve` loads this file again."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import mlflow
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class NetModel(PythonModel):
    """`{"inputs": [...]}` → `{"predictions": [...]}`."""

    def load_context(self, context: Any) -> None:
        """Reads the weights."""
        spec = importlib.util.spec_from_file_location("net", context.artifacts["net"])
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._net = module.Net(context.artifacts["weights"])

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        """One request."""
        return self._net(model_input)


if __name__ == "__main__":
    artifacts = {"net": str(Path(__file__).with_name("net.py")), "weights": os.environ["WEIGHTS"]}
    mlflow.pyfunc.save_model(sys.argv[1], python_model=__file__, artifacts=artifacts, pip_requirements=["numpy"])
else:
    set_model(NetModel())
