"""The executor under statistics: TFDV on batches of examples, where TFX's StatisticsGen reads them one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics import stats_impl
from tfx import types
from tfx.components import StatisticsGen
from tfx.dsl.components.base import base_component, executor_spec
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import artifact_utils, component_spec, standard_artifacts, standard_component_specs
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components.example_batches import BatchedExamples
from components.examples import records
from components.layout import STATISTICS_FILE, split_dir

_EXAMPLES, _STATISTICS = standard_component_specs.EXAMPLES_KEY, standard_component_specs.STATISTICS_KEY


# Bytes of an artifact, compressed. Up to here TFDV is quicker with a split in memory than Beam is with its graph, four seconds;
# with the 100,000 rows of trips in benchmarks/RESULTS.md it was slower.
SMALL = 1_000_000


class Executor(BaseBeamExecutor):
    """Writes each split's statistics, a DatasetFeatureStatisticsList proto."""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: dict[str, Any]) -> None:
        """Computes what StatisticsGen does without options: the statistics of all features, of all examples."""
        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(input_dict[_EXAMPLES])
        statistics = artifact_utils.get_single_instance(output_dict[_STATISTICS])
        statistics.split_names = examples.split_names
        statistics.span = examples.span
        splits = artifact_utils.decode_split_names(examples.split_names)
        sources = {
            split: sorted(path for path in split_dir(Path(examples.uri), split).iterdir() if path.is_file()) for split in splits
        }
        if sum(path.stat().st_size for paths in sources.values() for path in paths) <= SMALL:
            for split, paths in sources.items():
                write_at_once(paths, split_dir(Path(statistics.uri), split) / STATISTICS_FILE)
            return
        with self._make_beam_pipeline() as pipeline:
            for split in splits:
                folder = split_dir(Path(statistics.uri), split)
                folder.mkdir(parents=True, exist_ok=True)
                source = BatchedExamples(str(split_dir(Path(examples.uri), split) / "*"), telemetry_descriptors=["statistics"])
                _ = (
                    pipeline
                    | f"Read[{split}]" >> source.BeamSource()
                    | f"Generate[{split}]" >> tfdv.GenerateStatistics(tfdv.StatsOptions())
                    | f"Write[{split}]" >> tfdv.WriteStatisticsToBinaryFile(str(folder / STATISTICS_FILE))
                )


def write_at_once(files: Sequence[Path], target: Path) -> None:
    """Writes the statistics of a split without Beam: what GenerateStatistics makes of it, but for the last digit of means."""
    serialized = [record.numpy() for record in records(list(map(str, files)))]
    batch = ExamplesToRecordBatchDecoder().DecodeBatch(serialized)
    found = stats_impl.generate_statistics_in_memory(batch, tfdv.StatsOptions())
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(found.SerializeToString())


class _Spec(types.ComponentSpec):
    PARAMETERS: ClassVar[dict[str, Any]] = {"code_digest": component_spec.ExecutionParameter(type=str)}
    INPUTS: ClassVar[dict[str, Any]] = {_EXAMPLES: component_spec.ChannelParameter(type=standard_artifacts.Examples)}
    OUTPUTS: ClassVar[dict[str, Any]] = {_STATISTICS: component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics)}
    TYPE_ANNOTATION = standard_component_specs.StatisticsGenSpec.TYPE_ANNOTATION


class Statistics(StatisticsGen):
    """StatisticsGen with this executor; the digest of our code is there for TFX's cache key."""

    SPEC_CLASS = _Spec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(self, examples: Any, code_digest: str) -> None:
        made = types.Channel(type=standard_artifacts.ExampleStatistics)
        base_component.BaseComponent.__init__(self, _Spec(examples=examples, code_digest=code_digest, statistics=made))
