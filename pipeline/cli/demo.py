"""Commands that make event logs up, and run days on them."""

from __future__ import annotations

import datetime
import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.days import print_days, request_of, run_days
from pipeline.cli.options import LogsOption, WorkspaceOption, make_console, messages
from pipeline.workspace import LOCK_FILE, Workspace
from schemas.errors import ExitCode, RankerError
from schemas.loading import load_spec

DEMO_SPEC = str(Path(__file__).parents[2] / "schemas" / "demo.yaml")

DEMO_DAYS = 7
DEMO_MARKER = ".demo"
"""File in the workspace of a demo: what may be deleted by the next one."""
DEMO_FIRST_RUN = 2
DEMO_GROWN_DAY = 4
"""Number of the day from which on the model is `DEMO_GROWN`; on it, nothing is clipped."""
DEMO_GROWN = "{shared: [512, 256, 128], tower: [32], cross_layers: 1}"

SeedOption = Annotated[int, typer.Option(min=0)]


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


def demo(
    workspace: WorkspaceOption = "work/demo",
    rows: Annotated[int, typer.Option(min=2000, help="Events a day.")] = 20_000,
    seed: SeedOption = 0,
) -> None:
    """Simulates drifting logs and runs five days; one is trained without Clippy."""
    start = datetime.date(2026, 1, 1)
    logs = os.path.join(workspace, "logs")
    console = make_console()
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
                requests.append(
                    request_of(workspace, declared, DEMO_SPEC, overrides, date, logs, [])
                )
            grown = start + datetime.timedelta(days=DEMO_GROWN_DAY)
            console.print(
                f"From {grown} on the model is larger, has a cross layer and starts anew. On "
                f"{grown} it is trained without Clippy, on the next days with it. All else is the "
                "same."
            )
            code = run_days(requests, declared, lock, keep_going=False, rerun=False)
        print_days(workspace, declared, {request.run_date for request in requests})
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
