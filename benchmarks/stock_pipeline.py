"""The digits pipeline as stock TFX has it, for `benchmarks.pipeline`; FOLDER holds what `prepare` wrote there.

python -m benchmarks.stock_pipeline FOLDER
"""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.evaluate import eval_config
from components.records import Journal
from pipelines.config import PipelineConfig, load_config

DIGITS = Path("pipelines/digits")
TIMING = "timing.json"

# The user's module of the stock pipeline; digits_model.py beside it is pipelines/digits/model.py.
_MODULE = """
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras as keras
from digits_model import build_model
from tfx_bsl.public import tfxio

PIXELS = [f"p{index:02d}" for index in range(64)]


def preprocessing_fn(inputs):
    return {**{name: tft.scale_to_0_1(inputs[name]) for name in PIXELS}, "label": inputs["label"]}


def run_fn(fn_args):
    transformed = tft.TFTransformOutput(fn_args.transform_output)

    def examples(files):
        options = tfxio.TensorFlowDatasetOptions(batch_size=fn_args.custom_config["batch_size"], label_key="label")
        return fn_args.data_accessor.tf_dataset_factory(files, options, transformed.transformed_metadata.schema).repeat()

    class Config:
        hyperparameters = fn_args.custom_config["hyperparameters"]

    net = build_model({"image": keras.Input((64,), name="image")}, Config)
    inputs = {name: keras.Input((1,), name=name) for name in PIXELS}
    model = keras.Model(inputs, net(keras.layers.Concatenate()(list(inputs.values()))))
    model.compile(optimizer=net.optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        examples(fn_args.train_files),
        steps_per_epoch=fn_args.train_steps // fn_args.custom_config["epochs"],
        epochs=fn_args.custom_config["epochs"],
        validation_data=examples(fn_args.eval_files),
        validation_steps=fn_args.eval_steps,
        callbacks=[keras.callbacks.TensorBoard(fn_args.model_run_dir, write_graph=False)],
        verbose=0,
    )
    model.tft_layer = transformed.transform_features_layer()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(serialized):
        spec = transformed.raw_feature_spec()
        spec.pop("label")
        return {"probabilities": model(model.tft_layer(tf.io.parse_example(serialized, spec)))}

    tf.saved_model.save(model, fn_args.serving_model_dir, signatures={"serving_default": serve})
"""


def prepare(folder: Path, home: Path) -> None:
    """Writes the stock pipeline's data, module and settings, and the pip it needs.

    Args:
        folder: Made here.
        home: tfline's home, of which the last run says how many epochs and steps are to be trained.
    """
    from sklearn.datasets import load_digits

    (folder / "data").mkdir(parents=True)
    digits = load_digits()
    with (folder / "data" / "digits.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*(f"p{index:02d}" for index in range(64)), "label"])
        rows.writerows([*map(float, image), int(label)] for image, label in zip(digits.data, digits.target, strict=True))
    (folder / "module").mkdir()
    (folder / "module" / "stock_module.py").write_text(_MODULE, encoding="utf-8")
    shutil.copyfile(DIGITS / "model.py", folder / "module" / "digits_model.py")
    journal = Journal(home)
    stages = journal.stages(journal.runs()[0].run_id)
    counts, epochs = stages["statistics"].summary.metrics, stages["train"].summary.metrics["epochs"]
    config = load_config(DIGITS, home)
    steps = {split: math.ceil(counts[f"{split}_examples"] / config.train.batch_size) for split in config.ingest.splits}
    settings = {"epochs": int(epochs), "train_steps": steps["train"], "validation_steps": steps["validation"]}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "ensurepip", "--root", str(folder / "pip")], check=True, capture_output=True)


