"""The executors under ingest: as TFX's own for each format, but they name a broken file and refuse what those would let through.

Beam's errors name no file. It reads a gzip file that was cut short without any error, as far as it goes, and files without a
record make splits without an example, which fail much later, in training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
from tfx.components.example_gen.base_example_gen_executor import BaseExampleGenExecutor
from tfx.components.example_gen.csv_example_gen import executor as csv_executor
from tfx.components.example_gen.import_example_gen import executor as import_executor
from tfx.proto import example_gen_pb2
from tfx.types import standard_component_specs
from tfx.utils import proto_utils

from components.broken_files import find_broken, find_unnoticed
from components.errors import TflineError
from components.examples import has_records, split_files
from components.ingest import DIGEST_FILE, data_digest
from components.layout import split_names
from components.parquet_rows import row_to_example
from components.records import write_atomically


class _Telling(BaseExampleGenExecutor):
    """What the three have in common; `kind` is the format as the configuration calls it."""

    kind = ""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: dict[str, Any]) -> None:
        """Ingests.

        Raises:
            TflineError: A file is damaged, or a split got no example.
        """
        files = _input_files(exec_properties)
        if reason := find_unnoticed(files, self.kind):
            raise TflineError(reason)
        try:
            super().Do(input_dict, output_dict, exec_properties)
        except Exception as error:
            if reason := find_broken(files, self.kind):
                raise TflineError(reason) from error
            raise
        examples = Path(output_dict[standard_component_specs.EXAMPLES_KEY][0].uri)
        _refuse_empty_splits(examples, files)
        write_atomically(examples / DIGEST_FILE, data_digest(files))


class TFRecordExecutor(_Telling, import_executor.Executor):
    """TFRecord files of tf.Example."""

    kind = "tfrecord"


class CsvExecutor(_Telling, csv_executor.Executor):
    """CSV files with a header."""

    kind = "csv"


class ParquetExecutor(_Telling):
    """Parquet files."""

    kind = "parquet"

    def GetInputSourceToExamplePTransform(self) -> Any:
        """How TFX asks for the reading part."""
        return _parquet_to_examples


@beam.ptransform_fn
@beam.typehints.with_input_types(beam.Pipeline)
@beam.typehints.with_output_types(tf.train.Example)
def _parquet_to_examples(pipeline: Any, exec_properties: dict[str, Any], split_pattern: str) -> Any:
    pattern = f"{exec_properties[standard_component_specs.INPUT_BASE_KEY]}/{split_pattern}"
    return pipeline | "Read" >> beam.io.ReadFromParquet(pattern) | "ToExample" >> beam.Map(row_to_example)


EXECUTORS = {kind.kind: kind for kind in (TFRecordExecutor, CsvExecutor, ParquetExecutor)}


def _input_files(exec_properties: dict[str, Any]) -> list[Path]:
    """The files that TFX's driver chose: it put the span's number into the pattern."""
    chosen = example_gen_pb2.Input()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.INPUT_CONFIG_KEY], chosen)
    folder = Path(exec_properties[standard_component_specs.INPUT_BASE_KEY])
    return sorted(path for path in folder.glob(chosen.splits[0].pattern) if path.is_file())


def _refuse_empty_splits(examples: Path, files: list[Path]) -> None:
    splits = split_names(examples)
    empty = [split for split in splits if not has_records(split_files(examples, split))]
    if empty == splits:
        raise TflineError(f"ingest: there is no record in {', '.join(map(str, files))}")
    if empty:
        raise TflineError(f"ingest.splits: no record fell into split '{empty[0]}'; give it a larger share, or bring more data")
