"""Collects what the report shows, from ML Metadata, artifacts and the serving folder.

What `retention` has removed is left out. A file that is there and cannot be read is named in
the report, which shows the rest.
"""

from __future__ import annotations

import collections
import datetime
import functools
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from components import held_days, serving_store, storage
from pipeline import lineage
from pipeline.html_report import curves
from pipeline.html_report.contents import (
    Day,
    Drift,
    Quarantined,
    Report,
    Score,
    ShownAttempt,
    Slice,
    Training,
    Version,
)
from pipeline.workspace import Workspace
from schemas.loading import parse_spec
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask, Task
from trainer_module.stability.outcome import STATISTICS_FILE, VERDICT_FILE, parse_verdict

MAX_SLICES = 12
MAX_TRAININGS = 8
"""Trainings whose steps are shown: the newest, and of the others those that had trouble first."""
MAX_QUARANTINED = 200_000
"""Quarantined lines of a run that are looked at."""

_OVERALL = "all events"
_MEASURES = {"L_INFTY": "L-infinity", "JENSEN_SHANNON_DIVERGENCE": "Jensen-Shannon"}
_Values = Mapping[str, float]
_T = TypeVar("_T")


def collect(workspace: Workspace) -> Report:
    """Collects all that is known of a workspace.

    Raises:
        RankerError: ML Metadata or the serving folder cannot be read.
    """
    store = lineage.open_store(workspace.metadata_path)
    runs = lineage.list_runs(store) if store is not None else []
    held = {str(day.date): day.reasons for day in held_days.list_held(workspace.day_store)}
    version = serving_store.served_version(workspace.serving)
    return collect_runs(runs, Files(workspace.artifacts), version, held)


def collect_runs(
    runs: Sequence[lineage.Run],
    files: Files,
    version: serving_store.ServedVersion | None,
    held: Mapping[str, Sequence[str]],
) -> Report:
    """Collects all that is known of runs.

    Args:
        runs: oldest first.
        files: what they wrote.
        version: the version that is served.
        held: days that are held now, with the reasons.
    """
    by_date: dict[datetime.date, list[lineage.Run]] = {}
    for run in runs:
        if (date := _date(run.run_date)) is not None:
            by_date.setdefault(date, []).append(run)
    reasons = {date: why for run in runs for date, why in run.held.items()} | dict(held)
    newest = {date: of_day[-1] for date, of_day in by_date.items()}
    spec = files.spec(runs[-1]) if runs else None
    slices_of, slices = _slices(newest, files)
    return Report(
        name=spec.name if spec else "",
        made=datetime.datetime.now(datetime.timezone.utc),
        days=[
            Day(
                date=date,
                run=newest.get(date),
                earlier=by_date.get(date, [])[:-1],
                held=reasons.get(str(date), ()),
                scores=_scores(newest[date], files) if date in newest else (),
            )
            for date in _calendar(by_date)
        ],
        served=_served(version, runs) if version else None,
        slices=slices,
        slices_of=slices_of,
        trainings=_trainings(newest, files),
        drift=[drift for date, run in sorted(newest.items()) for drift in _drift(date, run, files)],
        quarantine=_quarantine(runs[-1], files) if runs else (),
        unread=tuple(dict.fromkeys(files.unread)),
    )


