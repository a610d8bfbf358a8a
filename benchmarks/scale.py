"""What each Beam component costs: on one machine, and on Flink with more workers.

    python -m benchmarks.scale [--workers 1 2 4] [--events 200000 1000000]

A day of that many events after a window of one more is run to its end by Beam's Direct runner.
Then each Beam component is executed again on the same inputs: by Direct, and on Flink clusters of
so many workers on this machine. CPU time is that of all processes, by what they are for. What was
measured before and is not measured now stays in the results.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import resource
import tempfile
from typing import Any

from benchmarks.flink import jars
from benchmarks.flink.cluster import Cluster, check_memory
from benchmarks.flink.days import logs_of, run_days, workspace_of
from components import properties
from pipeline import daily
from pipeline.flink.check import with_defaults

RESULTS = pathlib.Path(__file__).parent / "results" / "scale.json"
_FILES = 16
_WARM_UP_EVENTS = 20_000
_WHAT = ("day", "component", "contender")
"""What tells the cells apart."""


def prepare(folder: str, events: int) -> dict[str, float]:
    """Runs the day; returns bytes an event of its logs and of the stored days."""
    uncapped = ("validation.max_eval_events=null", "validation.max_statistics_events=null")
    for _ in run_days(
        folder, 1, events, files=_FILES, beam_args=daily.DEFAULT_BEAM_ARGS, overrides=uncapped
    ):
        pass
    from benchmarks.flink.steps import steps_of

    stored = events_of(next(steps_of(workspace_of(folder).root)))
    return {
        "logs_gzip": _size(logs_of(folder)) / stored,
        "day_store": _size(workspace_of(folder).day_store) / stored,
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
    for step in steps_of(workspace_of(folder).root):
        target = os.path.join(folder, contender, step.component)
        own = {"day_store": f"{target}-days"} if "day_store" in step.properties else {}
        before = _cpu_seconds(cluster)
        done = again(step, target, beam_args, **own)
        after = _cpu_seconds(cluster)
        cell = {
            "component": step.component,
            "contender": contender,
            "events": events_of(step),
            "seconds": round(done.seconds, 1),
            "cpu_seconds": {part: round(after[part] - before[part], 1) for part in after},
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


def merged(before: list[dict[str, Any]], measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replaces cells by what was measured anew, and adds what is new."""
    cells = {tuple(cell[key] for key in _WHAT): cell for cell in (*before, *measured)}
    return [cells[key] for key in sorted(cells)]


def _size(folder: str) -> int:
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())


def _cpu_seconds(cluster: Cluster | None) -> dict[str, float]:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(item.ru_utime + item.ru_stime for item in used)
    return {"driver": own, **(cluster.cpu_seconds() if cluster else {})}


def main() -> None:
    """Measures, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--events", type=int, nargs="+", default=[200_000, 1_000_000])
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    try:
        folder = jars.fetch()
    except jars.NotHereError as error:
        print(f"without Flink: {error}")
        options.workers = []
    content = {"cells": []}
    if options.output.exists():
        content = json.loads(options.output.read_text())
    with tempfile.TemporaryDirectory(prefix="steadyrank-scale-") as work:
        places = {size: os.path.join(work, str(size)) for size in sorted(options.events)}
        sizes = {size: prepare(place, size) for size, place in places.items()}
        warm = os.path.join(work, "warm-up")
        prepare(warm, _WARM_UP_EVENTS)
        content |= {"cores": os.cpu_count(), "bytes_per_event": sizes[max(sizes)]}
        for workers in (0, *options.workers):
            try:
                check_memory(workers)
            except jars.NotHereError as error:
                print(f"left out: {error}")
                continue
            with Cluster(folder, workers) if workers else contextlib.nullcontext() as cluster:
                name = f"flink-{workers}" if workers else "direct"
                # What a process does once, it does now.
                measure(warm, name, cluster)
                for size, place in places.items():
                    cells = [{"day": size, **cell} for cell in measure(place, name, cluster)]
                    content["cells"] = merged(content["cells"], cells)
            options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
