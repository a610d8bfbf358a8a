"""What each day of a long row of days costs, and how many healthy ones the gates block.

Every day is a `steadyrank run` in a process of its own, on simulated logs, in one workspace.
After each: exit code, CPU time, peak memory, rows of ML Metadata, bytes on disk. The spec keeps
little (`KEEP`), so that what still grows after the first days grows for ever.

    python -m benchmarks.soak --days 200                        # small days, no bounds
    python -m benchmarks.soak --days 60 --rows 20000 --gates    # the demo's spec and gates
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import pathlib
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import yaml

from pipeline.cli import DEMO_SPEC
from pipeline.simulate import write_logs
from pipeline.workspace import Workspace

START = datetime.date(2026, 1, 1)
FIRST_RUN = 3
KEEP = {"runs": 2, "reports": 5, "days": 1}
FOLDERS = ("serving", "artifacts", "day_store", "checkpoints", "run_logs", "metadata.sqlite")


def write_spec(path: pathlib.Path, gates: bool) -> None:
    """Writes the demo's spec, with its gates or small and without bounds that few events miss."""
    spec = yaml.safe_load(pathlib.Path(DEMO_SPEC).read_text("utf-8"))
    spec["retention"] = KEEP
    spec["serving"]["keep_versions"] = 3
    spec["training"]["window_days"] = FIRST_RUN
    if not gates:
        _shrink(spec)
    path.write_text(yaml.safe_dump(spec))


def _shrink(spec: dict[str, Any]) -> None:
    spec["model"] = {"preset": "tiny"}
    spec["validation"]["min_events"] = 100
    for task in spec["tasks"].values():
        if task["kind"] == "binary":
            task["gate"] = {"min_auc": None, "max_auc_drop": None}
        else:
            task["gate"] = {"max_rmse": 100.0, "min_r2": None, "max_r2_drop": None}
    spec["slices"] = []
    spec["serving"] |= dict.fromkeys(("score_scale", "score_shift", "min_score_correlation"))


def run_day(date: datetime.date, root: pathlib.Path) -> dict[str, float]:
    """Runs a day; returns exit code, CPU seconds and peak MB of the largest process."""
    command = [sys.executable, "-m", "pipeline.cli", "run", str(date)]
    command += ["--logs", str(root / "logs"), "--spec", str(root / "spec.yaml")]
    command += ["--workspace", str(root / "work")]
    with open(root / "output", "ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    return {
        "exit_code": os.waitstatus_to_exitcode(status),
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1e3,
    }


def disk_mb(workspace: Workspace) -> dict[str, float]:
    """MB on disk by folder; a file with several links counts once, where it comes first."""
    seen: set[int] = set()
    sizes = {}
    for name in FOLDERS:
        top = os.path.join(workspace.root, name)
        sizes[name] = sum(_blocks(path, seen) for path in _files(top)) * 512 / 1e6
    return sizes


def _files(top: str) -> Iterator[str]:
    if os.path.isfile(top):
        yield top
    for folder, _, names in os.walk(top):
        yield folder
        yield from (os.path.join(folder, name) for name in names)


def _blocks(path: str, seen: set[int]) -> int:
    status = os.lstat(path)
    if status.st_ino in seen:
        return 0
    seen.add(status.st_ino)
    return status.st_blocks


def rows(workspace: Workspace) -> int:
    """Rows in all tables of ML Metadata."""
    with sqlite3.connect(workspace.metadata_path) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        counts = [database.execute(f'SELECT COUNT(*) FROM "{name}"') for (name,) in tables]
        return sum(count.fetchone()[0] for count in counts)


def main() -> None:
    """Runs the days, prints a line for each, and how each figure changes a day at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=200)
    parser.add_argument("--rows", type=int, default=1000, help="events a day")
    parser.add_argument("--gates", action="store_true", help="the demo's model and gates")
    parser.add_argument("--folder", help="where to work; a temporary folder if not given")
    parser.add_argument("--output", help="JSON file for the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(arguments.folder or temporary)
        root.mkdir(parents=True, exist_ok=True)
        write_spec(root / "spec.yaml", arguments.gates)
        write_logs(str(root / "logs"), START, arguments.days + FIRST_RUN, arguments.rows)
        workspace = Workspace(str(root / "work"))
        days = []
        for number in range(arguments.days):
            date = START + datetime.timedelta(FIRST_RUN + number)
            figures = {**run_day(date, root), "rows": rows(workspace), **disk_mb(workspace)}
            days.append({"date": str(date), **figures})
            shown = "  ".join(f"{name} {value:.1f}" for name, value in figures.items())
            print(f"{date}  {shown}", flush=True)
            if arguments.output:
                pathlib.Path(arguments.output).write_text(json.dumps(days, indent=1) + "\n")
    codes = collections.Counter(day["exit_code"] for day in days)
    print("days by exit code:", ", ".join(f"{code}: {codes[code]}" for code in sorted(codes)))
    _print_slopes(days)


def _print_slopes(days: list[dict[str, float]]) -> None:
    # Until then the folders fill up to what is kept.
    steady = days[KEEP["reports"] :]
    if len(steady) < 3:
        return
    print(f"change a day, over the last {len(steady)} days (least squares), and the mean:")
    for name in [name for name in steady[0] if name not in ("date", "exit_code")]:
        values = np.array([day[name] for day in steady], float)
        slope = np.polyfit(np.arange(len(values)), values, 1)[0]
        print(f"  {name:16} {slope:+.3f}  {values.mean():.1f}")


if __name__ == "__main__":
    main()
