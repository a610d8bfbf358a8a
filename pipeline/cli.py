"""The command line. Imports of TensorFlow and TFX are left to the commands that need them."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.command import (
    DateArgument,
    LogsOption,
    SetOption,
    SpecOption,
    WorkspaceOption,
    dates_between,
    messages,
)
from pipeline.flink.cli import workers
from pipeline.kubeflow import cli as kubeflow_cli
from pipeline.kubeflow import client_cli
from pipeline.onboarding.cli import check, init
from pipeline.power_cli import power
from pipeline.risk_cli import risk
from pipeline.workspace import LOCK_FILE, Workspace
from schemas.errors import ExitCode, RankerError
from schemas.loading import load_spec

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.beam_run import Request
    from pipeline.daily import DayResult, OnProgress
    from schemas.spec import RankingSpec

DEMO_SPEC = str(Path(__file__).parent.parent / "schemas" / "demo.yaml")

DEMO_DAYS = 7
DEMO_MARKER = ".demo"
"""File in the workspace of a demo: what may be deleted by the next one."""
DEMO_FIRST_RUN = 2
DEMO_GROWN_DAY = 4
"""Number of the day from which on the model is `DEMO_GROWN`; on it, nothing is clipped."""
DEMO_GROWN = "{shared: [512, 256, 128], tower: [32], cross_layers: 1}"

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


app.command()(risk)
app.command()(power)
app.command()(init)
app.command()(check)
app.command()(workers)
kubeflow_app = typer.Typer(
    no_args_is_help=True,
    help="Makes packages for Kubeflow Pipelines; uploads, runs, schedules and backfills there.",
)
# Without a name: their commands, one beside the other.
kubeflow_app.add_typer(kubeflow_cli.app)
kubeflow_app.add_typer(client_cli.app)
app.add_typer(kubeflow_app, name="kubeflow")

BeamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--beam-arg",
        help="Beam option of the components, e.g. --runner=PortableRunner; paths are absolute.",
    ),
]
SeedOption = Annotated[int, typer.Option(min=0)]


@app.command()
def simulate(
    logs: LogsOption,
    start: Annotated[datetime.datetime, typer.Option(formats=["%Y-%m-%d"])],
    days: Annotated[int, typer.Option(min=1)] = 7,
    rows: Annotated[int, typer.Option(min=1, help="Events a day.")] = 30_000,
    seed: SeedOption = 0,
) -> None:
    """Writes simulated event logs that drift, for `schemas/demo.yaml`."""
    from pipeline.simulate import BURN_IN, write_logs

    try:
        _ = start - datetime.timedelta(days=BURN_IN), start + datetime.timedelta(days=days)
    except OverflowError as error:
        raise typer.BadParameter(f"{start:%Y-%m-%d} and {days} days leave the calendar") from error
    with messages():
        write_logs(logs, start.date(), days, rows, seed=seed)


@app.command()
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


@app.command()
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
            _request(workspace, declared, spec, overrides or [], date, logs, beam_arg or [])
            for date in dates
        ]
        with daily.locked(Workspace(workspace)) as lock:
            code = _run_days(requests, declared, lock, keep_going=keep_going, rerun=rerun)
        _print_days(workspace, declared, {str(date) for date in dates})
    raise typer.Exit(code)


@app.command()
def status(
    workspace: WorkspaceOption = "work",
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON.")] = False,
) -> None:
    """Shows runs, verdicts, versions, and where the served model comes from."""
    with messages():
        space = _existing(workspace)
        from components.held_days import list_held
        from components.serving_store import served_version
        from pipeline import lineage, report

        served = served_version(space.serving)
        store = lineage.open_store(space.metadata_path)
        runs = lineage.list_runs(store) if store is not None else []
        if as_json:
            typer.echo(json.dumps(report.as_json(runs), indent=2))
            return
        if not runs:
            typer.echo(f"{workspace}: {report.no_runs(served, space.metadata_path)}")
            return
        console = _console()
        console.print(report.day_table(runs, report.shown_tasks(runs)))
        for line in (*report.served_lineage(served, runs), *report.run_facts(runs[-1])):
            console.print(line, markup=False)
        for day in list_held(space.day_store):
            console.print(str(day), markup=False)
        if os.path.isdir(space.tensorboard):
            folder = shlex.quote(space.tensorboard)
            console.print(f"TensorBoard, a run a day: tensorboard --logdir {folder}", markup=False)


@app.command()
def report(
    workspace: WorkspaceOption = "work",
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="The file. [default: report.html in the workspace]"),
    ] = None,
) -> None:
    """Writes one HTML page on all runs: days, models, stability, data, cost."""
    with messages():
        space = _existing(workspace)
        from pipeline.html_report.write import write

        path = write(space, output)
    typer.echo(path)


@app.command()
def rollback(
    version: Annotated[int, typer.Argument(help="The version to serve again.")],
    workspace: WorkspaceOption = "work",
    keep_versions: Annotated[
        int | None, typer.Option(min=2, help="Keep only this many versions, the newest.")
    ] = None,
) -> None:
    """Serves an older version again, as a new version with its content."""
    with messages():
        space = _existing(workspace)
        from components import serving_store
        from pipeline import daily

        with daily.locked(space):
            new = serving_store.rollback(space.serving, version, keep_versions)
    typer.echo(f"version {new.version} serves what version {version} did")


@app.command()
def watch(
    logs: LogsOption,
    date: Annotated[
        datetime.datetime | None,
        typer.Argument(formats=["%Y-%m-%d"], metavar="[YYYY-MM-DD]"),
    ] = None,
    workspace: WorkspaceOption = "work",
    spec: Annotated[
        str | None,
        typer.Option("--spec", "-s", help="The ranking spec. [default: that of the newest run]"),
    ] = None,
    roll_back: Annotated[
        bool,
        typer.Option("--rollback", help="Serve the version before it again if that one is better."),
    ] = False,
    beam_arg: BeamOption = None,
) -> None:
    """Judges the served version on a later day (the newest), against the version before it.

    Exit code 0: it may stay; 10: it is worse than the gate would have allowed.
    """
    with messages():
        space = _existing(workspace)
        from components import serving_store
        from pipeline import daily, notify
        from pipeline import watch as watching

        with daily.locked(space):
            versions = serving_store.list_versions(space.serving)
            served, _ = watching.choose_versions(versions)
            declared = _declared(space, spec)
            day = date.date() if date else watching.newest_day(logs, served.info.run_date)
            found = watching.watch(
                space,
                declared,
                os.path.abspath(logs) if "://" not in logs else logs,
                day,
                versions,
                beam_arg or daily.DEFAULT_BEAM_ARGS,
            )
            compared = f"version {found.served.version} against version {found.before.version}"
            typer.echo(f"{day}: {compared}: {'worse' if found.reasons else 'may stay'}")
            for line in (*found.reasons, *found.notes):
                typer.echo(f"  {line}")
            if not found.reasons:
                return
            data = {"reason": found.reasons[0], "served_version": found.served.version}
            if roll_back:
                new = serving_store.rollback(
                    space.serving, found.before.version, declared.serving.keep_versions
                )
                typer.echo(f"version {new.version} serves what version {found.before.version} did")
                data["served_version"] = new.version
        kind = "rolled-back" if roll_back else "worse"
        notify.send([notify.Notice(kind, str(day), data)], f"/steadyrank/{declared.name}")
    raise typer.Exit(ExitCode.BLOCKED)


def _declared(space: Workspace, spec: str | None) -> RankingSpec:
    """The spec that is given, or else that of the newest run."""
    if spec is not None:
        return load_spec(spec)
    from pipeline import lineage, retention

    store = lineage.open_store(space.metadata_path)
    if store is None:
        raise RankerError(f"{space.metadata_path}: no runs are known; give --spec")
    return retention.spec_of_newest_run(space, store)


@app.command()
def release(
    day: Annotated[
        datetime.datetime, typer.Argument(formats=["%Y-%m-%d"], help="The day, as status names it.")
    ],
    workspace: WorkspaceOption = "work",
    day_store: Annotated[
        str | None,
        typer.Option(help="Folder of the encoded days. [default: the workspace's]"),
    ] = None,
) -> None:
    """Lets the next run train on a day that is held because the served model fails on it."""
    with messages():
        from components import held_days

        store = day_store or _existing(workspace).day_store
        held_days.release(store, day.date())
    typer.echo(f"{day.date()} is released: the next run trains on it in full")


@app.command()
def clean(
    workspace: WorkspaceOption = "work",
    spec: Annotated[
        str | None,
        typer.Option("--spec", "-s", help="The ranking spec. [default: that of the newest run]"),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only list what would be removed.")] = False,
) -> None:
    """Removes what the spec's `retention` does not keep; every run does this when it ends."""
    with messages():
        space = _existing(workspace)
        from pipeline import daily, lineage, retention

        with daily.locked(space):
            store = lineage.open_store(space.metadata_path)
            if store is None:
                raise RankerError(
                    f"{space.metadata_path}: no runs are known, so nothing counts as old"
                )
            declared = _declared(space, spec)
            surplus = retention.find_surplus(space, store, declared)
            if not dry_run:
                retention.remove(surplus, store)
        for item in surplus if dry_run else ():
            typer.echo(f"{item.path}: {item.what}, {_megabytes(item.size)}")
        total = _megabytes(sum(item.size for item in surplus))
        typer.echo(f"{len(surplus)} {'would be ' if dry_run else ''}removed, {total}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


@app.command()
def demo(
    workspace: WorkspaceOption = "work/demo",
    rows: Annotated[int, typer.Option(min=2000, help="Events a day.")] = 20_000,
    seed: SeedOption = 0,
) -> None:
    """Simulates drifting logs and runs five days; one is trained without Clippy."""
    start = datetime.date(2026, 1, 1)
    logs = os.path.join(workspace, "logs")
    console = _console()
    with messages():
        declared = load_spec(DEMO_SPEC)
        _refuse_all_but_demos(workspace)
        from pipeline import daily
        from pipeline.simulate import write_logs

        with daily.locked(Workspace(workspace)) as lock:
            _empty_demo(workspace)
            console.print(f"Simulating {DEMO_DAYS} days of {rows} events into {logs}")
            write_logs(logs, start, DEMO_DAYS, rows, seed=seed)
            requests = []
            for day in range(DEMO_FIRST_RUN, DEMO_DAYS):
                overrides = demo_overrides(day)
                date = start + datetime.timedelta(days=day)
                requests.append(_request(workspace, declared, DEMO_SPEC, overrides, date, logs, []))
            grown = start + datetime.timedelta(days=DEMO_GROWN_DAY)
            console.print(
                f"From {grown} on the model is larger, has a cross layer and starts anew. On "
                f"{grown} it is trained without Clippy, on the next days with it. All else is the "
                "same."
            )
            code = _run_days(requests, declared, lock, keep_going=False, rerun=False)
        _print_days(workspace, declared, {request.run_date for request in requests})
    # The blocked day is what the demo is there to show.
    raise typer.Exit(ExitCode.PUSHED if code == ExitCode.BLOCKED else code)


def demo_overrides(day: int) -> list[str]:
    """Returns what a day of the demo changes of its spec."""
    # A rate that Clippy bears on any day. No warm-up and no second try at half the rate, so that
    # the rule alone makes the difference.
    overrides = [
        "training.learning_rate=0.5",
        "training.warmup_steps=0",
        "training.recovery=[]",
    ]
    if day >= DEMO_GROWN_DAY:
        overrides.append(f"model={DEMO_GROWN}")
    if day == DEMO_GROWN_DAY:
        overrides.append("training.optimizer.name=adagrad")
    return overrides


def _request(
    workspace: str,
    declared: RankingSpec,
    spec_path: str,
    overrides: list[str],
    date: datetime.date,
    logs: str,
    beam_args: list[str],
) -> Request:
    from pipeline.beam_run import Request
    from pipeline.daily import DEFAULT_BEAM_ARGS

    def absolute(path: str) -> str:
        return path if "://" in path else os.path.abspath(path)

    return Request(
        workspace=absolute(workspace),
        pipeline_name=declared.name,
        spec_path=absolute(spec_path),
        overrides=tuple(overrides),
        run_date=str(date),
        logs_root=absolute(logs),
        beam_args=tuple(beam_args) or DEFAULT_BEAM_ARGS,
    )


def _run_days(
    requests: list[Request], declared: RankingSpec, lock: int, *, keep_going: bool, rerun: bool
) -> ExitCode:
    """Runs the days, showing where each one is; removes after each what is kept no longer."""
    from rich.markup import escape

    from pipeline import daily, live, notify, report, retention
    from pipeline.html_report import write as html_report

    console = _console()
    with _exit_on_sigterm(), console.status("") as spinner:

        def on_start(request: Request) -> OnProgress:
            return live.Display(console, spinner, request.run_date).show

        def on_end(request: Request, day: DayResult) -> None:
            outcome = day.run.outcome if day.run else "failed"
            reason = report.why(day.run) if day.run else _last_words(day)
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
            space = Workspace(requests[0].workspace)
            notify.after_day(space, declared, requests[0].run_date, None, str(error))
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


def _print_days(workspace: str, declared: RankingSpec, dates: set[str]) -> None:
    from pipeline import lineage, report

    store = lineage.open_store(Workspace(workspace).metadata_path)
    if store is None:
        return
    newest = {run.run_date: run for run in lineage.list_runs(store)}
    rows = [newest[date] for date in sorted(dates) if date in newest]
    _console().print(report.day_table(rows, list(declared.tasks)))


def _existing(workspace: str) -> Workspace:
    if not os.path.isdir(workspace):
        raise RankerError(f"{workspace}: no workspace there; give the --workspace of the runs")
    return Workspace(workspace)


def _refuse_all_but_demos(workspace: str) -> None:
    """Refuses a folder with content that no demo has left."""
    if not os.path.exists(workspace) or os.path.exists(os.path.join(workspace, DEMO_MARKER)):
        return
    if set(os.listdir(workspace)) - {LOCK_FILE}:
        raise RankerError(
            f"{workspace}: not empty, and not left by a demo; give another --workspace"
        )


def _empty_demo(workspace: str) -> None:
    """Removes what an earlier demo left, but the lock, which must be held."""
    marker = Path(workspace, DEMO_MARKER)
    if marker.exists():
        for path in Path(workspace).iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in (LOCK_FILE, DEMO_MARKER):
                path.unlink()
    marker.touch()


def _console() -> Console:
    from rich.console import Console

    # A table in a file is not to be folded at 80 columns.
    return Console() if sys.stdout.isatty() else Console(width=160)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
