"""Ingest: reads TFRecord, CSV or Parquet into tf.Example, split by a hash of each record.

Output: `examples`, gzip TFRecord files of tf.Example under `Split-<name>/`. A record's split depends on its content alone, never on its
place, so the same example is in the same split whatever else arrives. With `{SPAN}` in the pattern, the newest span is read.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from components.errors import TflineError, UsageError
from components.isolate import run_isolated
from components.layout import split_dir, split_names
from components.summary import Summary

DIGEST_FILE = "data-digest.txt"
SUFFIXES = {"tfrecord": ("tfrecord", "tfrecord.gz"), "csv": ("csv",), "parquet": ("parquet",)}


class Prepare(BaseModel):
    """A function of the pipeline's folder that writes the data, called once, when `path` does not exist.

    Attributes:
        function: "file.py:function"; called as function(folder, **arguments), it writes its files into `folder`.
        arguments: Passed on.
        timeout_seconds: The limit for writing the data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    function: str = Field(pattern=r"^[\w/]+\.py:\w+$")
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    timeout_seconds: float = Field(default=3600, gt=0)


class Config(BaseModel):
    """Where the data is.

    Attributes:
        format: What the files are.
        path: Their folder; relative to the pipeline's folder, `{home}` stands for tfline's home.
        pattern: Glob below `path`; may contain {SPAN}, as in "span-{SPAN}/*". None: every file of the format.
        splits: Name to share; 7, 1 and 2 put seven tenths into the first.
        prepare: Makes the data when `path` does not exist.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["tfrecord", "csv", "parquet"]
    path: str
    pattern: str | None = None
    splits: dict[str, int] = Field(default_factory=lambda: {"train": 8, "eval": 2})
    prepare: Prepare | None = None

    def glob(self) -> str:
        """The pattern that TFX gets."""
        return self.pattern or f"*.{SUFFIXES[self.format][0]}*"


def input_files(config: Config) -> list[Path]:
    """The files that the newest span, or the pattern, stands for; sorted.

    Raises:
        UsageError: The path is missing, or nothing matches, or all that matches is empty.
    """
    folder = Path(config.path)
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        raise UsageError(f"ingest.path: expected a folder with {config.format} files, found {what} at {folder}")
    files = sorted(path for path in folder.glob(config.glob().replace("{SPAN}", "*")) if path.is_file())
    if not files:
        raise UsageError(f"ingest.pattern: no file in {folder} matches {config.glob()}")
    if "{SPAN}" in config.glob():
        files = _newest_span(files, folder, config.glob())
    if not any(path.stat().st_size for path in files):
        raise UsageError(f"ingest: every file that matches {config.glob()} in {folder} is empty")
    return files


def _newest_span(files: Sequence[Path], folder: Path, pattern: str) -> list[Path]:
    before, after = (re.escape(part).replace(r"\*", "[^/]*") for part in pattern.split("{SPAN}"))
    spans: dict[int, list[Path]] = {}
    for path in files:
        if found := re.fullmatch(f"{before}(\\d+){after}", path.relative_to(folder).as_posix()):
            spans.setdefault(int(found[1]), []).append(path)
    if not spans:
        raise UsageError(f"ingest.pattern: no file in {folder} has a number in the place of {{SPAN}} in {pattern}")
    return spans[max(spans)]


def prepare(config: Config, pipeline_folder: Path) -> bool:
    """Makes the data when it is not there yet.

    Returns:
        Whether it was made just now.

    Raises:
        UsageError: The data there was made by other arguments than the config's.
        TflineError: The function failed.

    Side effects:
        The folder `config.path` appears whole, by a rename.
    """
    if config.prepare is None:
        return False
    target, marker = Path(config.path), Path(config.path, ".prepared.json")
    asked = {"function": config.prepare.function, "arguments": config.prepare.arguments}
    if target.exists():
        if marker.exists() and json.loads(marker.read_text(encoding="utf-8")) != asked:
            raise UsageError(f"ingest.prepare: the data in {target} was made by {marker.read_text()}; move it away to make it anew")
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    staging.chmod(0o755)
    file, function = config.prepare.function.split(":")
    arguments = {"file": str(pipeline_folder / file), "function": function, "folder": str(staging)}
    try:
        run_isolated(
            "components.ingest:call_user_function",
            {**arguments, "arguments": config.prepare.arguments},
            timeout_seconds=config.prepare.timeout_seconds,
            log=staging / ".prepare.log",
        )
    except TflineError as error:
        shutil.rmtree(staging)
        raise TflineError(f"ingest.prepare: {config.prepare.function} failed: {error}") from error
    Path(staging, ".prepared.json").write_text(json.dumps(asked), encoding="utf-8")
    os.rename(staging, target)
    return True


def call_user_function(file: str, function: str, folder: str, arguments: dict[str, Any]) -> None:
    """Calls a function of a Python file; what `prepare` runs in a process of its own."""
    import importlib.util
    import sys

    sys.path.insert(0, str(Path(file).parent))
    spec = importlib.util.spec_from_file_location("tfline_user_data", file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise UsageError(f"expected a Python file at {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["tfline_user_data"] = module
    spec.loader.exec_module(module)
    getattr(module, function)(Path(folder), **arguments)


def find_broken(files: Sequence[Path], kind: str) -> str:
    """Reads files to the end and describes the first that cannot be read; "" when all can."""
    for path in files:
        try:
            _read_through(path, kind)
        except (OSError, EOFError, ValueError, csv.Error) as error:
            return f"{path} is not a whole {kind} file: {str(error).splitlines()[0]}"
    return ""


def _read_through(path: Path, kind: str) -> None:
    if kind == "parquet":
        import pyarrow.parquet

        for _ in pyarrow.parquet.ParquetFile(path).iter_batches():
            pass
    elif kind == "csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, strict=True)
            width = len(next(rows, []))
            for row in rows:
                if row and len(row) != width:
                    raise ValueError(f"line {rows.line_num} has {len(row)} values, the header {width}")
    else:
        _read_tfrecord(path)


def _read_tfrecord(path: Path) -> None:
    import tensorflow as tf

    if path.suffix == ".gz":
        with gzip.open(path) as file:
            while file.read(1 << 20):
                pass
    count = 0
    try:
        for record in tf.data.TFRecordDataset(str(path), compression_type="GZIP" if path.suffix == ".gz" else ""):
            tf.train.Example.FromString(record.numpy())
            count += 1
    except tf.errors.DataLossError as error:
        raise ValueError(f"after {count} records: {error.message}") from None
    except Exception as error:
        raise ValueError(f"record {count} is no tf.Example: {error}") from None


def explain(config: Config) -> str:
    """Why reading failed, for people: Beam's error does not name the file. "" when the files are not to blame."""
    return find_broken(input_files(config), config.format)


