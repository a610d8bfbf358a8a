"""The command line. Imports of TensorFlow and TFX are left to the commands that need them."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from pipeline.kubeflow import cli as kubeflow_cli
from pipeline.kubeflow import client_cli
from pipeline.risk_cli import risk
from schemas.errors import ExitCode, RankerError

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.beam_run import Request
    from pipeline.daily import DayResult, Progress
    from schemas.spec import RankingSpec

DEMO_SPEC = str(Path(__file__).parent.parent / "schemas" / "demo.yaml")

DEMO_DAYS = 7
DEMO_MARKER = ".demo"
"""File in the workspace of a demo: what may be deleted by the next one."""
DEMO_FIRST_RUN = 2
DEMO_DIVERGING_DAY = 4
DIVERGING = (
    "training.optimizer.name=adagrad",
    "training.learning_rate=1000",
    "training.warmup_steps=0",
)
"""Plain Adagrad at a learning rate far beyond the stable one."""

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

app.command()(risk)
kubeflow_app = typer.Typer(
    no_args_is_help=True,
    help="Makes packages for Kubeflow Pipelines; uploads, runs, schedules and backfills there.",
)
# Without a name: their commands, one beside the other.
kubeflow_app.add_typer(kubeflow_cli.app)
kubeflow_app.add_typer(client_cli.app)
app.add_typer(kubeflow_app, name="kubeflow")

WorkspaceOption = Annotated[
    str, typer.Option("--workspace", "-w", help="Folder of metadata, artifacts and versions.")
]
SpecOption = Annotated[str, typer.Option("--spec", "-s", help="The ranking spec (YAML).")]
LogsOption = Annotated[str, typer.Option("--logs", "-l", help="Folder with a folder per day.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override of the spec: training.learning_rate=0.1. Repeatable."),
]
BeamOption = Annotated[
    list[str] | None,
    typer.Option("--beam-arg", help="Beam option of the components, e.g. --runner=FlinkRunner."),
]
DateArgument = Annotated[
    datetime.datetime, typer.Argument(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD")
]

_Result = TypeVar("_Result")


@app.command()
def simulate(
    logs: LogsOption,
    start: Annotated[datetime.datetime, typer.Option(formats=["%Y-%m-%d"])],
    days: Annotated[int, typer.Option(min=1)] = 7,
    rows: Annotated[int, typer.Option(min=1, help="Events a day.")] = 30_000,
    seed: int = 0,
) -> None:
    """Writes simulated event logs that drift, for `schemas/demo.yaml`."""
    from pipeline.simulate import write_logs

    _guarded(lambda: write_logs(logs, start.date(), days, rows, seed=seed))


@app.command()
def run(
    date: DateArgument,
    logs: LogsOption,
    spec: SpecOption,
    workspace: WorkspaceOption = "work",
    overrides: SetOption = None,
    beam_arg: BeamOption = None,
) -> None:
    """Runs one day: trains on the days before it, evaluates on it, pushes if it may."""
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
    """Runs a range of days in order; days that have a verdict are left out."""
    if last < first:
        raise typer.BadParameter(f"{last:%Y-%m-%d} is before {first:%Y-%m-%d}")
    declared = _load_spec(spec, overrides or [])
    dates = [
        (first + datetime.timedelta(days=day)).date() for day in range((last - first).days + 1)
    ]
    requests = [
        _request(workspace, declared, spec, overrides or [], date, logs, beam_arg or [])
        for date in dates
    ]
    code = _run_days(requests, keep_going=keep_going, rerun=rerun)
    _print_days(workspace, declared, {str(date) for date in dates})
    raise typer.Exit(code)


@app.command()
def status(
    workspace: WorkspaceOption = "work",
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON.")] = False,
) -> None:
    """Shows runs, verdicts, versions, and where the served model comes from."""
    from pipeline import lineage, report
    from pipeline.workspace import Workspace

    store = lineage.open_store(Workspace(workspace).metadata_path)
    runs = lineage.list_runs(store) if store is not None else []
    if as_json:
        typer.echo(json.dumps(report.as_json(runs), indent=2))
        return
    if not runs:
        typer.echo(f"{workspace}: no runs yet")
        return
    tasks = sorted({t for run in runs for t in run.metrics.get("candidate", {}) if t})
    console = _console()
    console.print(report.day_table(runs, tasks))
    from components.serving_store import served_version

    served = _guarded(lambda: served_version(Workspace(workspace).serving))
    for line in report.served_lineage(served, runs):
        console.print(line, markup=False)


@app.command()
def rollback(
    version: Annotated[int, typer.Argument(help="The version to serve again.")],
    workspace: WorkspaceOption = "work",
    keep_versions: Annotated[int, typer.Option(min=2)] = 10,
) -> None:
    """Serves an older version again, as a new version with its content."""
    from components import serving_store
    from pipeline.daily import locked
    from pipeline.workspace import Workspace

    def roll() -> int:
        space = Workspace(workspace)
        with locked(space):
            return serving_store.rollback(space.serving, version, keep_versions).version

    typer.echo(f"version {_guarded(roll)} serves what version {version} did")


@app.command()
def demo(
    workspace: WorkspaceOption = "work/demo",
    rows: Annotated[int, typer.Option(min=2000, help="Events a day.")] = 20_000,
    seed: int = 0,
) -> None:
    """Simulates drifting logs and runs five days, one of them set to diverge."""
    from pipeline.simulate import write_logs

    declared = _load_spec(DEMO_SPEC, [])
    start = datetime.date(2026, 1, 1)
    logs = os.path.join(workspace, "logs")
    _guarded(lambda: _fresh_demo(workspace))
    console = _console()
    console.print(f"Simulating {DEMO_DAYS} days of {rows} events into {logs}")
    _guarded(lambda: write_logs(logs, start, DEMO_DAYS, rows, seed=seed))
    requests = []
    for day in range(DEMO_FIRST_RUN, DEMO_DAYS):
        overrides = list(DIVERGING) if day == DEMO_DIVERGING_DAY else []
        date = start + datetime.timedelta(days=day)
        requests.append(_request(workspace, declared, DEMO_SPEC, overrides, date, logs, []))
    code = _run_days(requests, keep_going=False, rerun=False)
    _print_days(workspace, declared, {request.run_date for request in requests})
    # The blocked day is what the demo is there to show.
    raise typer.Exit(ExitCode.PUSHED if code == ExitCode.BLOCKED else code)


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


def _run_days(requests: list[Request], *, keep_going: bool, rerun: bool) -> ExitCode:
    """Runs the days under the workspace's lock, showing where each one is."""
    from rich.markup import escape

    from pipeline import daily, report
    from pipeline.workspace import Workspace

    console = _console()
    with console.status("") as spinner:

        def on_start(request: Request) -> Progress:
            began = datetime.datetime.now()

            def at(component: str) -> None:
                seconds = (datetime.datetime.now() - began).seconds
                spinner.update(f"{request.run_date}: {component} ({seconds} s)")

            return at

        def on_end(request: Request, day: DayResult) -> None:
            outcome = day.run.outcome if day.run else "failed"
            reason = report.why(day.run) if day.run else "died before its first component"
            seconds = f"{day.run.seconds:.0f} s" if day.run else ""
            console.print(f"{request.run_date}: {outcome} {seconds} {escape(reason)}")
            if day.exit_code not in (ExitCode.PUSHED, ExitCode.BLOCKED):
                for line in day.run.reasons if day.run else ():
                    console.print(escape(line), style="red")
                console.print(f"log: {day.log_path}")

        def work() -> ExitCode:
            with daily.locked(Workspace(requests[0].workspace)):
                return daily.backfill(
                    requests, on_start, on_end, keep_going=keep_going, rerun=rerun
                )

        return _guarded(work)


