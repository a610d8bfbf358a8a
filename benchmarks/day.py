"""Time and memory of a day by component: a cold start on three days, and the warm day after it.

Each day is a `steadyrank run` of the demo's spec on simulated logs, in a process of its own.
Its processes are watched from outside; ML Metadata says when each component ran. What comes
before the first one is imports, what comes after the last is the process's end.

With `--taxi`, TFX's own example is run beside it as it comes with TFX: the Chicago taxi pipeline,
which trains 1000 steps on 15 thousand trips.

    python -m benchmarks.day --rows 20000 1000000 --taxi
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
from ml_metadata import MetadataStore
from tfx.orchestration.metadata import sqlite_metadata_connection_config

from benchmarks.processes import usage
from pipeline import lineage
from pipeline.cli import DEMO_SPEC
from pipeline.simulate import write_logs
from pipeline.workspace import Workspace

START = datetime.date(2026, 1, 5)
COLD = 3
TAXI = "tfx.examples.chicago_taxi_pipeline"
_SAMPLE_SECONDS = 0.05


class Watched:
    """What a process and its children use, over time.

    Attributes:
        exit_code: of the process.
    """

    def __init__(
        self, command: list[str], output: pathlib.Path, environment: Mapping[str, str] | None = None
    ):
        """Runs the command to its end, with these variables set, too."""
        self._samples = [(time.time(), 0.0, 0.0)]
        with output.open("ab") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=file, env={**os.environ, **(environment or {})}
            )
            while True:
                pid, status, total = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                used = usage(process.pid)
                cpu = max(used.own_seconds + used.started_seconds, self._samples[-1][1])
                self._samples.append((time.time(), cpu, used.memory / 1e6))
                time.sleep(_SAMPLE_SECONDS)
        self._samples.append((time.time(), total.ru_utime + total.ru_stime, 0.0))
        self.exit_code = os.waitstatus_to_exitcode(status)

    @property
    def start(self) -> float:
        """When it began, seconds since the epoch."""
        return self._samples[0][0]

    @property
    def end(self) -> float:
        """When it ended."""
        return self._samples[-1][0]

    def cpu(self, start: float, end: float) -> float:
        """CPU seconds used between two times."""
        times, cpu, _ = np.transpose(self._samples)
        before, after = np.interp([start, end], times, cpu)
        return float(after - before)

    def peak_mb(self, start: float, end: float) -> float:
        """Most memory held between two times, what processes share counted for each, in MB."""
        times, _, memory = np.transpose(self._samples)
        return float(memory[(start <= times) & (times <= end)].max(initial=0.0))


def component_times(store: MetadataStore) -> list[tuple[str, float, float]]:
    """Name, start and end, seconds since the epoch, of the newest run's components, by start."""
    run = lineage.newest_run(store)
    assert run is not None
    executions = sorted(store.get_executions_by_id(run.executions), key=lambda e: e.id)
    times = [
        (e.create_time_since_epoch / 1e3, e.last_update_time_since_epoch / 1e3) for e in executions
    ]
    names = dict(zip(times, run.components, strict=True))
    return [(names[when], *when) for when in sorted(times)]


def run_day(date: datetime.date, root: pathlib.Path) -> dict[str, dict[str, float]]:
    """Runs a day; returns CPU and wall seconds by part, and of all of it as `total`."""
    command = [sys.executable, "-m", "pipeline.cli", "run", str(date), "--spec", DEMO_SPEC]
    command += ["--logs", str(root / "logs"), "--workspace", str(root / "work")]
    run = Watched(command, root / "output")
    if run.exit_code not in (0, 10):
        raise SystemExit(f"{date}: exit code {run.exit_code}; see {root / 'output'}")
    store = lineage.open_store(Workspace(str(root / "work")).metadata_path)
    assert store is not None
    return _parts(run, component_times(store))


def run_taxi(root: pathlib.Path) -> dict[str, dict[str, float]]:
    """Runs TFX's Chicago taxi example, anew; returns what `run_day` does."""
    # It looks for its data and code in the home folder, and is written for Keras 2.
    shutil.copytree(str(resources.files(TAXI)), root / "taxi")
    command = [sys.executable, "-m", f"{TAXI}.taxi_pipeline_native_keras"]
    environment = {"HOME": str(root), "TF_USE_LEGACY_KERAS": "1"}
    run = Watched(command, root / "output", environment)
    if run.exit_code:
        raise SystemExit(f"the taxi example: exit code {run.exit_code}; see {root / 'output'}")
    (database,) = root.glob("tfx/metadata/*/metadata.db")
    store = MetadataStore(sqlite_metadata_connection_config(str(database)))
    names = {kind.id: kind.name.rpartition(".")[2] for kind in store.get_execution_types()}
    executions = sorted(store.get_executions(), key=lambda e: e.create_time_since_epoch)
    times = [
        (names[e.type_id], e.create_time_since_epoch / 1e3, e.last_update_time_since_epoch / 1e3)
        for e in executions
    ]
    return _parts(run, times)


def _parts(
    run: Watched, components: Sequence[tuple[str, float, float]]
) -> dict[str, dict[str, float]]:
    # A component's time goes to the start of the next one.
    starts = [start for _, start, _ in components]
    last = max(end for _, _, end in components)
    bounds = [run.start, *starts, last, run.end]
    names = ["before the first", *(name for name, _, _ in components), "after the last"]
    parts = {
        name: _used(run, start, end)
        for name, start, end in zip(names, bounds, bounds[1:], strict=False)
    }
    return {**parts, "total": _used(run, run.start, run.end)}


def _used(run: Watched, start: float, end: float) -> dict[str, float]:
    return {
        "cpu_s": run.cpu(start, end),
        "wall_s": end - start,
        "peak_mb": run.peak_mb(start, end),
    }


def print_table(days: dict[str, dict[str, dict[str, float]]]) -> None:
    """Prints CPU and wall seconds and memory, a line for each part, three columns for each day."""
    print("| | " + " | ".join(f"{name}: CPU s | wall s | peak MB" for name in days) + " |")
    print("| --- |" + " ---: | ---: | ---: |" * len(days))
    for part in next(iter(days.values())):
        used = [day[part] for day in days.values()]
        cells = [f"{u['cpu_s']:.1f} | {u['wall_s']:.1f} | {u['peak_mb']:.0f}" for u in used]
        print(f"| {part} | " + " | ".join(cells) + " |")


def main() -> None:
    """Simulates logs, runs the two days for each size, and prints a table for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000], help="events a day")
    parser.add_argument("--taxi", action="store_true", help="TFX's own example, too")
    parser.add_argument("--folder", help="where to work; a temporary folder if not given")
    parser.add_argument("--output", help="JSON file for the figures")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        for rows in arguments.rows:
            root = pathlib.Path(arguments.folder or temporary) / str(rows)
            root.mkdir(parents=True, exist_ok=True)
            if not (root / "logs").exists():
                write_logs(str(root / "logs"), START, COLD + 2, rows)
            load = os.getloadavg()
            days = {
                name: run_day(START + datetime.timedelta(COLD + number), root)
                for number, name in enumerate(("cold", "warm"))
            }
            print(f"{rows} events a day; load before it {load[0]:.1f} on {os.cpu_count()} cores")
            print_table(days)
            results[str(rows)] = {"load": load, **days}
            if arguments.output:
                pathlib.Path(arguments.output).write_text(json.dumps(results, indent=1) + "\n")
        if arguments.taxi:
            root = pathlib.Path(temporary) / "taxi-example"
            root.mkdir()
            print_table({"TFX's taxi example": run_taxi(root)})


if __name__ == "__main__":
    main()
