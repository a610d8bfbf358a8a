"""Runs days on a Flink cluster on this machine and holds each Beam component against Direct's.

    python -m benchmarks.flink [--workers 2] [--days 2] [--rows 4000] [--kill]

Each day is run as always, from its logs to the push, with its Beam components on Flink. Then each
of these components is executed again on the same inputs by Beam's Direct runner. Exits with 1
where any output differs, with 0 and the reason where there is no JVM.
"""

from __future__ import annotations

import argparse
import datetime
import glob
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.flink import jars
from benchmarks.flink.cluster import Cluster
from pipeline import daily
from pipeline.beam_run import Request
from pipeline.cli import DEMO_SPEC
from pipeline.simulate import write_logs
from pipeline.workspace import Workspace
from schemas.errors import ExitCode

START = datetime.date(2026, 1, 5)
WINDOW = 1
_BASE_GB, _WORKER_GB = 4, 3
"""Of the run, the JobManager and the job server; of a TaskManager and its worker of Beam."""


class Killer(threading.Thread):
    """Kills a worker as soon as ingestion has parsed something, and starts another in its place."""

    def __init__(self, cluster: Cluster, day_store: str) -> None:
        super().__init__(daemon=True)
        self._cluster = cluster
        self._day_store = day_store
        self.killed = False

    def run(self) -> None:
        """Waits, kills, and ends."""
        while not glob.glob(os.path.join(self._day_store, "*", ".work", "*", "*.arrow")):
            time.sleep(0.05)
        print("killing a TaskManager, starting another", flush=True)
        self._cluster.kill_worker(0)
        self._cluster.start_worker(0)
        self.killed = True


def run_days(
    cluster: Cluster, folder: str, days: int, rows: int, *, kill: bool
) -> Iterator[daily.DayResult]:
    """Simulates logs and runs days on them, one after another."""
    logs, workspace = os.path.join(folder, "logs"), os.path.join(folder, "workspace")
    write_logs(logs, START, days + WINDOW, rows, parts=8)
    killer = Killer(cluster, Workspace(workspace).day_store)
    if kill:
        killer.start()
    with daily.locked(Workspace(workspace)) as lock:
        for number in range(days):
            request = Request(
                workspace=workspace,
                pipeline_name="demo",
                spec_path=DEMO_SPEC,
                overrides=(
                    f"training.window_days={WINDOW}",
                    "training.min_window_days=1",
                    "model.preset=tiny",
                ),
                run_date=str(START + datetime.timedelta(days=WINDOW + number)),
                logs_root=logs,
                beam_args=cluster.beam_args,
            )
            day = daily.run_day(request, lock, lambda component: None)
            if day.exit_code not in (ExitCode.PUSHED, ExitCode.BLOCKED):
                with open(day.log_path, encoding="utf-8", errors="replace") as log:
                    end = log.read()[-5000:]
                raise RuntimeError(
                    f"{request.run_date}: {day.exit_code.name}; its log ends:\n{end}"
                )
            yield day
    if kill and not killer.killed:
        raise RuntimeError("no worker was killed")


def hold_against_direct(cluster: Cluster, folder: str) -> tuple[Table, bool]:
    """Executes each step again by the Direct runner.

    Returns:
        A table of the steps, and whether all outputs are the same.
    """
    # They import TensorFlow and TFX.
    from benchmarks.flink.compare import differences
    from benchmarks.flink.spread import spread
    from benchmarks.flink.steps import again, steps_of

    table = Table()
    for title in ("component", "records per worker", "Flink, s", "Direct, s", "outputs"):
        table.add_column(title, overflow="fold")
    same = True
    # The days of one store, so that what is stored of a day serves the next, as it did on Flink.
    store = os.path.join(folder, "direct", "day_store")
    for number, step in enumerate(steps_of(os.path.join(folder, "workspace"))):
        own = {"day_store": store} if "day_store" in step.properties else {}
        direct = again(
            step, os.path.join(folder, "direct", str(number)), daily.DEFAULT_BEAM_ARGS, **own
        )
        differ = differences(step.component, step.outputs, direct.outputs)
        records = spread(cluster, step.start, step.end)
        if not any(records.values()):
            differ.append("no worker on Flink read a record")
        same &= not differ
        table.add_row(
            step.component,
            " + ".join(map(str, records.values())),
            f"{step.seconds:.0f}",
            f"{direct.seconds:.0f}",
            "; ".join(differ[:3]) or "same",
        )
    return table, same


def _check_memory(workers: int) -> None:
    with open("/proc/meminfo", encoding="ascii") as file:
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in file}
    free, needed = kilobytes["MemAvailable"] / 1e6, _BASE_GB + workers * _WORKER_GB
    if free < needed:
        raise jars.NotHereError(
            f"{workers} workers take {needed:.0f} GB of memory, and {free:.0f} GB are free"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--days", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4000, help="events a day")
    parser.add_argument("--kill", action="store_true", help="kill a TaskManager in ingestion")
    options = parser.parse_args(arguments)
    try:
        _check_memory(options.workers)
        folder = jars.fetch()
    except jars.NotHereError as error:
        print(f"skipped: {error}")
        return 0
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # What was started is stopped then, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    with (
        tempfile.TemporaryDirectory(prefix="steadyrank-flink-run-") as work,
        Cluster(folder, options.workers) as cluster,
    ):
        for day in run_days(cluster, work, options.days, options.rows, kill=options.kill):
            print(f"{day.run.run_date}: {day.run.outcome}" if day.run else "", flush=True)
        table, same = hold_against_direct(cluster, work)
    Console().print(table)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
