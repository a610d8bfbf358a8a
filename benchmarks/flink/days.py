"""Days of simulated logs, run from the logs to the push."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence

from pipeline import daily
from pipeline.beam_run import Request
from pipeline.cli import DEMO_SPEC
from pipeline.simulate import write_logs
from pipeline.workspace import Workspace
from schemas.errors import ExitCode

START = datetime.date(2026, 1, 5)
WINDOW = 1


def logs_of(folder: str) -> str:
    """Where a folder's logs are."""
    return os.path.join(folder, "logs")


def workspace_of(folder: str) -> Workspace:
    """A folder's workspace."""
    return Workspace(os.path.join(folder, "workspace"))


def run_days(
    folder: str,
    days: int,
    rows: int,
    *,
    files: int,
    beam_args: Sequence[str],
    overrides: Sequence[str] = (),
) -> Iterator[daily.DayResult]:
    """Simulates logs and runs days on them, one after another.

    Args:
        folder: of the logs and the workspace.
        days: number of days that run; the logs begin a window before.
        rows: events a day.
        files: of a day's logs.
        beam_args: Beam's options.
        overrides: of the demo's spec.

    Raises:
        RuntimeError: a day got no verdict.
    """
    write_logs(logs_of(folder), START, days + WINDOW, rows, parts=files)
    workspace = workspace_of(folder)
    with daily.locked(workspace) as lock:
        for number in range(days):
            request = Request(
                workspace=workspace.root,
                pipeline_name="demo",
                spec_path=DEMO_SPEC,
                overrides=(
                    f"training.window_days={WINDOW}",
                    "training.min_window_days=1",
                    "model.preset=tiny",
                    *overrides,
                ),
                run_date=str(START + datetime.timedelta(days=WINDOW + number)),
                logs_root=logs_of(folder),
                beam_args=tuple(beam_args),
            )
            day = daily.run_day(request, lock, lambda component: None)
            if day.exit_code not in (ExitCode.PUSHED, ExitCode.BLOCKED):
                with open(day.log_path, encoding="utf-8", errors="replace") as log:
                    end = log.read()[-5000:]
                raise RuntimeError(
                    f"{request.run_date}: {day.exit_code.name}; its log ends:\n{end}"
                )
            yield day
