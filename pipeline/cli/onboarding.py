"""`steadyrank init` and `steadyrank check`."""

from __future__ import annotations

import datetime
import os
from typing import Annotated

import typer

from pipeline.cli.options import LogsOption, SetOption, SpecOption, messages
from schemas.errors import ExitCode, RankerError
from schemas.loading import load_spec, parse_spec


def check(
    logs: LogsOption,
    spec: SpecOption,
    date: Annotated[
        datetime.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The day to run. [default: the newest]"),
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Checks a spec against its logs in seconds; lists everything that is wrong at once.

    It reads a part of the newest days. Exit codes: 0 a run would get through ingestion;
    11 it would not, or the gate could never pass; 3 the spec itself is wrong.
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
    typer.echo("nothing wrong" if not result.findings else "nothing here stops a run")


def init(
    logs: Annotated[str, typer.Argument(help="Folder with one folder per day.")],
    spec: Annotated[
        str, typer.Option("--spec", "-s", help="The spec file to write.")
    ] = "ranker.yaml",
    event_id: Annotated[
        str | None, typer.Option("--id", help="Field with the event's id. [default: guessed]")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Field that is a label. Repeatable. [default: guessed from the names]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Drafts a spec from a part of the newest days, with a reason for each guess.

    Then it checks it against the logs, as `check` does.
    """
    with messages():
        if os.path.exists(spec) and not force:
            raise RankerError(f"{spec}: already exists; --force replaces it")
        from pipeline.onboarding.check import check_logs
        from pipeline.onboarding.draft import draft_spec
        from pipeline.onboarding.guesses import Role

        stem = os.path.splitext(os.path.basename(spec))[0]
        draft = draft_spec(logs, stem, event_id, label or ())
        findings = check_logs(parse_spec(draft.text, spec), logs).findings
        with open(spec, "w", encoding="utf-8") as file:
            file.write(draft.text)
    for guess in draft.of(Role.EVENT_ID, Role.BINARY, Role.REGRESSION):
        typer.echo(f"{guess.field.source}: {guess.role.value}, {guess.why}")
    typer.echo(f"features: {len(draft.of(Role.CATEGORICAL, Role.DENSE))} fields")
    for guess in draft.of(Role.CATEGORICAL, Role.DENSE):
        if guess.remark:
            typer.echo(f"look at: {guess.field.source}: {guess.remark}")
    for guess in draft.of(Role.UNUSED):
        typer.echo(f"left out: {guess.field.source}: {guess.why}")
    for source, why in draft.unread.items():
        typer.echo(f"left out: {source}: {why}")
    for finding in findings:
        typer.echo(str(finding))
    typer.echo(f"{spec}: read it through, then run: steadyrank check --spec {spec} --logs {logs}")
