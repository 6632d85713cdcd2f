"""A small line, made once a session when a test first asks for it: data, transformed by the real component, trained, exported."""

from __future__ import annotations

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from components.code import bundle
from components.model import ModelConfig, UserModel
from tests.components.small_line import MODEL, SCHEMA, SPLITS, artifact, channel, example, run_executor, write_records
from tests.components.tiny_net import Tiny, call_here, make


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The test model's module, bundled."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    return bundle(folder / "model.py")


@pytest.fixture(scope="session")
def user_model(code: str) -> Callable[..., UserModel]:
    """Makes a UserModel with some hyperparameters: `form`, `learning_rate`, `uncompiled`, `fault`."""
    return lambda **chosen: UserModel(config=ModelConfig(hyperparameters=chosen), code=code)


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw Examples artifact: 256 examples to train on, in two files, and 90 to evaluate."""
    folder = tmp_path_factory.mktemp("raw")
    for split, (first, last) in {"train": (0, 256), "eval": (256, 346)}.items():
        middle = (first + last) // 2
        for part, numbers in enumerate((range(first, middle), range(middle, last))):
            file = folder / f"Split-{split}" / f"data_tfrecord-{part:05d}-of-00002.gz"
            write_records(file, [example(number) for number in numbers])
    return folder


@pytest.fixture(scope="session")
def schema_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Schema artifact that knows every feature."""
    folder = tmp_path_factory.mktemp("schema")
    (folder / "schema.pbtxt").write_text(SCHEMA, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def transformed(tmp_path_factory: pytest.TempPathFactory, raw: Path, schema_dir: Path, code: str) -> Mapping[str, Path]:
    """What the transform stage makes of it: `transform_graph` and `transformed_examples`."""
    from components import transform

    component = transform.component(
        channel("Examples"), channel("Schema"), code=code, module="model.py", analyze_split="train", splits=list(SPLITS)
    )
    inputs = {"examples": artifact("Examples", raw, tuple(SPLITS)), "schema": artifact("Schema", schema_dir)}
    made = run_executor(component, tmp_path_factory.mktemp("transformed"), inputs)
    return {key: Path(found.uri) for key, found in made.items()}


@pytest.fixture(scope="session")
def model_run(
    tmp_path_factory: pytest.TempPathFactory, transformed: Mapping[str, Path], user_model: Callable[..., UserModel]
) -> Path:
    """A finished training of 25 epochs."""
    from components.train import Config, train

    folder = tmp_path_factory.mktemp("model_run")
    config = Config(epochs=25, early_stopping=None)
    train(transformed["transformed_examples"], transformed["transform_graph"], folder, config, user_model())
    return folder


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory,
    model_run: Path,
    transformed: Mapping[str, Path],
    raw: Path,
    user_model: Callable[..., UserModel],
) -> Mapping[str, Path]:
    """The trained model, exported: artifacts `model` and `golden`."""
    from components.export import Config, export

    folder = tmp_path_factory.mktemp("exported")
    made = {"model": folder / "model", "golden": folder / "golden"}
    for path in made.values():
        path.mkdir()
    export(model_run, transformed["transform_graph"], raw, made["model"], made["golden"], Config(), user_model())
    return made


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A trained and exported convolutional net that every TFLite variant can be made of."""
    return make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def in_this_process() -> Iterator[None]:
    """What the optimize stage does in processes of their own happens in the test's: each takes seconds to import TensorFlow."""
    from components.variants import source

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "run_isolated", call_here)
        yield
