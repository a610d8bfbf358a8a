"""What each Beam component costs: on one machine, and on Flink with more workers.

    python -m benchmarks.scale [--workers 1 2] [--events 20000 200000]

A day of that many events after a window of one more is run to its end by Beam's Direct runner.
Then each Beam component is executed again on the same inputs: by Direct, and on Flink clusters of
so many workers on this machine. CPU time is that of all processes: driver, JVMs, Beam's workers.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import resource
import tempfile
from typing import Any

from benchmarks.flink import jars
from benchmarks.flink.cluster import Cluster
from components import properties
from pipeline import daily
from pipeline.beam_run import Request
from pipeline.cli import DEMO_SPEC
from pipeline.flink.check import with_defaults
from pipeline.simulate import write_logs
from pipeline.workspace import Workspace
from schemas.errors import ExitCode

RESULTS = pathlib.Path(__file__).parent / "results" / "scale.json"
START = datetime.date(2026, 1, 5)
FILES = 16


def prepare(folder: str, events: int) -> dict[str, float]:
    """Runs the day; returns bytes an event of its logs and of the stored days."""
    logs, workspace = os.path.join(folder, "logs"), Workspace(os.path.join(folder, "workspace"))
    written = write_logs(logs, START, 2, events, parts=FILES)
    request = Request(
        workspace=workspace.root,
        pipeline_name="demo",
        spec_path=DEMO_SPEC,
        overrides=(
            "training.window_days=1",
            "training.min_window_days=1",
            "model.preset=tiny",
            "validation.max_eval_events=null",
            "validation.max_statistics_events=null",
        ),
        run_date=str(START + datetime.timedelta(days=1)),
        logs_root=logs,
        beam_args=daily.DEFAULT_BEAM_ARGS,
    )
    with daily.locked(workspace) as lock:
        day = daily.run_day(request, lock, lambda component: None)
    if day.exit_code not in (ExitCode.PUSHED, ExitCode.BLOCKED):
        raise RuntimeError(str(day.failure or day.exit_code))
    number = sum(written.values())
    return {
        "logs_gzip": _size(logs) / number,
        "day_store": _size(workspace.day_store) / number,
    }


def measure(folder: str, contender: str, cluster: Cluster | None) -> list[dict[str, Any]]:
    """Executes each component again.

    Args:
        folder: of `prepare`.
        contender: what to call it.
        cluster: to run on; the Direct runner if None.

    Returns:
        A cell for each component.
    """
    from benchmarks.flink.spread import spread
    from benchmarks.flink.steps import again, steps_of

    beam_args = with_defaults(cluster.beam_args) if cluster else daily.DEFAULT_BEAM_ARGS
    cells = []
    for step in steps_of(os.path.join(folder, "workspace")):
        target = os.path.join(folder, contender, step.component)
        own = {"day_store": f"{target}-days"} if "day_store" in step.properties else {}
        before = _cpu_seconds(cluster)
        done = again(step, target, beam_args, **own)
        cell = {
            "component": step.component,
            "contender": contender,
            "events": events_of(step),
            "seconds": round(done.seconds, 1),
            "cpu_seconds": round(_cpu_seconds(cluster) - before, 1),
        }
        if cluster:
            cell["records_per_worker"] = list(spread(cluster, done.start, done.end).values())
        print(cell, flush=True)
        cells.append(cell)
    return cells


def events_of(step: Any) -> int:
    """Number of events that a component has to deal with."""
    (examples,) = step.inputs.get("examples") or step.outputs["examples"]
    if step.component == "DailyExampleGen":
        return properties.EVENTS.get(examples)
    evaluated = properties.EVAL_EVENTS.get(examples)
    if step.component == "Evaluator":
        return evaluated
    return evaluated + properties.TRAIN_EVENTS.get(examples)


def _size(folder: str) -> int:
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())


def _cpu_seconds(cluster: Cluster | None) -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(item.ru_utime + item.ru_stime for item in used)
    return own + (sum(cluster.cpu_seconds().values()) if cluster else 0.0)


def main() -> None:
    """Measures, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--events", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    try:
        folder = jars.fetch()
    except jars.NotHereError as error:
        print(f"without Flink: {error}")
        options.workers = []
    cells: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="steadyrank-scale-") as work:
        places = {size: os.path.join(work, str(size)) for size in sorted(options.events)}
        sizes = {size: prepare(place, size) for size, place in places.items()}
        for workers in (0, *options.workers):
            with Cluster(folder, workers) if workers else contextlib.nullcontext() as cluster:
                name = f"flink-{workers}" if workers else "direct"
                # What a process does once, it does now.
                measure(places[min(places)], f"{name}-warm-up", cluster)
                for place in places.values():
                    cells += measure(place, name, cluster)
    content = {"cores": os.cpu_count(), "bytes_per_event": sizes[max(sizes)], "cells": cells}
    options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