def component(config: Config) -> Any:
    """The TFX component: the stock example gen of the format."""
    from tfx.components import CsvExampleGen, ImportExampleGen
    from tfx.components.example_gen.component import FileBasedExampleGen
    from tfx.components.example_gen.custom_executors import parquet_executor
    from tfx.dsl.components.base import executor_spec
    from tfx.proto import example_gen_pb2

    split = example_gen_pb2.SplitConfig.Split
    splits = [split(name=name, hash_buckets=share) for name, share in config.splits.items()]
    arguments: dict[str, Any] = {
        "input_base": config.path,
        "input_config": example_gen_pb2.Input(splits=[example_gen_pb2.Input.Split(name="all", pattern=config.glob())]),
        "output_config": example_gen_pb2.Output(split_config=example_gen_pb2.SplitConfig(splits=splits)),
    }
    if config.format == "tfrecord":
        made = ImportExampleGen(**arguments)
    elif config.format == "csv":
        made = CsvExampleGen(**arguments)
    else:
        parquet = executor_spec.BeamExecutorSpec(parquet_executor.Executor)
        made = FileBasedExampleGen(**arguments, custom_executor_spec=parquet)
    return made.with_id("ingest")


def note_data_digest(config: Config, examples: Path) -> None:
    """Writes the SHA-256 over names and contents of the input files beside the examples that were made of them.

    Reading everything once more costs little beside the ingest itself, and a cached stage then knows its data without reading any.
    """
    digest = hashlib.sha256()
    for path in input_files(config):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    (examples / DIGEST_FILE).write_text(digest.hexdigest(), encoding="utf-8")


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """Splits and bytes of the examples, and the digest of the data they were made from."""
    examples = Path(outputs["examples"][0])
    sizes = {name: sum(path.stat().st_size for path in split_dir(examples, name).iterdir()) for name in split_names(examples)}
    metrics = {f"{name}_bytes": float(size) for name, size in sizes.items()}
    digest = examples / DIGEST_FILE
    params = {"data_digest": digest.read_text(encoding="utf-8")} if digest.exists() else {}
    return Summary(headline=f"{sum(sizes.values()) / 1000:,.0f} kB in {', '.join(sizes)}", metrics=metrics, params=params)
