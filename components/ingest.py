"""Ingest: reads TFRecord, CSV or Parquet into tf.Example, split by a hash of each record.

Output: `examples`, gzip TFRecord files of tf.Example under `Split-<name>/`. A record's split depends on its content alone,
never on its place, so the same example is in the same split whatever else arrives. With `{SPAN}` in the pattern, the newest
span is read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from components.code import stage_digest
from components.errors import TflineError, UsageError
from components.isolate import run_isolated
from components.layout import split_dir, split_names
from components.records import write_atomically
from components.summary import Summary

DIGEST_FILE = "data-digest.txt"
PATTERNS = {"tfrecord": "*.tfrecord*", "csv": "*.csv", "parquet": "*.parquet"}

# As tfx/components/example_gen/utils.py has it: {SPAN:3} for numbers that are padded with zeros to three digits.
_SPAN = re.compile(r"\{SPAN(?::([1-9]\d*))?\}")


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
        pattern: Glob below `path`; may contain {SPAN}, as in "span-{SPAN}/*", or {SPAN:3} for "span-007". None: every file of the
            format that lies in `path` itself.
        splits: Name to share; 7, 1 and 2 put seven tenths into the first.
        prepare: Makes the data when `path` does not exist.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["tfrecord", "csv", "parquet"]
    path: str
    pattern: str | None = None
    splits: dict[str, int] = Field(default_factory=lambda: {"train": 8, "eval": 2})
    prepare: Prepare | None = None

    @field_validator("pattern")
    @classmethod
    def _means_the_same_to_all(cls, pattern: str | None) -> str | None:
        # TFX and Beam each have a glob of their own; they agree on these.
        rest = _SPAN.sub("", pattern or "")
        if "**" in rest or "{" in rest or len(_SPAN.findall(pattern or "")) > 1:
            raise ValueError(f"expected *, ? and [...] and at most one {{SPAN}} or {{SPAN:width}}, got '{pattern}'")
        return pattern

    def glob(self) -> str:
        """The pattern that TFX gets."""
        return self.pattern or PATTERNS[self.format]


def input_files(config: Config) -> list[Path]:
    """The files that the newest span, or the pattern, stands for; sorted.

    Raises:
        UsageError: The path is missing, or nothing matches, or all that matches is empty, or a span is no number.
    """
    folder = Path(config.path)
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        raise UsageError(f"ingest.path: expected a folder with {config.format} files, found {what} at {folder}")
    found = sorted(folder.glob(_SPAN.sub("*", config.glob())))
    if found and (span := _SPAN.search(config.glob())):
        found = _newest_span(found, folder, span)
    files = [path for path in found if path.is_file()]
    if not files:
        raise UsageError(f"ingest.pattern: no file in {folder} matches {config.glob()}")
    if not any(path.stat().st_size for path in files):
        raise UsageError(f"ingest: every file that matches {config.glob()} in {folder} is empty")
    return files


def _newest_span(paths: Sequence[Path], folder: Path, span: re.Match[str]) -> list[Path]:
    """The paths of the greatest span, as TFX's driver would choose it; it raises for what is no number, so this does too."""
    before, after = (_as_regex(part) for part in (span.string[: span.start()], span.string[span.end() :]))
    number = re.compile(f"{before}({f'.{{{span[1]}}}' if span[1] else '.*'}){after}")
    spans: dict[int, list[Path]] = {}
    for path in paths:
        found = number.fullmatch(path.relative_to(folder).as_posix())
        if not found or not re.fullmatch("[0-9]+", found[1]):
            raise UsageError(f"ingest.pattern: expected a number in the place of {span[0]} in {span.string}, found {path}")
        if not span[1] and found[1] != str(int(found[1])):
            width = f"{{SPAN:{len(found[1])}}}"
            raise UsageError(f"ingest.pattern: {path} has a span with leading zeros; write {width} instead of {{SPAN}}")
        spans.setdefault(int(found[1]), []).append(path)
    return spans[max(spans)]


def _as_regex(glob: str) -> str:
    wild = {"*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*|\?|\[[^]]+\])", glob)
    return "".join(wild.get(part, part if part.startswith("[") else re.escape(part)) for part in parts)


