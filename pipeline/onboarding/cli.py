"""`steadyrank init` and `steadyrank check`."""

from __future__ import annotations

import datetime
from typing import Annotated

import typer

from pipeline.command import LogsOption, SetOption, SpecOption, messages
from schemas.errors import ExitCode
from schemas.spec import load_spec


def check(
    logs: LogsOption,
    spec: SpecOption,
    date: Annotated[
        datetime.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The day to be run. [default: the newest]"),
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Holds a spec against its logs in seconds; says all that is wrong at once.

    It reads a part of the newest days. Exit codes: 0 a run would get through ingestion;
    11 it would not, or the gate could never pass; 3 the spec is wrong by itself.
    """
    with messages():
        declared = load_spec(spec, overrides or [])
        from pipeline.onboarding.check import check_logs

        result = check_logs(declared, logs, date.date() if date else None)
    for sample in result.samples:
        part = "all" if sample.share == 1 else f"{sample.share:.0%}"
        lines = sample.events.num_rows + len(sample.malformed)
        typer.echo(f"{sample.date}: {lines:,} lines read, {part} of the day", err=True)
    for finding in result.findings:
        typer.echo(str(finding))
    if result.stops:
        raise typer.Exit(ExitCode.BAD_DATA)
    typer.echo("nothing wrong" if not result.findings else "nothing that stops a run")
