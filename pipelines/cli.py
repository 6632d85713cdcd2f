"""The `tfline` command. Parses and prints; what a command does is in a module of its own, imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from components.errors import TflineError
from serving.errors import ServingError


class _Group(click.Group):
    """Turns tfline's own errors into one message and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (TflineError, ServingError) as error:
            click.echo(f"tfline: {error}", err=True)
            ctx.exit(error.exit_code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which one needs them, not that of the alphabet."""
        return list(self.commands)


_FOLDER = click.argument("folder", type=click.Path(path_type=Path))


def _home(command: Any) -> Any:
    return click.option(
        "--home",
        type=click.Path(path_type=Path, resolve_path=True),
        default=Path(".tfline"),
        show_default=True,
        help="Where runs, artifacts, models and MLflow's records lie.",
    )(command)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(package_name="tfline")
def main() -> None:
    """A production line for TensorFlow models.

    A folder with pipeline.yaml and model.py goes in; a validated SavedModel, a quantized TFLite file and an MLflow record of
    every stage come out.
    """


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
def new(path: Path) -> None:
    """Write a new pipeline, which runs as it is, into the folder PATH.

    The last part of PATH is its name: my_pipeline becomes my-pipeline. Nothing is ever overwritten: the folder is a new or
    an empty one.
    """
    from pipelines.new_command import new_pipeline

    click.echo(new_pipeline(path))


@main.command()
@_FOLDER
@_home
@click.option("--resume", is_flag=True, help="Go on with the last unfinished run.")
@click.option("--from", "first", metavar="STAGE", help="Start here; take what comes before from an earlier run.")
@click.option("--to", "last", metavar="STAGE", help="Stop after this stage.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key of pipeline.yaml; may be repeated.")
@click.option("--env", "environment", default="local", show_default=True, metavar="NAME", help="Overlay environments/NAME.yaml.")
def run(
    folder: Path, home: Path, resume: bool, first: str | None, last: str | None, overrides: tuple[str, ...], environment: str
) -> None:
    """Run the pipeline in FOLDER.

    Exit codes: 0 pushed or nothing to do, 2 bad usage or configuration, 3 a gate refused, 1 anything else.
    """
    from rich.console import Console

    from pipelines.run_command import Options, run_pipeline

    first, last = (stage and stage.replace("_", "-") for stage in (first, last))
    options = Options(environment, overrides, first, last, resume)
    raise SystemExit(run_pipeline(folder, home, options, Console()))


@main.command()
@_home
@click.option("--pipeline", help="Only runs of this pipeline.")
def runs(home: Path, pipeline: str | None) -> None:
    """List the runs, the newest first."""
    from rich.console import Console

    from pipelines.history import list_runs

    list_runs(home, pipeline, Console())


@main.command()
@click.argument("run_id", metavar="RUN")
@_home
def show(run_id: str, home: Path) -> None:
    """Show one run: its stages, results and errors. RUN may be the beginning of an id, or "last"."""
    from rich.console import Console

    from pipelines.history import show_run

    show_run(home, run_id, Console())


@main.command()
@_FOLDER
@_home
@click.option("--accept", is_flag=True, help="Write the inferred schema into FOLDER, where later runs use it.")
@click.option("--env", "environment", default="local", show_default=True, metavar="NAME", help="Overlay environments/NAME.yaml.")
def schema(folder: Path, home: Path, accept: bool, environment: str) -> None:
    """Review the schema that the last run inferred; accept it as the curated one."""
    from pipelines.schema_command import review_schema

    click.echo(review_schema(folder, home, accept=accept, environment=environment))


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@click.option("--tags", default="serve", show_default=True, metavar="TAG,...", help="Tags of the graph to describe.")
def inspect(folder: Path, as_json: bool, tags: str) -> None:
    """Describe the SavedModel in DIR without loading TensorFlow.

    DIR is a SavedModel, a model's folder in a store (its newest version), or a TFX Model artifact. A broken one ends with
    what is broken, and exit code 1.
    """
    from pipelines.inspect_command import inspect_model

    inspect_model(folder, as_json=as_json, tags=[tag for tag in tags.split(",") if tag])


@main.command()
@_home
def track(home: Path) -> None:
    """Write to MLflow what it does not have yet of the runs."""
    from components.tracking import sync

    result = sync(home)
    if result.error:
        raise TflineError(f"{result.error} ({len(result.waiting)} runs still to be written)")
    click.echo(f"{len(result.runs)} runs and {result.stages} stages written to {result.uri}")


@main.command()
@_home
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0, the default, takes a free one.")
def ui(home: Path, port: int) -> None:
    """Open MLflow on the records of this home, on the loopback address. Ctrl-C ends it."""
    import os

    from components.tracking import ui_command

    command = ui_command(home, port)
    os.execvp(command[0], command)  # noqa: S606 - no shell: the server takes this process's place and its signals
