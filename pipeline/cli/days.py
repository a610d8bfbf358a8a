"""Commands that run days."""

from __future__ import annotations

import datetime
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import (
    BeamOption,
    DateArgument,
    LogsOption,
    SetOption,
    SpecOption,
    WorkspaceOption,
    dates_between,
    make_console,
    messages,
)
from pipeline.workspace import Workspace
from schemas.errors import ExitCode, RankerError
from schemas.loading import load_spec

if TYPE_CHECKING:
    from pipeline.beam_run import Request
    from pipeline.daily import DayResult, OnProgress
    from schemas.spec import RankingSpec


def run(
    date: DateArgument,
    logs: LogsOption,
    spec: SpecOption,
    workspace: WorkspaceOption = "work",
    overrides: SetOption = None,
    beam_arg: BeamOption = None,
) -> None:
    """Runs one day: trains on the days before it, evaluates on it, pushes if the gate allows."""
    backfill(date, date, logs, spec, workspace, overrides, beam_arg, rerun=True)


def backfill(
    first: DateArgument,
    last: DateArgument,
    logs: LogsOption,
    spec: SpecOption,
    workspace: WorkspaceOption = "work",
    overrides: SetOption = None,
    beam_arg: BeamOption = None,
    keep_going: Annotated[bool, typer.Option(help="Go on after a day that failed.")] = False,
    rerun: Annotated[bool, typer.Option(help="Run days again that have a verdict.")] = False,
) -> None:
    """Runs a range of days in order; skips days that have a verdict."""
    dates = dates_between(first, last)
    with messages():
        declared = load_spec(spec, overrides or [])
        from pipeline import daily

        requests = [
            request_of(workspace, declared, spec, overrides or [], date, logs, beam_arg or [])
            for date in dates
        ]
        with daily.locked(Workspace(workspace)) as lock:
            code = run_days(requests, declared, lock, keep_going=keep_going, rerun=rerun)
        print_days(workspace, declared, {str(date) for date in dates})
    raise typer.Exit(code)


def request_of(
    workspace: str,
    declared: RankingSpec,
    spec_path: str,
    overrides: list[str],
    date: datetime.date,
    logs: str,
    beam_args: list[str],
) -> Request:
    """Says what to run on a day, with absolute paths."""
    from pipeline.beam_run import Request
    from pipeline.daily import beam_args_for

    def absolute(path: str) -> str:
        return path if "://" in path else os.path.abspath(path)

    return Request(
        workspace=absolute(workspace),
        pipeline_name=declared.name,
        spec_path=absolute(spec_path),
        overrides=tuple(overrides),
        run_date=str(date),
        logs_root=absolute(logs),
        beam_args=tuple(beam_args) or beam_args_for(absolute(logs), str(date)),
    )


def run_days(
    requests: list[Request], declared: RankingSpec, lock: int, *, keep_going: bool, rerun: bool
) -> ExitCode:
    """Runs the days, showing where each one is; removes after each what is kept no longer."""
    from rich.markup import escape

    from pipeline import daily, live, notify, retention
    from pipeline.cli import tables
    from pipeline.html_report import write as html_report

    console, begun = make_console(), requests[0]
    with _exit_on_sigterm(), console.status("") as spinner:

        def on_start(request: Request) -> OnProgress:
            nonlocal begun
            begun = request
            display = live.Display(console, spinner)
            return lambda now: display.show(now.component, f"{request.run_date}: {now}")

        def on_end(request: Request, day: DayResult) -> None:
            outcome = day.run.outcome if day.run else "failed"
            reason = tables.why(day.run) if day.run else _last_words(day)
            seconds = f"{day.run.seconds:.0f} s" if day.run else ""
            console.print(f"{request.run_date}: {outcome} {seconds} {escape(reason)}")
            if day.exit_code not in (ExitCode.PUSHED, ExitCode.BLOCKED):
                for line in day.run.reasons if day.run else ():
                    console.print(escape(line), style="red")
                console.print(f"log: {day.log_path}")
            space = Workspace(request.workspace)
            retention.tidy(space, declared)
            spinner.update(f"{request.run_date}: notifying")
            notify.after_day(space, declared, request.run_date, day.run, reason)
            spinner.update(f"{request.run_date}: writing the report")
            page = html_report.write_after_day(space)
            if page is not None:
                console.print(f"report: {page}", soft_wrap=True)

        try:
            return daily.backfill(
                requests, on_start, on_end, lock=lock, keep_going=keep_going, rerun=rerun
            )
        except RankerError as error:
            # A day that could not even begin.
            space = Workspace(begun.workspace)
            notify.after_day(space, declared, begun.run_date, None, str(error))
            raise


def _last_words(day: DayResult) -> str:
    from pipeline import failure

    line = day.failure.message if day.failure else failure.last_line(day.log_path)
    return "died before its first component" + (f": {line}" if line else "")


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Has SIGTERM unwind the stack, so that the day's process is ended, too."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_days(workspace: str, declared: RankingSpec, dates: set[str]) -> None:
    """Prints the table of these days, each by its newest run."""
    from pipeline import lineage
    from pipeline.cli import tables

    store = lineage.open_store(Workspace(workspace).metadata_path)
    if store is None:
        return
    newest = {run.run_date: run for run in lineage.list_runs(store)}
    rows = [newest[date] for date in sorted(dates) if date in newest]
    make_console().print(tables.day_table(rows, list(declared.tasks)))
