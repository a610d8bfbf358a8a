"""The command that looks at Beam's workers elsewhere."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from pipeline.cli.options import messages
from schemas.errors import ExitCode


def workers(
    beam_arg: Annotated[
        list[str], typer.Option("--beam-arg", help="The Beam options of the runs.")
    ],
    folder: Annotated[
        str, typer.Option(help="Where the runs write; the workers have to see it, too.")
    ] = "work",
    flink: Annotated[
        str | None,
        typer.Option(help="Flink's JobManager, e.g. http://jobmanager:8081: its settings, too."),
    ] = None,
) -> None:
    """Has Beam's workers on a cluster answer a small job, before a run depends on them."""
    with messages():
        from pipeline.flink import check

        wrong = check.check_cluster(flink) if flink else []
        for line in wrong:
            typer.echo(f"{flink}: {line}")
        if wrong:
            raise typer.Exit(ExitCode.FAILED)
        remote = "://" in folder
        if not remote:
            os.makedirs(folder, exist_ok=True)
        place = folder if remote else os.path.abspath(folder)
        if not check.check_workers(check.with_defaults(beam_arg), place):
            typer.echo("with these Beam options there are no workers elsewhere")
            return
    typer.echo("the workers answer, have the same versions, and see the folder")