def prepare(config: Config, pipeline_folder: Path) -> bool:
    """Makes the data when it is not there yet.

    Returns:
        Whether it was made just now.

    Raises:
        UsageError: The data there was made by other arguments than the config's.
        TflineError: The function failed, or wrote no file that `ingest` would read.

    Side effects:
        The folder `config.path` appears whole, by a rename; beside it, `.<name>.prepared.json` says what made it.
    """
    if config.prepare is None:
        return False
    target = Path(config.path)
    # Beside the data, not in it: a pattern such as * would take it for data.
    marker = target.with_name(f".{target.name}.prepared.json")
    asked = {"function": config.prepare.function, "arguments": config.prepare.arguments}
    if target.exists():
        if marker.exists() and json.loads(marker.read_text(encoding="utf-8")) != asked:
            made = marker.read_text(encoding="utf-8")
            raise UsageError(f"ingest.prepare: the data in {target} was made by {made}; move it away to make it anew")
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    staging.chmod(0o755)
    file, function = config.prepare.function.split(":")
    arguments = {"file": str(pipeline_folder / file), "function": function, "folder": str(staging)}
    try:
        with tempfile.NamedTemporaryFile(prefix="tfline-prepare-", suffix=".log") as log:
            run_isolated(
                "components.ingest:call_user_function",
                {**arguments, "arguments": config.prepare.arguments},
                timeout_seconds=config.prepare.timeout_seconds,
                log=Path(log.name),
            )
        if not any(staging.glob(_SPAN.sub("*", config.glob()))):
            raise TflineError(f"it wrote no file that matches {config.glob()}")
        # First, so that there is never data of which nobody knows who made it.
        write_atomically(marker, json.dumps(asked))
        staging.rename(target)
    except TflineError as error:
        raise TflineError(f"ingest.prepare: {config.prepare.function} failed: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return True


def call_user_function(file: str, function: str, folder: str, arguments: dict[str, Any]) -> None:
    """Calls a function of a Python file; what `prepare` runs in a process of its own.

    Raises:
        TflineError: There is no such file or function, or it raised; the message has the line in the file.
    """
    import importlib.util
    import sys

    sys.path.insert(0, str(Path(file).parent))
    spec = importlib.util.spec_from_file_location("tfline_user_data", file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise UsageError(f"expected a Python file at {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["tfline_user_data"] = module
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, function):
            raise UsageError(f"{Path(file).name} has no function {function}")
        getattr(module, function)(Path(folder), **arguments)
    except Exception as error:
        traceback.print_exc()
        line = next(
            (frame.lineno for frame in reversed(traceback.extract_tb(error.__traceback__)) if frame.filename == file), None
        )
        if line is None:
            raise
        raise TflineError(f"{Path(file).name}:{line}: {type(error).__name__}: {error}") from error


def component(config: Config) -> Any:
    """The TFX component: the stock example gen, with the format's executor of `components.ingest_executor`."""
    from google.protobuf import wrappers_pb2
    from tfx.components.example_gen.component import FileBasedExampleGen
    from tfx.dsl.components.base import executor_spec
    from tfx.proto import example_gen_pb2

    from components.ingest_executor import EXECUTORS

    # The executors have no use for it; it is here for the cache key, which knows an executor by its name alone.
    code = example_gen_pb2.CustomConfig()
    code.custom_config.Pack(wrappers_pb2.StringValue(value=stage_digest("components.ingest")))
    split = example_gen_pb2.SplitConfig.Split
    splits = [split(name=name, hash_buckets=share) for name, share in config.splits.items()]
    return FileBasedExampleGen(
        input_base=config.path,
        input_config=example_gen_pb2.Input(splits=[example_gen_pb2.Input.Split(name="all", pattern=config.glob())]),
        output_config=example_gen_pb2.Output(split_config=example_gen_pb2.SplitConfig(splits=splits)),
        custom_config=code,
        custom_executor_spec=executor_spec.BeamExecutorSpec(EXECUTORS[config.format]),
    ).with_id("ingest")


def data_digest(files: Sequence[Path]) -> str:
    """SHA-256 (hex) over names and contents of files.

    Reading everything once more costs little beside the ingest, and whatever is made of the examples later knows its data.
    """
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """Splits and bytes of the examples, and the digest of the data they were made from."""
    examples = Path(outputs["examples"][0])
    sizes = {name: sum(path.stat().st_size for path in split_dir(examples, name).iterdir()) for name in split_names(examples)}
    metrics = {f"{name}_bytes": float(size) for name, size in sizes.items()}
    digest = examples / DIGEST_FILE
    params = {"data_digest": digest.read_text(encoding="utf-8")} if digest.exists() else {}
    return Summary(headline=f"{sum(sizes.values()) / 1000:,.0f} kB in {', '.join(sizes)}", metrics=metrics, params=params)
