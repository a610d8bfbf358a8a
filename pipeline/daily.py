"""Runs days on this machine, one after another, and tells how they went."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

from pipeline import lineage
from pipeline.beam_run import Request
from pipeline.workspace import Workspace
from schemas.errors import ExitCode, RankerError

DEFAULT_BEAM_ARGS = ("--direct_running_mode=in_memory",)
"""Runs Beam in the component's own process: fastest for days of up to a few million events."""

_POLL_SECONDS = 1.0

Progress = Callable[[str], None]
"""Called with the component that a run is at."""


@dataclasses.dataclass(frozen=True)
class DayResult:
    """How a day's run ended.

    Attributes:
        exit_code: `PUSHED`, `BLOCKED`, or the code of what it failed with.
        run: what ML Metadata knows of it; None if it died before its first component.
        log_path: what TFX, TensorFlow and Beam printed.
    """

    exit_code: ExitCode
    run: lineage.Run | None
    log_path: str


@contextlib.contextmanager
def locked(workspace: Workspace) -> Iterator[None]:
    """Keeps other processes from running days in the workspace.

    Raises:
        RankerError: another process is running days in it.
    """
    os.makedirs(workspace.root, exist_ok=True)
    with open(os.path.join(workspace.root, ".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RankerError(f"{workspace.root}: another run is under way; wait for it") from error
        yield


def run_day(request: Request, on_progress: Progress) -> DayResult:
    """Runs one day in a process of its own; the workspace must be `locked`.

    Args:
        request: what to run.
        on_progress: told about each component.

    Returns:
        How it ended. Whatever ends it, the served model is the old one or the new one.
    """
    workspace = Workspace(request.workspace)
    os.makedirs(workspace.run_logs, exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc)
    log_path = os.path.join(workspace.run_logs, f"{request.run_date}-{now:%Y%m%dT%H%M%S}.log")
    store = lineage.open_store(workspace.metadata_path)
    known: set[str] = set()
    if store is not None:
        lineage.abandon_running(store)
        known = {run.run_id for run in lineage.list_runs(store)}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file, open(log_path, "wb") as log:
        json.dump(dataclasses.asdict(request), file)
        file.flush()
        on_progress("starting")
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.beam_run", file.name, *DEFAULT_BEAM_ARGS],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "1", "PYTHONUNBUFFERED": "1"},
        )
        try:
            while process.poll() is None:
                time.sleep(_POLL_SECONDS)
                run = _new_run(workspace, known)
                if run is not None:
                    on_progress(list(run.components)[-1])
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    run = _new_run(workspace, known)
    if process.returncode == 0:
        pushed = run is not None and run.outcome == "pushed"
        return DayResult(ExitCode.PUSHED if pushed else ExitCode.BLOCKED, run, log_path)
    try:
        code = ExitCode(process.returncode)
    except ValueError:
        code = ExitCode.FAILED
    return DayResult(code, run, log_path)


def backfill(
    requests: Sequence[Request],
    on_start: Callable[[Request], Progress],
    on_end: Callable[[Request, DayResult], None],
    *,
    keep_going: bool = False,
    rerun: bool = False,
) -> ExitCode:
    """Runs days in order, leaving out those that have a verdict already.

    A blocked day does not stop the range: the old model keeps serving, and the next day
    starts from it. A day that fails does, unless `keep_going`.

    Args:
        requests: one for each day, oldest first, all in one workspace.
        on_start: called before each day that is run; returns its progress callback.
        on_end: called after it.
        keep_going: go on with the next day after one that failed.
        rerun: run days again that have a verdict.

    Returns:
        `PUSHED` if every day has been, else the code of the last day that was not.
    """
    result = ExitCode.PUSHED
    for request in requests:
        store = lineage.open_store(Workspace(request.workspace).metadata_path)
        done = lineage.latest_run(store, request.run_date) if store is not None else None
        if not rerun and done is not None and done.outcome in ("pushed", "blocked"):
            if done.outcome == "blocked":
                result = ExitCode.BLOCKED
            continue
        day = run_day(request, on_start(request))
        on_end(request, day)
        if day.exit_code != ExitCode.PUSHED:
            result = day.exit_code
        if day.exit_code not in (ExitCode.PUSHED, ExitCode.BLOCKED) and not keep_going:
            break
    return result


def _new_run(workspace: Workspace, known: set[str]) -> lineage.Run | None:
    store = lineage.open_store(workspace.metadata_path)
    if store is None:
        return None
    try:
        runs = [run for run in lineage.list_runs(store) if run.run_id not in known]
    except Exception:
        # The run is only now making the store's tables.
        return None
    return runs[-1] if runs else None
