"""Runs days on this machine, one after another, and tells how they went."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

from pipeline import failure, lineage, live
from pipeline.beam_run import Request
from pipeline.failure import Failure
from pipeline.workspace import LOCK_FILE, Workspace
from schemas.errors import ExitCode, RankerError
from trainer_module.live_file import VARIABLE

DEFAULT_BEAM_ARGS = ("--direct_running_mode=in_memory",)
"""Runs Beam in the component's own thread: it needs no start."""

_MAX_THREADS = 4
"""For Beam on a large day: while one reads, packs or counts, another can run; else none can."""

_LARGE_DAY_BYTES = 16_000_000
"""Of log files, gzip perhaps; about where the threads save more than they cost."""

_POLL_SECONDS = 1.0

_MIN_FREE_BYTES = 50_000_000
"""What the outputs of a tiny day take."""

OnProgress = Callable[[live.Position], None]
"""Called about once a second with where a run is."""


@dataclasses.dataclass(frozen=True)
class DayResult:
    """How a day's run ended.

    Attributes:
        exit_code: `PUSHED`, `BLOCKED`, or the code of what it failed with.
        run: what ML Metadata knows of it; None if it died before its first component.
        log_path: what TFX, TensorFlow and Beam printed.
        failure: what it failed with; None if it did not, or died without a word.
    """

    exit_code: ExitCode
    run: lineage.Run | None
    log_path: str
    failure: Failure | None = None


def beam_args_for(logs_root: str, run_date: str) -> tuple[str, ...]:
    """Chooses the Beam options of a day on this machine, where the user gives none.

    Args:
        logs_root: folder of the daily logs.
        run_date: the day, YYYY-MM-DD.
    """
    size = 0
    # Whatever is wrong with the folder, ingestion says.
    with contextlib.suppress(OSError):
        for entry in os.scandir(os.path.join(logs_root, run_date)):
            size += entry.stat().st_size
    if "://" not in logs_root and size < _LARGE_DAY_BYTES:
        return DEFAULT_BEAM_ARGS
    threads = min(len(os.sched_getaffinity(0)), _MAX_THREADS)
    return ("--direct_running_mode=multi_threading", f"--direct_num_workers={threads}")


@contextlib.contextmanager
def locked(workspace: Workspace) -> Iterator[int]:
    """Keeps other processes from running days in the workspace.

    Yields:
        The lock's file descriptor. A process that it is passed on to holds the lock, too.

    Raises:
        RankerError: another process is running days in it, or it cannot be made or locked.
    """
    try:
        os.makedirs(workspace.root, exist_ok=True)
        lock = os.open(os.path.join(workspace.root, LOCK_FILE), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise RankerError(
            f"{workspace.root}: cannot be a workspace ({error.strerror}); give another --workspace"
        ) from error
    if os.path.exists(workspace.serving) and os.path.samefile(workspace.serving, workspace.root):
        os.close(lock)
        # Its lock would be this one, and a push would wait for itself.
        raise RankerError(f"{workspace.serving}: leads to the workspace itself; make it a folder")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise RankerError(f"{workspace.root}: another run is under way; wait for it") from error
    except OSError as error:
        os.close(lock)
        raise RankerError(
            f"{workspace.root}: cannot be locked ({error.strerror}), so two runs could not be "
            "kept apart; mount its file system with locks, or give another --workspace"
        ) from error
    try:
        yield lock
    finally:
        os.close(lock)


def run_day(request: Request, lock: int, on_progress: OnProgress) -> DayResult:
    """Runs one day in a process of its own.

    Args:
        request: what to run; its paths are absolute.
        lock: of the workspace; see `locked`.
        on_progress: told where the run is, about once a second.

    Returns:
        How it ended. Whatever ends it, the served model is the old one or the new one.

    Raises:
        RankerError: the disk is full, ML Metadata has lost the runs that left artifacts, or it
            cannot be read.
    """
    workspace = Workspace(request.workspace)
    _check_room(workspace)
    os.makedirs(workspace.run_logs, exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc)
    log_path = os.path.join(workspace.run_logs, f"{request.run_date}-{now:%Y%m%dT%H%M%S}.log")
    store = lineage.open_store(workspace.metadata_path)
    before = None
    if store is not None:
        lineage.abandon_running(store)
        before = lineage.newest_run(store)
    if before is None:
        _check_history(workspace)
    with (
        tempfile.NamedTemporaryFile("w", suffix=".json") as file,
        tempfile.TemporaryDirectory() as folder,
        open(log_path, "wb") as log,
    ):
        told_in = os.path.join(folder, "live.json")
        failed_in = os.path.join(folder, "failure.json")
        watch = live.Watch(told_in, before)
        json.dump(dataclasses.asdict(request), file)
        file.flush()
        on_progress(watch.position(None))
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.beam_run", file.name, *DEFAULT_BEAM_ARGS],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # First on the path of `-m`: no place for modules of others. The lock is held by the
            # run itself, whatever becomes of this process.
            cwd=workspace.root,
            pass_fds=[lock],
            env={
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "1",
                "PYTHONUNBUFFERED": "1",
                VARIABLE: told_in,
                failure.VARIABLE: failed_in,
            },
        )
        try:
            while not _ended(process):
                run = None
                # The run may only now be making the store's tables.
                with contextlib.suppress(Exception):
                    run = _new_run(workspace, before)
                on_progress(watch.position(run))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            if process.returncode != 0:
                _note_death(workspace, process.returncode)
        told = failure.read(failed_in)
    run = _new_run(workspace, before)
    if run is not None and run.outcome == "pushed":
        # Also where the process died after it.
        return DayResult(ExitCode.PUSHED, run, log_path)
    if process.returncode == 0 and run is not None and run.outcome == "blocked":
        return DayResult(ExitCode.BLOCKED, run, log_path)
    try:
        code = ExitCode(process.returncode or ExitCode.FAILED)
    except ValueError:
        code = ExitCode.FAILED
    return DayResult(code, run, log_path, told)


