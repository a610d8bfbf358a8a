"""What Beam's steps cost, and what a billion events a day would take: from the recorded results.

    python -m benchmarks.sizing

rewrites a section of docs/flink.md and one of docs/kubeflow.md. A test holds both against it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
COMPONENTS = ("DailyExampleGen", "StatisticsGen", "Evaluator")
DIRECT = "direct"
_TRAINING = "laptop, batch 1024"
_TWO = "flink-2"
_EVENTS = 10**9
_INGESTION_HOURS, _TRAINING_HOURS = 0.5, 2
_BUSY = 0.7
_WIDTH = 100
_WORKER_CORES = 4
_FILE_EVENTS = 5
"""Millions in a file of the logs."""
_WINDOW_DAYS = 7
_PARTS = {
    "driver": "the step's own process",
    "jobserver": "Beam's job server",
    "jobmanager": "the JobManager",
    "taskmanagers": "the TaskManagers: shuffles, and handing over to Beam",
    "beam": "Beam's workers: our code",
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """CPU seconds of a step: a line through the smallest and the largest day that were measured.

    Attributes:
        million: of a million events more.
        job: of a day without an event.
    """

    million: float
    job: float

    @classmethod
    def of(cls, cells: Sequence[Mapping[str, Any]], part: str | None = None) -> Cost:
        """Draws the line.

        Args:
            cells: days of one component and contender, the smallest first.
            part: what the CPU is for, as `parts` names it; all of it if None.
        """
        first, *_, last = cells
        low, high = (
            sum(used for name, used in parts(cell).items() if part in (None, name))
            for cell in (first, last)
        )
        million = (high - low) / (last["events"] - first["events"]) * 1e6
        return cls(million, low - million * first["events"] / 1e6)


def parts(cell: Mapping[str, Any]) -> dict[str, float]:
    """CPU seconds of a cell by what they are for; those of all TaskManagers together."""
    found: dict[str, float] = {}
    for name, seconds in cell["cpu_seconds"].items():
        part = "taskmanagers" if name.startswith("worker-") else name
        found[part] = found.get(part, 0.0) + seconds
    return found


def costs(scale: Mapping[str, Any]) -> str:
    """The section on costs of docs/flink.md.

    Args:
        scale: what `benchmarks.scale` wrote.
    """
    contenders = sorted({cell["contender"] for cell in scale["cells"]})
    of = functools.partial(_days, scale)
    rows = [
        [
            component,
            _spaced(cell["events"]),
            _name(contender),
            f"{cell['seconds']:.0f}",
            f"{sum(parts(cell).values()):.0f}",
            _spaced(cell["events"] / cell["seconds"] / _workers(contender)),
            " + ".join(map(_spaced, cell.get("records_per_worker", ()))),
        ]
        for component in COMPONENTS
        for contender in contenders
        for cell in of(component, contender)
    ]
    lines = [
        [
            component,
            *(f"{Cost.of(of(component, contender)).million:.0f}" for contender in contenders),
            *(f"{Cost.of(of(component, contender)).job:.0f}" for contender in contenders),
        ]
        for component in COMPONENTS
    ]
    names = [_name(contender) for contender in contenders]
    of_two = [
        [
            told,
            *(
                text
                for component in COMPONENTS
                for cost in [Cost.of(of(component, _TWO), part)]
                for text in (f"{cost.million:.1f}", f"{cost.job:.0f}")
            ),
        ]
        for part, told in _PARTS.items()
    ]
    return "\n\n".join(
        [
            "CPU seconds of all processes that a million events more take, and those of a job "
            "without an event:",
            _table(
                "component",
                *(f"a million: {name}" for name in names),
                *(f"a job: {name}" for name in names),
                rows=lines,
            ),
            _filled(
                "The same on two workers, by what they are for. These are differences of single "
                "runs: less than a second is scatter."
            ),
            _table(
                "",
                *(title for name in COMPONENTS for title in (f"{name}: a million", "a job")),
                rows=of_two,
            ),
            "What was measured:",
            _table(
                "component",
                "events",
                "on",
                "s",
                "CPU s",
                "events a second and worker",
                "records per worker",
                rows=rows,
            ),
        ]
    )


def billion(scale: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """The sizing example of docs/kubeflow.md.

    Args:
        scale: what `benchmarks.scale` wrote.
        training: what `benchmarks.train` wrote.
    """
    cost = {
        component: {
            contender: Cost.of(_days(scale, component, contender)).million
            for contender in (DIRECT, _TWO)
        }
        for component in COMPONENTS
    }
    millions = _EVENTS / 1e6
    ingestion = cost["DailyExampleGen"][_TWO]
    logs, stored = (scale["bytes_per_event"][name] for name in ("logs_gzip", "day_store"))
    (rate,) = (
        case["events_per_second"]["ours"] for case in training["cases"] if case["case"] == _TRAINING
    )
    busy = ingestion * millions / (_INGESTION_HOURS * 3600)
    cores = math.ceil(busy / _BUSY)
    workers = math.ceil(cores / _WORKER_CORES)
    hours = _EVENTS / rate / 3600
    wanted = _EVENTS / (_TRAINING_HOURS * 3600)
    table = _table(
        "",
        "measured",
        f"for {_spaced(_EVENTS)} events",
        rows=[
            [
                "ingestion of JSON lines (gzip), counting and joining three history features",
                f"{cost['DailyExampleGen'][DIRECT]:.0f} core seconds a million events on the "
                f"Direct runner, {ingestion:.0f} on two workers of Flink",
                f"{ingestion * millions / 3600:.1f} core hours",
            ],
            [
                "statistics of all events; of a sample of 200 000 by default",
                f"{cost['StatisticsGen'][DIRECT]:.0f} and {cost['StatisticsGen'][_TWO]:.0f}",
                f"{cost['StatisticsGen'][_TWO] * millions / 3600:.1f} core hours",
            ],
            [
                "evaluation",
                f"{cost['Evaluator'][DIRECT]:.0f} and {cost['Evaluator'][_TWO]:.0f}",
                "a sample",
            ],
            [
                "logs, gzip",
                f"{logs:.0f} bytes an event (the demo's 9 features)",
                f"{logs * _EVENTS / 1e9:.0f} GB a day",
            ],
            [
                "day store, with history",
                f"{stored:.0f} bytes an event (the same)",
                f"{stored * _EVENTS / 1e9:.0f} GB a day, "
                f"{stored * _EVENTS * _WINDOW_DAYS / 1e12:.1f} TB for {_WINDOW_DAYS} days",
            ],
            [
                f"training, preset {_TRAINING}",
                f"{_spaced(rate)} events a second on two cores",
                f"{_spaced(_EVENTS / rate)} s = {hours:.1f} h",
            ],
        ],
        others="---",
    )
    paragraphs = [
        f"*Ingestion in half an hour*: {_spaced(ingestion * millions)} core seconds / "
        f"{_spaced(_INGESTION_HOURS * 3600)} s = {busy:.1f} cores busy all the time. At "
        f"{_BUSY * 100:.0f} % use "
        f"that is {cores} cores: {workers} workers of {_WORKER_CORES} cores (on Flink a worker of "
        f"Beam is one process: {cores} TaskManagers). Memory is that of a shard, and of the ids "
        "that a history feature looks back on. A day is encoded once, into the day store, not once "
        "a run. One worker reads a gzip file (plain files are cut into ranges), so deliver "
        f"several files for each core. {_EVENTS // (_FILE_EVENTS * 10**6)} files of {_FILE_EVENTS} "
        f"million events, {logs * _FILE_EVENTS:.0f} MB each, take a core "
        f"{ingestion * _FILE_EVENTS / 60:.1f} minutes apiece.",
        f"*Training in two hours*: {_spaced(_EVENTS)} events / "
        f"{_spaced(_TRAINING_HOURS * 3600)} s = {_spaced(wanted)} events a second, "
        f"{wanted / rate:.1f} times what two cores of the benchmark did. How training scales over "
        "workers was not measured. A bigger model costs "
        "more by its own factor, and one GPU may do where the embeddings fit. A warm start reads "
        "the new day and, with `exposures: 1`, nothing else. A cold start reads the window: "
        f"{_WINDOW_DAYS} times as much, or a smaller window on that day.",
        "*Evaluation*: `max_eval_events` in the spec caps it at a sample. A million events bound "
        "the standard error of a rate of 1 % to √(0.01 · 0.99 / 10⁶) = 0.0001, which is 1 % of it.",
        "*Storage and network*: with the launcher's copies each consumer of the examples downloads "
        "all of them to its pod's disk (StatisticsGen, Transform, ServingCheck, Evaluator, "
        "Pusher). At this size use a bucket and `remote_artifacts: true`.",
        "*Time of a day*: half an hour of ingestion, less than a minute for the statistics of a "
        f"sample (`max_statistics_events`), {min(hours, _TRAINING_HOURS):.1f} h of training, the "
        "evaluation of a sample.",
    ]
    return "\n\n".join([table, *map(_filled, paragraphs)])


def replaced(document: str, heading: str, text: str) -> str:
    """Puts a text below the first paragraph of a section, up to the next heading.

    Raises:
        ValueError: there is no such section.
    """
    pattern = rf"(^#+ {re.escape(heading)}\n\n.*?\n\n)(.*?)(?=^#+ )"
    new, count = re.subn(
        pattern, lambda found: f"{found[1]}{text}\n\n", document, count=1, flags=re.M | re.S
    )
    if not count:
        raise ValueError(f"no section {heading!r}")
    return new


def documents() -> Iterator[tuple[pathlib.Path, str]]:
    """Yields each document with what it should be."""
    scale, training = (
        json.loads((RESULTS / f"{name}.json").read_text()) for name in ("scale", "train")
    )
    for name, heading, text in (
        ("flink.md", "What it costs", costs(scale)),
        ("kubeflow.md", "A billion events a day", billion(scale, training)),
    ):
        path = ROOT / "docs" / name
        yield path, replaced(path.read_text(encoding="utf-8"), heading, text)


def _days(scale: Mapping[str, Any], component: str, contender: str) -> list[Mapping[str, Any]]:
    """The cells of a component and a contender, the smallest day first."""
    found = [
        cell
        for cell in scale["cells"]
        if (cell["component"], cell["contender"]) == (component, contender)
    ]
    return sorted(found, key=lambda cell: cell["events"])


def _workers(contender: str) -> int:
    return 1 if contender == DIRECT else int(contender.rpartition("-")[2])


def _name(contender: str) -> str:
    if contender == DIRECT:
        return "Direct"
    workers = _workers(contender)
    return f"{workers} worker{'s' if workers > 1 else ''}"


def _spaced(number: float) -> str:
    """A number to three digits, or all of a whole one, in groups of three."""
    if isinstance(number, float):
        number = round(number, 2 - math.floor(math.log10(number)))
    return f"{number:,.0f}".replace(",", " ")


def _filled(paragraph: str) -> str:
    return textwrap.fill(paragraph, _WIDTH, break_on_hyphens=False)


def _table(first: str, *titles: str, rows: Sequence[Sequence[str]], others: str = "---:") -> str:
    head = f"| {' | '.join((first, *titles))} |"
    rule = f"| --- |{f' {others} |' * len(titles)}"
    return "\n".join([head, rule, *(f"| {' | '.join(row)} |" for row in rows)])


def main() -> None:
    """Rewrites the documents."""
    for path, text in documents():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
