"""Examples into Beam and out of it in batches, for stages whose TFX executors read and write them one by one.

A record that is a Beam element of its own costs 20 microseconds on the way in and as much on the way out, most of the time of
statistics and transform on many rows (benchmarks/ingest.py).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf
from apache_beam.transforms.window import GlobalWindows
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder, RecordBatchToExamplesEncoder
from tfx_bsl.tfxio import tensor_representation_util
from tfx_bsl.tfxio.tf_example_record import TFExampleRecord

_RECORDS, _BYTES = 4096, 4 << 20
"""A batch is full with so many records, or as soon as it has so many bytes."""

_READ = 256
"""Records that are read at once; more would fill the memory where each is an image."""


class BatchedExamples(TFExampleRecord):
    """TFRecord files of tf.Example, plain or gzip, as record batches."""

    def BeamSource(self, batch_size: int | None = None) -> Any:
        """A transform from a pipeline to pyarrow.RecordBatch: each of one file, in its order."""
        if self.raw_record_column_name is not None:
            raise ValueError("expected no column for raw records, which batches do not carry")
        files = sorted(file for pattern in self._file_pattern for file in tf.io.gfile.glob(pattern))
        schema = self._GetSchemaForDecoding()
        read = _Read(None if schema is None else schema.SerializeToString(), batch_size or _RECORDS)

        @beam.ptransform_fn
        def source(pipeline: Any) -> Any:
            return pipeline | "Files" >> beam.Create(files) | "Read" >> beam.ParDo(read)

        return source()

    def _ProjectImpl(self, tensor_names: list[str]) -> Any:
        # As the base class has it; that one would return its own kind.
        schema = tensor_representation_util.ProjectTensorRepresentationsInSchema(self._schema, tensor_names)
        return BatchedExamples(self._file_pattern, schema=schema, telemetry_descriptors=self.telemetry_descriptors)


@beam.typehints.with_input_types(str)
@beam.typehints.with_output_types(pa.RecordBatch)
class _Read(beam.DoFn):
    def __init__(self, schema: bytes | None, records: int) -> None:
        self._schema, self._records = schema, records

    def process(self, file: str) -> Iterator[Any]:
        decoder = ExamplesToRecordBatchDecoder(self._schema)
        with tf.io.gfile.GFile(file, "rb") as opened:
            kind = "GZIP" if opened.read(2) == b"\x1f\x8b" else ""
        batch: list[bytes] = []
        size = 0
        for read in tf.data.TFRecordDataset(file, kind).batch(min(_READ, self._records)).as_numpy_iterator():
            batch += read.tolist()
            size += sum(map(len, read))
            if len(batch) >= self._records or size >= _BYTES:
                yield decoder.DecodeBatch(batch)
                batch, size = [], 0
        if batch:
            yield decoder.DecodeBatch(batch)


@beam.ptransform_fn
def write_batches(batches: Any, schema: Any, prefix: str) -> Any:
    """Writes batches as gzip TFRecord files of tf.Example, `<prefix>-00000-of-00001.gz` and so on, one a bundle.

    Args:
        batches: PCollection of tuples, as tensorflow_transform.beam.TransformDataset makes them; their first is a
            pyarrow.RecordBatch.
        schema: Of what the batches hold, a tensorflow_metadata Schema.
        prefix: The files' path up to the number.
    """
    parts = batches | "Write" >> beam.ParDo(_Write(schema, prefix))
    return parts | "Parts" >> beam.combiners.ToList() | "Name" >> beam.Map(_name, prefix)


class _Write(beam.DoFn):
    def __init__(self, schema: Any, prefix: str) -> None:
        self._encoder, self._prefix = RecordBatchToExamplesEncoder(schema), prefix
        self._part = ""
        self._writer: Any = None

    def start_bundle(self) -> None:
        self._part, self._writer = f"{self._prefix}.part-{uuid.uuid4().hex}", None

    def process(self, batch: tuple[Any, Any]) -> None:
        if self._writer is None:
            tf.io.gfile.makedirs(os.path.dirname(self._part))  # noqa: PTH120 - not only of local paths
            self._writer = tf.io.TFRecordWriter(self._part, "GZIP")
        for record in self._encoder.encode(batch[0]):
            self._writer.write(record)

    def finish_bundle(self) -> Iterator[Any]:
        if self._writer is not None:
            self._writer.close()
            yield GlobalWindows.windowed_value(self._part)


def _name(parts: Sequence[str], prefix: str) -> None:
    for number, part in enumerate(sorted(parts)):
        tf.io.gfile.rename(part, f"{prefix}-{number:05d}-of-{len(parts):05d}.gz", overwrite=True)
