"""The executor under ingest. Unlike TFX's own it names a broken file, and refuses what those would let through.

Beam's errors name no file. Beam's readers take a gzip file that was cut short for one that ends there, and files without a record
make splits without an example, which fail much later, in training.

    files ── CSV only: types of the columns, of all files ──┐
      └───────── a shard: read, encode, deal out, write ────┴──> Split-<name>/data_tfrecord-*.gz

What Beam sees is shards; records pass through in batches, so memory does not grow with the data.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
from tfx.components.util import examples_utils
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

from components import csv_rows, parquet_rows
from components.broken_files import FRAME, find_broken, find_unnoticed, gzip_size
from components.errors import TflineError
from components.ingest import DIGEST_FILE, data_digest
from components.layout import split_dir
from components.records import write_atomically
from components.split_shards import group, name_shards, write_shard


class _Executor(BaseBeamExecutor):
    """What the formats have in common; `kind` is the format as the configuration calls it."""

    kind = ""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: dict[str, Any]) -> None:
        """Ingests.

        Raises:
            TflineError: A file is damaged, or a split got no example.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        artifact = artifact_utils.get_single_instance(output_dict[standard_component_specs.EXAMPLES_KEY])
        files, splits = _input_files(exec_properties), _splits(exec_properties)
        if reason := find_unnoticed(files, self.kind):
            raise TflineError(reason)
        examples = Path(artifact.uri)
        for split in splits:
            # What a run that was killed left there would be read beside what this one writes.
            shutil.rmtree(split_dir(examples, split), ignore_errors=True)
            split_dir(examples, split).mkdir(parents=True)
        try:
            with self._make_beam_pipeline() as pipeline:
                shards = pipeline | "Shards" >> beam.Create(list(enumerate(group(files))))
                types = beam.pvalue.AsSingleton(self._types(shards))
                _ = shards | "Write" >> beam.Map(_write_shard, types, kind=self.kind, examples=str(examples), splits=splits)
        except Exception as error:
            if reason := find_broken(files, self.kind):
                raise TflineError(reason) from error
            raise
        _refuse_empty_splits(name_shards(examples, splits), files)
        artifact.split_names = artifact_utils.encode_split_names(list(splits))
        examples_utils.set_payload_format(artifact, example_gen_pb2.FORMAT_TF_EXAMPLE)
        examples_utils.set_file_format(artifact, "tfrecords_gzip")
        write_atomically(examples / DIGEST_FILE, data_digest(files))

    def _types(self, shards: Any) -> Any:
        """A type for each column by name, in one dictionary; empty where the format itself says it."""
        return shards.pipeline | "NoTypes" >> beam.Create([{}])


class TFRecordExecutor(_Executor):
    """TFRecord files of tf.Example."""

    kind = "tfrecord"


class CsvExecutor(_Executor):
    """CSV files with a header."""

    kind = "csv"

    def _types(self, shards: Any) -> Any:
        return shards | "Infer" >> beam.Map(_infer_types) | "Widen" >> beam.CombineGlobally(_widest)


class ParquetExecutor(_Executor):
    """Parquet files."""

    kind = "parquet"


EXECUTORS = {kind.kind: kind for kind in (TFRecordExecutor, CsvExecutor, ParquetExecutor)}


def _infer_types(shard: tuple[int, list[str]]) -> dict[str, int]:
    return _widest(csv_rows.infer_types(Path(file)) for file in shard[1])


def _widest(found: Iterable[Mapping[str, int]]) -> dict[str, int]:
    types: dict[str, int] = {}
    for part in found:
        types.update({name: max(kind, types.get(name, kind)) for name, kind in part.items()})
    return types


def _write_shard(
    shard: tuple[int, list[str]], types: Mapping[str, int], kind: str, examples: str, splits: Mapping[str, int]
) -> None:
    number, files = shard
    records = (record for file in files for batch in _READERS[kind](Path(file), types) for record in batch)
    write_shard(records, number, Path(examples), splits)


def _read_csv(path: Path, types: Mapping[str, int]) -> Iterator[list[bytes]]:
    for columns in csv_rows.read_columns(path):
        yield csv_rows.encode(columns, types)


def _read_parquet(path: Path, types: Mapping[str, int]) -> Iterator[list[bytes]]:
    del types
    for rows in parquet_rows.read_rows(path):
        yield [parquet_rows.row_to_example(row).SerializeToString(deterministic=True) for row in rows]


def _read_tfrecord(path: Path, types: Mapping[str, int]) -> Iterator[list[bytes]]:
    del types
    compressed = path.suffix == ".gz"
    whole = 0
    for batch in tf.data.TFRecordDataset(str(path), "GZIP" if compressed else "").batch(1024).as_numpy_iterator():
        records: list[bytes] = batch.tolist()
        whole += sum(map(len, records)) + FRAME * len(records)
        yield records
    # TensorFlow takes a record whose head is cut short for the end of the file.
    if whole != (gzip_size(path) if compressed else path.stat().st_size):
        raise TflineError(f"{path} ends within a record")


_READERS: dict[str, Callable[[Path, Mapping[str, int]], Iterator[list[bytes]]]] = {
    "tfrecord": _read_tfrecord,
    "csv": _read_csv,
    "parquet": _read_parquet,
}


def _input_files(exec_properties: dict[str, Any]) -> list[Path]:
    """The files that TFX's driver chose: it put the span's number into the pattern."""
    chosen = example_gen_pb2.Input()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.INPUT_CONFIG_KEY], chosen)
    folder = Path(exec_properties[standard_component_specs.INPUT_BASE_KEY])
    return sorted(path for path in folder.glob(chosen.splits[0].pattern) if path.is_file())


def _splits(exec_properties: dict[str, Any]) -> dict[str, int]:
    output = example_gen_pb2.Output()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.OUTPUT_CONFIG_KEY], output)
    return {split.name: split.hash_buckets for split in output.split_config.splits}


def _refuse_empty_splits(shards: Mapping[str, int], files: list[Path]) -> None:
    empty = [split for split, count in shards.items() if not count]
    if len(empty) == len(shards):
        raise TflineError(f"ingest: there is no record in {', '.join(map(str, files))}")
    if empty:
        raise TflineError(f"ingest.splits: no record fell into split '{empty[0]}'; give it a larger share, or bring more data")
