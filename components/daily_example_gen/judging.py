"""What the served model scores on days that it has not seen, before one is trained on.

A day whose labels are wrong is blocked by the gate as a run date, at the price of a push.
As a day of the next window it would be trained on all the same, were it not held here.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from components import held_days
from components.daily_example_gen.day_store import StoredDay
from components.daily_example_gen.shards import read_records
from components.daily_example_gen.splits import (
    TrainDay,
    check_days,
    choose_eval_events,
    plan_training,
)
from components.held_days import HeldDay
from components.lost_labels import lost_classes
from components.run_plan import RunPlan
from schemas.spec import RankingSpec, Validation
from schemas.tasks import BinaryTask
from trainer_module import metrics, signatures

_SAMPLE = 50_000
"""Events of a day that it is judged by."""

_BATCH = 1024

Days = Mapping[datetime.date, StoredDay]
Skills = dict[str, float]
"""By task the AUC of a model on a day; a task is absent that has too few events."""


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a run is to do with the days of its window.

    Attributes:
        held: days to leave out, by date.
        whole: days that were held, and are to be trained on in full.
        notes: what could not be judged, for people.
    """

    held: Mapping[datetime.date, HeldDay] = dataclasses.field(default_factory=dict)
    whole: frozenset[datetime.date] = frozenset()
    notes: tuple[str, ...] = ()


def judge_days(plan: RunPlan, days: Days, day_store: str, model_dir: str) -> Judgement:
    """Decides which days of a run's window are left out of training, and remembers it.

    Judged is each day that the served version has not seen as it is now: one that is new, came
    late or was delivered again. They are held against the day on which it passed its gate.

    Args:
        plan: the run's plan.
        days: the stored days by date.
        day_store: where days that are held are remembered.
        model_dir: folder of the served version; not read unless there is a day to judge.

    Returns:
        The decision.
    """
    window = [date for date in plan.window if date in days and days[date].manifest.events]
    contents = {date: content_of(days[date]) for date in window}
    found = {date: day for date in window if (day := held_days.find(day_store, date))}
    known = {date: day for date, day in found.items() if day.content == contents[date]}
    new = [date for date in _unseen(plan, contents) if date not in known]
    notes = tuple(
        f"{date}: left the window while it was held, and was never trained on"
        for date in held_days.forget_before(day_store, plan.window[0])
    )
    decided: dict[datetime.date, HeldDay] = {}
    if new:
        judged_on = plan.baseline_run_date
        if judged_on not in days or judged_on in new:
            judged_on = None
        measured = [*new, judged_on] if judged_on else new
        try:
            judged = _judged(plan.spec, {date: days[date] for date in measured}, model_dir)
        except (tf.errors.InvalidArgumentError, ValueError, KeyError) as error:
            logging.exception("The served version cannot score the days.")
            notes += (f"{_listed(new)}: not judged, the served version cannot score them: {error}",)
        else:
            skills = {date: of_day for date, (of_day, _) in judged.items()}
            worse = collapsed(skills, judged_on, plan.spec.validation)
            for date in new:
                if reasons := (*worse.get(date, ()), *judged[date][1]):
                    assert plan.baseline_version is not None
                    decided[date] = HeldDay(date, contents[date], plan.baseline_version, reasons)
            if blind := [date for date in new if not skills[date] and date not in decided]:
                notes += (f"{_listed(blind)}: not judged, too few events of each label",)
    for date in found.keys() - known.keys() - decided.keys():
        # Its logs were mended, so that nothing is held against it any more.
        decided[date] = dataclasses.replace(found[date], content=contents[date], released=True)
    for day in decided.values():
        held_days.save(day_store, day)
    known |= decided
    return Judgement(
        held={date: day for date, day in sorted(known.items()) if not day.released},
        whole=frozenset(
            date
            for date, day in known.items()
            if day.released and plan.base_seen.get(str(date)) != day.content
        ),
        notes=notes,
    )


def choose_training(
    plan: RunPlan, days: Days, logs_root: str, day_store: str, model_dir: str | None
) -> tuple[list[TrainDay], tuple[HeldDay, ...], tuple[str, ...]]:
    """Decides what a run trains on, and holds its days against the spec's limits.

    Args:
        plan: the run's plan.
        days: the stored days by date.
        logs_root: where the logs are, for messages.
        day_store: where days that are held are remembered.
        model_dir: as for `judge_days`; no day is judged, or left out as held, if None.

    Returns:
        What is trained on, the days that are held, and notes on both and on what is missing.

    Raises:
        BadDataError: the days cannot be trusted.
    """
    judged = Judgement() if model_dir is None else judge_days(plan, days, day_store, model_dir)
    training = plan_training(plan, days, judged.held, judged.whole)
    held = tuple(judged.held.values())
    notes = check_days(plan, days, training, logs_root, held)
    return training, held, (*notes, *judged.notes)


