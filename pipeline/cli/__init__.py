"""The command line, a module for each group of commands.

Imports of TensorFlow and TFX are left to the commands that need them.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli import kubeflow_package, kubeflow_server, workspace
from pipeline.cli.days import backfill, run
from pipeline.cli.demo import DEMO_DAYS, DEMO_SPEC, demo, simulate
from pipeline.cli.onboarding import check, init
from pipeline.cli.power import power
from pipeline.cli.risk import risk
from pipeline.cli.workers import workers

__all__ = ["DEMO_DAYS", "DEMO_SPEC", "app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=(
        "Trains a multitask ranker day by day and serves only models that pass their gates.\n\n"
        "Exit codes: 0 pushed; 10 blocked by the gate, the old model keeps serving; 11 bad "
        "data; 3 bad spec; 2 bad call; 1 anything else."
    ),
)
for command in (
    run,
    backfill,
    workspace.status,
    workspace.report,
    workspace.rollback,
    workspace.watch,
    workspace.release,
    workspace.clean,
    init,
    check,
    risk,
    power,
    workers,
    demo,
    simulate,
):
    app.command()(command)
kubeflow_app = typer.Typer(
    no_args_is_help=True,
    help="Makes packages for Kubeflow Pipelines; uploads, runs, schedules and backfills there.",
)
# Without a name: their commands, one beside the other.
kubeflow_app.add_typer(kubeflow_package.app)
kubeflow_app.add_typer(kubeflow_server.app)
app.add_typer(kubeflow_app, name="kubeflow")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(f"steadyrank {metadata.version('steadyrank')}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """Options of no single command; `--version` has done its work when this is called."""
    del version


def main() -> None:
    """The console script."""
    app()
