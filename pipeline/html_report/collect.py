"""Collects what the report shows, from ML Metadata, artifacts and the serving folder.

What `retention` has removed is left out. A file that is there and cannot be read is named in
the report, which shows the rest.
"""

from __future__ import annotations

import collections
import datetime
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, TypeVar

from components import held_days, serving_store, storage
from components.evaluator.scores import OVERALL, Score, Slice, scores_of, slices_worth_a_look
from pipeline import lineage
from pipeline.html_report import curves
from pipeline.html_report.contents import (
    Day,
    Drift,
    Quarantined,
    Report,
    ShownAttempt,
    Training,
    Version,
)
from pipeline.workspace import Workspace
from schemas.loading import parse_spec
from schemas.spec import RankingSpec
from trainer_module.stability.outcome import STATISTICS_FILE, VERDICT_FILE, parse_verdict

MAX_TRAININGS = 8
"""Trainings whose steps are shown: the newest, and of the others those that had trouble first."""
MAX_QUARANTINED = 200_000
"""Quarantined lines of a run that are looked at."""

_MEASURES = {"L_INFTY": "L-infinity", "JENSEN_SHANNON_DIVERGENCE": "Jensen-Shannon"}
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
        self, run: lineage.Run, kind: str, name: str, parse: Callable[[BinaryIO, str], _T]
    ) -> _T | None:
        """Reads a file of an artifact; None if it is not there or cannot be read."""
        folder = self.folder(run, kind)
        path = os.path.join(folder, name) if folder else ""
        if not path or not storage.exists(path):
            return None
        try:
            with storage.open(path, "rb") as file:
                return parse(file, path)
        except Exception as error:
            # The page is for a person who wants to see what went wrong: no file may prevent it.
            self.unread.append(f"{path}: {error}")
            return None

    def spec(self, run: lineage.Run) -> RankingSpec | None:
        """The spec that a run was given."""
        return self.read(
            run, "RunPlan", "spec.yaml", lambda file, _: self._parsed(file.read().decode())
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
    return Version(
        number=version.version,
        run_date=version.info.run_date,
        trained_through=version.info.trained_through,
        rolled_back_to=version.info.rolled_back_to,
        digest=version.info.digest,
        faults=tuple(serving_store.damage(version)) if version.info.digest else (),
        lineage=lineage.origins(version.info.model_uri, runs),
    )


def _scores(run: lineage.Run, files: Files) -> list[Score]:
    candidate = run.metrics.get("candidate", {})
    spec = files.spec(run) if candidate else None
    return scores_of(
        candidate,
        run.metrics.get("baseline", {}),
        spec.tasks if spec else {},
        run.intervals.get("candidate", {}),
    )


def _slices(
    newest: Mapping[datetime.date, lineage.Run], files: Files
) -> tuple[datetime.date | None, list[Slice]]:
    for date, run in sorted(newest.items(), reverse=True):
        spec = files.spec(run)
        content = files.read(
            run, "ModelEvaluation", "verdict.json", lambda file, _: json.load(file)
        )
        if spec is None or content is None:
            continue
        metrics = content.get("metrics", {})
        if OVERALL not in metrics.get("candidate", {}):
            continue
        failed = {(name, task) for name, task in content.get("failed", ())}
        return date, slices_worth_a_look(metrics, failed, spec)
    return None, []


def _trainings(newest: Mapping[datetime.date, lineage.Run], files: Files) -> list[Training]:
    found = []
    for date, run in sorted(newest.items()):
        judged = files.read(
            run,
            "TrainingStability",
            VERDICT_FILE,
            lambda file, path: parse_verdict(file.read().decode(), path),
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
                run, "TrainingStability", STATISTICS_FILE, lambda f, _: curves.thinned(f.read())
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
            lambda file, _: anomalies_pb2.Anomalies.FromString(file.read()),
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


def _reasons(file: BinaryIO, path: str) -> list[tuple[str, str]]:
    """Kinds of reasons, each with an example of where it is and what it says."""
    found = []
    for line in itertools.islice(file, MAX_QUARANTINED):
        record = json.loads(line)
        # Lines that were stored before kinds were: each reason is its own.
        kind = record.get("kind", record["reason"])
        if record.get("field"):
            kind = f"field '{record['field']}': {kind}"
        where = f"{os.path.basename(record['file'])}:{record['line']}: {record['reason']}"
        found.append((kind, where))
    return found