def _unseen(plan: RunPlan, contents: Mapping[datetime.date, str]) -> list[datetime.date]:
    """The days that the served version does not know as they are now; all, if it knows none."""
    if plan.baseline_version is None or plan.spec.validation.max_auc_fall is None:
        return []
    return [
        date for date, content in contents.items() if plan.baseline_seen.get(str(date)) != content
    ]


def collapsed(
    skills: Mapping[datetime.date, Skills],
    judged_on: datetime.date | None,
    limits: Validation,
) -> dict[datetime.date, tuple[str, ...]]:
    """Finds the days on which a task's AUC falls further than the spec allows.

    Args:
        skills: a model's AUC by day and task.
        judged_on: the day on which the model passed its gate; where it is not there, or has
            too few events of a task, the task is compared with its upper median over all days.
        limits: with `max_auc_fall`.

    Returns:
        The reasons by day.
    """
    found: dict[datetime.date, list[str]] = {}
    assert limits.max_auc_fall is not None
    for task in sorted({task for of_day in skills.values() for task in of_day}):
        by_day = {date: of_day[task] for date, of_day in skills.items() if task in of_day}
        usual = judged_on
        if usual is None or usual not in by_day:
            usual = sorted(by_day, key=lambda date: (by_day[date], date))[len(by_day) // 2]
        for date, auc in by_day.items():
            if date != usual and by_day[usual] - auc > limits.max_auc_fall:
                reason = f"{task}: AUC {auc:.3f}, and {by_day[usual]:.3f} on {usual}"
                found.setdefault(date, []).append(reason)
    return {date: tuple(reasons) for date, reasons in sorted(found.items())}


def _judged(
    spec: RankingSpec, days: Days, model_dir: str
) -> dict[datetime.date, tuple[Skills, list[str]]]:
    model = tf.saved_model.load(model_dir)
    return {date: _judge(spec, day, model) for date, day in days.items()}


def _judge(spec: RankingSpec, day: StoredDay, model: Any) -> tuple[Skills, list[str]]:
    """A model's skills on a day, and the labels that the day has lost."""
    answers: dict[str, list[np.ndarray]] = {}
    for batch in _batches(day):
        examples = tf.constant(batch)
        for signature in (signatures.EVALUATE, signatures.LABELS):
            for name, values in model.signatures[signature](examples=examples).items():
                answers.setdefault(name, []).append(values.numpy())
    whole = {name: np.concatenate(values) for name, values in answers.items()}
    skills, lost = {}, []
    for task, declared in spec.tasks.items():
        known = whole[signatures.weight_key(task)] > 0
        predictions, labels = whole[task][known], whole[signatures.label_key(task)][known]
        auc = _auc(predictions, labels, spec.validation.min_positives)
        if auc is not None:
            skills[task] = auc
        if isinstance(declared, BinaryTask) and len(labels):
            served = {
                "weighted_example_count": float(len(labels)),
                "mean_label": float(labels.mean()),
                "mean_prediction": float(predictions.mean()),
            }
            lost += [f"{task}: {what}" for what in lost_classes(served, spec)]
    return skills, lost


def _auc(predictions: np.ndarray, labels: np.ndarray, fewest: int) -> float | None:
    """AUC of a binary label; of another one, that of its being above its median."""
    if not len(labels):
        return None
    if not np.isin(labels, (0.0, 1.0)).all():
        labels = labels > np.median(labels)
    positives = int(labels.sum())
    if min(positives, len(labels) - positives) < fewest:
        return None
    auc = metrics.auc(labels, predictions)
    # Predictions that are not numbers rank nothing.
    return 0.5 if math.isnan(auc) else auc


def _batches(day: StoredDay) -> Iterator[list[bytes]]:
    pending: list[bytes] = []
    for number, events in enumerate(choose_eval_events(day.manifest.shards, _SAMPLE)):
        if events:
            pending += read_records(day.shard(number))[:events]
        while len(pending) >= _BATCH:
            yield pending[:_BATCH]
            pending = pending[_BATCH:]
    if pending:
        yield pending


def content_of(day: StoredDay) -> str:
    """Identifies a day's log files, whatever it was joined with since."""
    files = [(file["name"], file["size"], file["version"]) for file in day.manifest.files]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def _listed(dates: Sequence[datetime.date]) -> str:
    return ", ".join(map(str, dates))
