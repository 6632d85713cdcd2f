"""Compiles a pipeline for Kubeflow Pipelines 2. The only module that knows kfp's side of TFX."""

from __future__ import annotations

from pathlib import Path

from pipelines.config import PipelineConfig
from pipelines.graph import UserCode, create_pipeline

ENTRYPOINT = ("python", "-m", "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor")


def compile_pipeline(config: PipelineConfig, folder: Path, home: Path, output: Path, *, image: str) -> None:
    """Writes the pipeline as a Kubeflow PipelineSpec, version 2.1.

    Args:
        config: The configuration, paths as the cluster's containers see them.
        folder: The pipeline's folder; its code and curated schema travel inside the spec.
        home: Where artifacts go unless the run names another pipeline root.
        output: The YAML file to write; its folder must exist.
        image: Container image with tfline installed.
    """
    from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
        config=kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
            display_name=config.name,
            default_image=image,
            default_commands=list(ENTRYPOINT),
            use_pipeline_spec_2_1=True,
        ),
        output_dir=str(output.parent),
        output_filename=output.name,
    )
    runner.run(create_pipeline(config, folder, home, UserCode.of(folder, config)))