def _print_days(workspace: str, declared: RankingSpec, dates: set[str]) -> None:
    from pipeline import lineage, report
    from pipeline.workspace import Workspace

    store = lineage.open_store(Workspace(workspace).metadata_path)
    if store is None:
        return
    newest = {run.run_date: run for run in lineage.list_runs(store)}
    rows = [newest[date] for date in sorted(dates) if date in newest]
    _console().print(report.day_table(rows, list(declared.tasks)))


def _fresh_demo(workspace: str) -> None:
    """Empties the folder of an earlier demo; any other folder with content is refused."""
    marker = os.path.join(workspace, DEMO_MARKER)
    if os.path.exists(marker):
        shutil.rmtree(workspace)
    elif os.path.exists(workspace) and os.listdir(workspace):
        raise RankerError(
            f"{workspace}: not empty, and not left by a demo; give another --workspace"
        )
    os.makedirs(workspace, exist_ok=True)
    Path(marker).touch()


def _load_spec(path: str, overrides: list[str]) -> RankingSpec:
    from schemas.spec import load_spec

    return _guarded(lambda: load_spec(path, overrides))


def _console() -> Console:
    from rich.console import Console

    # A table in a file is not to be folded at 80 columns.
    return Console() if sys.stdout.isatty() else Console(width=160)


def _guarded(work: Callable[[], _Result]) -> _Result:
    """Turns an error meant for people into its message and exit code."""
    try:
        return work()
    except RankerError as error:
        _fail(str(error), error.exit_code)


def _fail(message: str, code: ExitCode) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