class _Stopwatch(logging.Handler):
    """Notes when LocalDagRunner says that a component is running or finished, and the time lost on Prism in each."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: dict[str, tuple[float, float]] = {}
        self.lost: dict[str, tuple[float, float]] = {}
        self._current = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a line of the log."""
        if record.msg == "Component %s is running.":
            self._current = str(record.args[0])  # type: ignore[index]
            self.stages[self._current] = (record.created, record.created)
        elif record.msg == "Component %s is finished.":
            self.stages[self._current] = (self.stages[self._current][0], record.created)

    def time_prism(self) -> None:
        """From now on adds up the seconds and CPU seconds of every attempt to use Prism that fails."""
        from apache_beam.runners.portability.prism_runner import PrismRunner

        attempt = PrismRunner.run_pipeline

        def timed(runner: Any, pipeline: Any, options: Any) -> Any:
            began, cpu_began = time.perf_counter(), time.process_time()
            try:
                return attempt(runner, pipeline, options)
            except Exception:
                seconds, cpu = self.lost.get(self._current, (0.0, 0.0))
                took, cpu_took = time.perf_counter() - began, time.process_time() - cpu_began
                self.lost[self._current] = (seconds + took, cpu + cpu_took)
                raise

        PrismRunner.run_pipeline = timed


def main(folder: Path) -> None:
    """Builds and runs the pipeline in this process.

    Side effects:
        Writes timing.json into `folder`: `stages`, when each began and ended; `lost`, the seconds and CPU seconds of each that
        went into attempts to get Prism.
    """
    from absl import logging as absl_logging
    from tfx import v1 as tfx

    absl_logging.set_verbosity(absl_logging.INFO)
    watch = _Stopwatch()
    absl_logging.get_absl_logger().addHandler(watch)
    watch.time_prism()
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    config = load_config(DIGITS, folder)
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name="digits",
            pipeline_root=str(folder / "root"),
            components=_components(tfx, folder, config, settings),
            metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(str(folder / "metadata.db")),
            enable_cache=True,
        )
    )
    # LocalDagRunner returns normally although nodes failed whose inputs did not resolve.
    if not (folder / "serving").is_dir() or not any((folder / "serving").iterdir()):
        raise SystemExit("the stock pipeline pushed nothing")
    (folder / TIMING).write_text(json.dumps({"stages": watch.stages, "lost": watch.lost}), encoding="utf-8")


def _components(tfx: Any, folder: Path, config: PipelineConfig, settings: Mapping[str, int]) -> list[Any]:
    module, proto = str(folder / "module" / "stock_module.py"), tfx.proto
    shares = [proto.SplitConfig.Split(name=name, hash_buckets=share) for name, share in config.ingest.splits.items()]
    examples = tfx.components.CsvExampleGen(
        input_base=str(folder / "data"), output_config=proto.Output(split_config=proto.SplitConfig(splits=shares))
    )
    raw = examples.outputs["examples"]
    stats = tfx.components.StatisticsGen(examples=raw)
    schema = tfx.components.SchemaGen(statistics=stats.outputs["statistics"])
    checked = tfx.components.ExampleValidator(statistics=stats.outputs["statistics"], schema=schema.outputs["schema"])
    transform = tfx.components.Transform(
        examples=raw,
        schema=schema.outputs["schema"],
        module_file=module,
        splits_config=proto.SplitsConfig(analyze=["train"], transform=list(config.ingest.splits)),
    )
    trainer = tfx.components.Trainer(
        module_file=module,
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        train_args=proto.TrainArgs(splits=["train"], num_steps=settings["epochs"] * settings["train_steps"]),
        eval_args=proto.EvalArgs(splits=["validation"], num_steps=settings["validation_steps"]),
        custom_config={
            "epochs": settings["epochs"],
            "batch_size": config.train.batch_size,
            "hyperparameters": config.model.hyperparameters,
        },
    )
    blessed = tfx.dsl.Resolver(
        strategy_class=tfx.dsl.experimental.LatestBlessedModelStrategy,
        model=tfx.dsl.Channel(type=tfx.types.standard_artifacts.Model),
        model_blessing=tfx.dsl.Channel(type=tfx.types.standard_artifacts.ModelBlessing),
    ).with_id("latest_blessed_model_resolver")
    evaluator = tfx.components.Evaluator(
        examples=raw,
        model=trainer.outputs["model"],
        baseline_model=blessed.outputs["model"],
        example_splits=[config.evaluate.split],
        eval_config=eval_config(config.evaluate),
    )
    pusher = tfx.components.Pusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        push_destination=proto.PushDestination(
            filesystem=proto.PushDestination.Filesystem(base_directory=str(folder / "serving"))
        ),
    )
    return [examples, stats, schema, checked, transform, trainer, blessed, evaluator, pusher]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