class Files:
    """What runs wrote, wherever the workspace lies now.

    Attributes:
        unread: what could not be read, and why.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self.unread: list[str] = []
        # The runs of a year have few specs, and reading one takes as long as reading 50 verdicts.
        self._parsed = functools.lru_cache(maxsize=None)(lambda text: parse_spec(text, "spec.yaml"))

    def folder(self, run: lineage.Run, kind: str) -> str | None:
        """The folder of an artifact; None if there is none (any more)."""
        uri = run.artifacts.get(kind, "")
        path = os.path.join(self._root, lineage.place(uri)) if self._root else uri
        return path if uri and storage.exists(path) else None

    def read(
        self, run: lineage.Run, kind: str, name: str, parse: Callable[[bytes, str], _T]
    ) -> _T | None:
        """Reads a file of an artifact; None if it is not there or cannot be read."""
        folder = self.folder(run, kind)
        path = os.path.join(folder, name) if folder else ""
        if not path or not storage.exists(path):
            return None
        try:
            with storage.open(path, "rb") as file:
                return parse(file.read(), path)
        except Exception as error:
            # The page is for a person who wants to see what went wrong: no file may prevent it.
            self.unread.append(f"{path}: {error}")
            return None

    def spec(self, run: lineage.Run) -> RankingSpec | None:
        """The spec that a run was given."""
        return self.read(
            run, "RunPlan", "spec.yaml", lambda content, path: self._parsed(content.decode())
        )


def _calendar(dates: Mapping[datetime.date, object]) -> Iterator[datetime.date]:
    if dates:
        first, last = min(dates), max(dates)
        for number in range((last - first).days + 1):
            yield first + datetime.timedelta(days=number)


def _date(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return None


def _served(version: serving_store.ServedVersion, runs: Sequence[lineage.Run]) -> Version:
    by_uri = {run.model_uri: run for run in runs if run.model_uri}
    chain: list[lineage.Run] = []
    run = by_uri.get(version.info.model_uri)
    while run is not None and run not in chain:
        chain.append(run)
        run = by_uri.get(run.base_model_uri)
    return Version(
        number=version.version,
        run_date=version.info.run_date,
        trained_through=version.info.trained_through,
        rolled_back_to=version.info.rolled_back_to,
        digest=version.info.digest,
        faults=tuple(serving_store.damage(version)) if version.info.digest else (),
        lineage=chain,
    )


def _scores(run: lineage.Run, files: Files) -> list[Score]:
    candidate = run.metrics.get("candidate", {})
    served = run.metrics.get("baseline", {})
    spec = files.spec(run) if candidate else None
    tasks = spec.tasks if spec else {}
    intervals = run.intervals.get("candidate", {})
    found = (
        _score(task, values, served.get(task, {}), tasks.get(task), intervals.get(task))
        for task, values in candidate.items()
        if task
    )
    return [score for score in found if score is not None]


def _score(
    task: str,
    values: _Values,
    served: _Values,
    declared: Task | None = None,
    intervals: Mapping[str, _Values] | None = None,
) -> Score | None:
    """Describes a task by the metric that it is gated by.

    Args:
        task: its name.
        values: the candidate's, by TFMA's names.
        served: the served model's.
        declared: the task in the spec, for its gate; None where no gate is to be shown.
        intervals: of the candidate's metrics, those that have one.
    """
    name, metric = ("auc", "AUC") if "auc" in values else ("rmse", "RMSE")
    if name not in values:
        return None
    trivial = values.get("label_standard_deviation")
    if metric == "AUC":
        trivial = values[name] - values["auc_lift"] if "auc_lift" in values else None
    interval = (intervals or {}).get(name)
    return Score(
        task=task,
        metric=metric,
        candidate=values[name],
        served=served.get(name),
        trivial=trivial,
        gate=_gate(declared, values, served) if declared else None,
        interval=(interval["low"], interval["high"]) if interval else None,
        events=values.get("weighted_example_count"),
    )


def _gate(task: Task, values: _Values, served: _Values) -> float | None:
    """The AUC or RMSE that would just have passed: the tightest of the task's bounds on it."""
    if isinstance(task, BinaryTask):
        bounds = [
            task.gate.min_auc,
            _add(served.get("auc"), task.gate.max_auc_drop, -1),
            _add(_add(values["auc"], values.get("auc_lift"), -1), task.gate.min_auc_lift),
        ]
        return max((bound for bound in bounds if bound is not None), default=None)
    deviation = values.get("label_standard_deviation")

    def rmse_of(r2: float | None) -> float | None:
        """R2 is 1 - RMSE^2 / variance."""
        return None if r2 is None or deviation is None else deviation * math.sqrt(max(1 - r2, 0))

    bounds = [
        task.gate.max_rmse,
        _add(served.get("rmse"), task.gate.max_rmse_rise),
        rmse_of(task.gate.min_r2),
        rmse_of(_add(served.get("r2"), task.gate.max_r2_drop, -1)),
    ]
    return min((bound for bound in bounds if bound is not None), default=None)


def _add(value: float | None, other: float | None, sign: int = 1) -> float | None:
    return None if value is None or other is None else value + sign * other


