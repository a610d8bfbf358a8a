"""Runs days on a Flink cluster on this machine and holds each Beam component against Direct's.

    python -m benchmarks.flink [--workers 2] [--days 2] [--rows 4000] [--kill]

Each day is run as always, from its logs to the push, with its Beam components on Flink. Then each
of these components is executed again on the same inputs by Beam's Direct runner. Exits with 1
where any output differs, with 0 and the reason where there is no JVM.
"""

from __future__ import annotations

import argparse
import glob
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.flink import jars
from benchmarks.flink.cluster import Cluster, check_memory
from benchmarks.flink.days import run_days, workspace_of
from pipeline import daily

_FILES = 8


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
    for number, step in enumerate(steps_of(workspace_of(folder).root)):
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--days", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4000, help="events a day")
    parser.add_argument("--kill", action="store_true", help="kill a TaskManager in ingestion")
    options = parser.parse_args(arguments)
    try:
        check_memory(options.workers)
        folder = jars.fetch()
    except jars.NotHereError as error:
        print(f"skipped: {error}")
        return 0
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with (
        tempfile.TemporaryDirectory(prefix="steadyrank-flink-run-") as work,
        Cluster(folder, options.workers) as cluster,
    ):
        killer = Killer(cluster, workspace_of(work).day_store)
        if options.kill:
            killer.start()
        for day in run_days(
            work, options.days, options.rows, files=_FILES, beam_args=cluster.beam_args
        ):
            print(f"{day.run.run_date}: {day.run.outcome}" if day.run else "", flush=True)
        if options.kill and not killer.killed:
            raise RuntimeError("no worker was killed")
        table, same = hold_against_direct(cluster, work)
    Console().print(table)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
