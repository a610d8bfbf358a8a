"""Commands that make a package for Kubeflow Pipelines, check it, and run it on this machine."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components import properties
from pipeline.cli.options import ParameterOption, messages, parse_parameters
from pipeline.kubeflow.local.backends import BACKENDS, NEWEST
from schemas.errors import ExitCode

if TYPE_CHECKING:
    from pipeline.kubeflow.local.runner import RunResult, StepResult

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Makes the package for Kubeflow Pipelines, checks it, and runs it on this machine.",
)

VALUES = "kubeflow/values.yaml"
PACKAGE = "work/kubeflow/pipeline.yaml"

ValuesOption = Annotated[str, typer.Option("--values", "-f", help="The deployment's values.")]


@app.command("compile")
def compile_command(
    values: ValuesOption = VALUES,
    output: Annotated[str, typer.Option("--output", "-o", help="File to write (.yaml).")] = PACKAGE,
) -> None:
    """Compiles the pipeline to a package for Kubeflow Pipelines."""
    with messages():
        from pipeline.kubeflow.values import load_values

        loaded = load_values(values)
        from pipeline.kubeflow.compile import compile_package
        from pipeline.kubeflow.package import write_package

        write_package(compile_package(loaded), output)
    typer.echo(output)


@app.command("lint")
def lint_command(
    package: Annotated[str, typer.Argument(help="A compiled package (.yaml).")] = PACKAGE,
) -> None:
    """Lists what open-source Kubeflow Pipelines could not run in a package."""
    with messages():
        from pipeline.kubeflow.lint import lint
        from pipeline.kubeflow.package import load_package

        problems = lint(load_package(package))
    for problem in problems:
        typer.echo(f"{package}: {problem}", err=True)
    if problems:
        raise typer.Exit(ExitCode.FAILED)
    typer.echo(f"{package}: no problems found")


@app.command("local-run")
def local_run_command(
    package: Annotated[str, typer.Argument(help="A compiled package (.yaml).")] = PACKAGE,
    parameter: ParameterOption = None,
    root: Annotated[Path, typer.Option(help="Folder of the object stores and the runs.")] = Path(
        "work/kubeflow/local"
    ),
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Steps at once.")] = 2,
    schedule_time: Annotated[
        str | None, typer.Option(help="The time that a schedule made the run for.")
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            help="Release of Kubeflow Pipelines to run like, "
            f"{BACKENDS[0].since} to {BACKENDS[-1].since}."
        ),
    ] = NEWEST,
    container: Annotated[
        str,
        typer.Option(
            metavar="COMMAND",
            help="Run each step in its image; how to start a container: 'docker run --network "
            "none'. Run parameters are paths in it.",
        ),
    ] = "",
    wait: Annotated[bool, typer.Option(help="Wait before retries as the package says.")] = True,
) -> None:
    """Runs a package step by step on this machine, as Kubeflow would.

    Exit codes: 0 pushed; 10 blocked by the gate; 1 a step failed.
    """
    from pipeline.kubeflow.local.runner import BUILT_IN_ROOT, run_package
    from pipeline.kubeflow.package import load_package

    def on_step(step: StepResult) -> None:
        if step.attempts:
            typer.echo(f"{step.name}: {step.state} ({step.seconds:.0f} s)", err=True)

    parameters = parse_parameters(parameter)
    with messages():
        documents = load_package(package)
        # As `submit` and `schedule` give it.
        given = isinstance(documents[0], dict) and documents[0].get("defaultPipelineRoot")
        result = run_package(
            documents,
            root,
            parameters,
            pipeline_root=given or BUILT_IN_ROOT,
            backend=backend,
            jobs=jobs,
            schedule_time=schedule_time,
            container=shlex.split(container),
            on_step=on_step,
            sleep=time.sleep if wait else lambda seconds: None,
        )
    _print(result)
    code = result.exit_code
    raise typer.Exit(
        code if code or 1.0 in result.find(properties.PUSHED.name) else ExitCode.BLOCKED
    )


def _print(result: RunResult) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for column in ("step", "state", "seconds", "attempts", "log"):
        table.add_column(column, justify="right" if column in ("seconds", "attempts") else "left")
    for step in result.steps.values():
        table.add_row(step.name, step.state, f"{step.seconds:.0f}", str(step.attempts), step.log)
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)
    console.print(f"run {result.run_id}: {result.folder}", markup=False, soft_wrap=True)
    for version in result.find(properties.PUSHED_VERSION.name):
        console.print(f"pushed version {version}", markup=False)
    for step in result.steps.values():
        if step.state == "failed":
            console.print(step.error, style="red", markup=False)