def _slices(
    newest: Mapping[datetime.date, lineage.Run], files: Files
) -> tuple[datetime.date | None, list[Slice]]:
    for date, run in sorted(newest.items(), reverse=True):
        spec = files.spec(run)
        content = files.read(
            run, "ModelEvaluation", "verdict.json", lambda text, _: json.loads(text)
        )
        if spec is None or content is None:
            continue
        metrics = content.get("metrics", {})
        if _OVERALL not in metrics.get("candidate", {}):
            continue
        failed = {(name, task) for name, task in content.get("failed", ())}
        found = list(_slices_of_day(metrics, failed, spec))
        found.sort(key=lambda item: (not item.fails, -item.behind))
        return date, [item for item in found if item.fails or item.behind > 0][:MAX_SLICES]
    return None, []


def _from_json(content: bytes, path: str) -> dict[str, Any]:
    del path
    return json.loads(content)


def _slices_of_day(
    metrics: Mapping[str, Mapping[str, Mapping[str, _Values]]],
    failed: Collection[tuple[str, str]],
    spec: RankingSpec,
) -> Iterator[Slice]:
    served = metrics.get("baseline", {})
    overall = metrics["candidate"][_OVERALL]
    for name, tasks in metrics["candidate"].items():
        if name == _OVERALL:
            continue
        for task, values in tasks.items():
            score = _score(task, values, served.get(name, {}).get(task, {})) if task else None
            whole = _score(task, overall.get(task, {}), {})
            if score is None or whole is None:
                continue
            fails = (name, task) in failed
            if fails or (score.events or 0.0) >= spec.min_slice_events:
                yield Slice(name, score, whole.candidate, fails)


def _trainings(newest: Mapping[datetime.date, lineage.Run], files: Files) -> list[Training]:
    found = []
    for date, run in sorted(newest.items()):
        judged = files.read(
            run,
            "TrainingStability",
            VERDICT_FILE,
            lambda text, path: parse_verdict(text.decode(), path),
        )
        if judged is not None:
            found.append((date, run, judged))
    by_trouble = sorted(found[:-1], key=lambda item: (item[2].verdict != "healthy", item[0]))
    shown = {date for date, _, _ in (*found[-1:], *by_trouble[:-MAX_TRAININGS:-1])}
    trainings = []
    for date, run, judged in found:
        statistics: Mapping[int, Any] = {}
        if date in shown:
            read = files.read(
                run, "TrainingStability", STATISTICS_FILE, lambda c, _: curves.thinned(c)
            )
            statistics = read or {}
        attempts = [
            ShownAttempt(**vars(attempt), number=number + 1, statistics=statistics.get(number))
            for number, attempt in enumerate(judged.attempts)
        ]
        trainings.append(Training(date, judged.verdict, judged.summary, attempts))
    return trainings


def _drift(date: datetime.date, run: lineage.Run, files: Files) -> Iterator[Drift]:
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    for split in ("eval", "train"):
        anomalies = files.read(
            run,
            "ExampleAnomalies",
            os.path.join(f"Split-{split}", "SchemaDiff.pb"),
            lambda content, _: anomalies_pb2.Anomalies.FromString(content),
        )
        for info in anomalies.drift_skew_info if anomalies else ():
            for kind in ("drift", "skew"):
                for measured in getattr(info, f"{kind}_measurements"):
                    name = type(measured).Type.Name(measured.type)
                    yield Drift(
                        date,
                        ".".join(info.path.step),
                        kind,
                        _MEASURES.get(name, name),
                        measured.value,
                        measured.threshold,
                    )


def _quarantine(run: lineage.Run, files: Files) -> list[Quarantined]:
    folder = files.folder(run, "QuarantinedEvents")
    counts: collections.Counter[str] = collections.Counter()
    examples: dict[str, str] = {}
    for name in sorted(storage.listdir(folder)) if folder else ():
        if name.endswith(".jsonl") and counts.total() < MAX_QUARANTINED:
            found = files.read(run, "QuarantinedEvents", name, _reasons)
            for reason, where in found or ():
                counts[reason] += 1
                examples.setdefault(reason, where)
    return [Quarantined(reason, count, examples[reason]) for reason, count in counts.most_common()]


def _reasons(content: bytes, path: str) -> list[tuple[str, str]]:
    """Kinds of reasons, each with an example of where it is and what it says."""
    found = []
    for line in content.splitlines()[:MAX_QUARANTINED]:
        record = json.loads(line)
        # Lines that were stored before kinds were: each reason is its own.
        kind = record.get("kind", record["reason"])
        if record.get("field"):
            kind = f"field '{record['field']}': {kind}"
        where = f"{os.path.basename(record['file'])}:{record['line']}: {record['reason']}"
        found.append((kind, where))
    return found
