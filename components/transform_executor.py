"""The executor under transform: TFX's own, but examples go in and come out in batches, where that one takes them one by one."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
from tfx.components.transform import executor as stock
from tfx.components.transform import labels

from components.example_batches import BatchedExamples, write_batches


class _Processor(stock.TransformProcessor):
    """The part of TFX's executor that makes the Beam pipeline."""

    def _CreateTFXIO(self, dataset: Any, schema: Any) -> Any:
        return BatchedExamples(dataset.file_pattern, schema=schema, telemetry_descriptors=["transform"])

    @staticmethod
    @beam.ptransform_fn
    def _EncodeAndWrite(pcoll: Any, schema: Any, file_format: str, output_path: str) -> Any:
        if file_format != labels.FORMAT_TFRECORD:
            raise NotImplementedError(f"expected {labels.FORMAT_TFRECORD}, which ingest writes, got {file_format}")
        return pcoll | "Batches" >> write_batches(schema, output_path)


class Executor(stock.Executor):
    """TFX's executor with the other processor."""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: dict[str, Any]) -> None:
        """Transforms."""
        # TFX's executor asks its module for the processor; there is no other way to give it one.
        before, stock.TransformProcessor = stock.TransformProcessor, _Processor
        try:
            super().Do(input_dict, output_dict, exec_properties)
        finally:
            stock.TransformProcessor = before