def backfill(
    requests: Sequence[Request],
    on_start: Callable[[Request], OnProgress],
    on_end: Callable[[Request, DayResult], None],
    *,
    lock: int,
    keep_going: bool = False,
    rerun: bool = False,
) -> ExitCode:
    """Runs days in order, leaving out those that have a verdict already.

    A blocked day does not stop the range: the old model keeps serving, and the next day's is
    compared with it. A day that fails does, unless `keep_going`.

    Args:
        requests: one for each day, oldest first, all in one workspace.
        on_start: called before each day that is run; returns its progress callback.
        on_end: called after it.
        lock: of the workspace; see `locked`.
        keep_going: go on with the next day after one that failed.
        rerun: run days again that have a verdict.

    Returns:
        The code of the first day that failed, else `BLOCKED` if one was, else `PUSHED`.
    """
    failure, blocked = None, False
    for request in requests:
        store = lineage.open_store(Workspace(request.workspace).metadata_path)
        done = lineage.latest_run(store, request.run_date) if store is not None else None
        if not rerun and done is not None and done.outcome in ("pushed", "blocked"):
            blocked |= done.outcome == "blocked"
            continue
        day = run_day(request, lock, on_start(request))
        on_end(request, day)
        blocked |= day.exit_code == ExitCode.BLOCKED
        if day.exit_code not in (ExitCode.PUSHED, ExitCode.BLOCKED):
            failure = failure or day.exit_code
            if not keep_going:
                break
    return failure or (ExitCode.BLOCKED if blocked else ExitCode.PUSHED)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Waits for the process a little; says whether it has ended."""
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _check_room(workspace: Workspace) -> None:
    """Refuses a run that could not even write its log.

    Raises:
        RankerError: the disk is full.
    """
    free = shutil.disk_usage(workspace.root).free
    if free < _MIN_FREE_BYTES:
        raise RankerError(
            f"{workspace.root}: {free / 1e6:.1f} MB are free on its disk, and a run needs at "
            f"least {_MIN_FREE_BYTES / 1e6:.0f} MB. Make room: `steadyrank clean` removes what "
            "`retention` does not keep. The served version is untouched"
        )


def _check_history(workspace: Workspace) -> None:
    """Refuses a first run over what others left: it would write into their folders.

    Raises:
        RankerError: there are artifacts of runs that ML Metadata does not know.
    """
    if glob.glob(os.path.join(glob.escape(workspace.artifacts), "*", "*", "[0-9]*")):
        raise RankerError(
            f"{workspace.metadata_path}: knows of no run, but {workspace.artifacts} holds what "
            "runs wrote: the file was lost or replaced. Restore it from a backup. Where there is "
            f"none, `mv {workspace.artifacts} {workspace.artifacts}.old` lets a new history "
            "begin; it starts from the served version as before"
        )


def _note_death(workspace: Workspace, code: int) -> None:
    """Has ML Metadata know that the run is over, where it did not come to say so itself."""
    store = lineage.open_store(workspace.metadata_path)
    if store is not None:
        cause = f"signal {-code}" if code < 0 else f"exit {code}"
        lineage.abandon_running(store, f"died ({cause})")


def _new_run(workspace: Workspace, before: lineage.Run | None) -> lineage.Run | None:
    """The run that began after the one that was the newest before."""
    store = lineage.open_store(workspace.metadata_path)
    newest = lineage.newest_run(store) if store is not None else None
    if newest is None or (before is not None and newest.run_id == before.run_id):
        return None
    return newest
