"""Which shards of which days a run trains on, and whether the days are good enough."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from apache_beam.io.filesystems import FileSystems

from components import storage
from components.daily_example_gen.day_store import StoredDay, list_logs
from components.daily_example_gen.parts import create
from components.daily_example_gen.shards import compressed, first_tf_records, read_framed
from components.held_days import HeldDay
from components.run_plan import RunPlan
from schemas.errors import BadDataError

_QUOTED_NOTES = 3


@dataclasses.dataclass(frozen=True)
class TrainDay:
    """What a run takes of a window day.

    Attributes:
        date: the day.
        share: wanted share of its events.
        shards: the shards taken.
        events: how many events these hold.
    """

    date: datetime.date
    share: float
    shards: tuple[int, ...]
    events: int


def choose_shards(
    shards: int, share: float, day: datetime.date, run_date: datetime.date, seed: int
) -> tuple[int, ...]:
    """Chooses the shards of a day that a run trains on.

    The shards lie on a circle in an order of the day's own. Each run date takes the next
    `ceil(share * shards)` of them, so that the replays of a day differ for as long as it
    has shards.

    Args:
        shards: number of the day's shards.
        share: share of the day's events wanted, 0 to 1.
        day: the day.
        run_date: date of the run, after `day`.
        seed: `training.seed`.

    Returns:
        Numbers of the shards, ascending.
    """
    # A product such as 0.1 * 30 = 3.0000000000000004 is not to take another shard.
    count = min(shards, math.ceil(share * shards - 1e-9))
    if not count:
        return ()
    circle = np.random.default_rng((seed, day.toordinal())).permutation(shards)
    start = (run_date - day).days * count
    return tuple(sorted(int(circle[(start + i) % shards]) for i in range(count)))


def plan_training(
    plan: RunPlan,
    days: Mapping[datetime.date, StoredDay],
    held: Collection[datetime.date] = (),
    whole: Collection[datetime.date] = (),
) -> list[TrainDay]:
    """What the run takes of each window day that has events, oldest first.

    Args:
        plan: the run's plan.
        days: the stored days by date.
        held: days that are left out.
        whole: days that are taken in full, whatever the plan says.
    """
    taken = []
    for date in plan.window:
        # A day without events counts as one that was not delivered: its logs may still come.
        if date not in days or not days[date].manifest.events or date in held:
            continue
        counts = days[date].manifest.shards
        share = 1.0 if date in whole else plan.train_share(date)
        chosen = choose_shards(len(counts), share, date, plan.run_date, plan.spec.training.seed)
        taken.append(TrainDay(date, share, chosen, sum(counts[i] for i in chosen)))
    return taken


def usual_day(training: Sequence[TrainDay], days: Mapping[datetime.date, StoredDay]) -> int:
    """Events of a usual day: the mean over the window's days that hold some, taken or not."""
    return round(float(np.mean([days[day.date].manifest.events for day in training])))


def choose_eval_events(counts: Sequence[int], wanted: int | None) -> tuple[int, ...]:
    """Chooses how many events of each shard of the run date the model is evaluated on.

    Shards are random samples of their day, in random order: the first events of the first
    ones will do.

    Args:
        counts: events by shard.
        wanted: events to evaluate on, where the day has so many; all if None.

    Returns:
        Events taken of each shard, from its beginning.
    """
    before = np.cumsum([0, *counts[:-1]])
    left = np.inf if wanted is None else wanted - before
    return tuple(int(taken) for taken in np.clip(counts, 0, np.maximum(left, 0)))


def check_days(
    plan: RunPlan,
    days: Mapping[datetime.date, StoredDay],
    training: list[TrainDay],
    logs_root: str,
    held: Sequence[HeldDay] = (),
) -> list[str]:
    """Holds a run's days against the spec's limits.

    Args:
        plan: the run's plan.
        days: the stored days by date.
        training: what the run trains on.
        logs_root: where the logs are, for messages.
        held: days that are left out of training.

    Returns:
        Notes on what is missing but does not stop the run.

    Raises:
        BadDataError: with what is wrong, where, and what to do.
    """
    limits = plan.spec.events
    untrusted = [
        problem
        for _, day in sorted(days.items())
        for problem in (
            _too_malformed(day, limits.max_quarantined),
            _too_repetitive(day, limits.max_duplicates),
        )
        if problem
    ]
    if untrusted:
        raise BadDataError("\n".join(untrusted))

    run_day = days.get(plan.run_date)
    run_dir = os.path.join(logs_root, plan.run_date.isoformat())
    if run_day is None or not run_day.manifest.events:
        what = "holds no log files" if run_day is None else "its log files hold no events"
        raise BadDataError(
            f"{run_dir}: {what}, and the model would be evaluated on them. Deliver the day's "
            "logs, or run another date" + _quoted(_passed_over([plan.run_date], days, logs_root))
        )
    fewest = plan.spec.validation.min_events
    if run_day.manifest.events < fewest:
        raise BadDataError(
            f"{run_dir}: {_number(run_day.manifest.events)} events, fewer than the "
            f"{_number(fewest)} of validation.min_events. Are the day's logs complete?"
        )

    with_events = [date for date in plan.window if date in days and days[date].manifest.events]
    gaps = [date.isoformat() for date in plan.window if date not in with_events]
    passed_over = _passed_over(plan.window, days, logs_root)
    needed = plan.spec.training.min_window_days
    if len(with_events) < needed:
        raise BadDataError(
            f"{logs_root}: {len(with_events)} of the {len(plan.window)} days before "
            f"{plan.run_date} hold events, fewer than the {needed} of training.min_window_days; "
            f"without events: {', '.join(gaps) or 'none'}. Deliver their logs, or lower the limit"
            + _quoted(passed_over)
        )
    events = sum(day.events for day in training)
    held_notes = [str(day) for day in held]
    if not events and held:
        raise BadDataError(
            f"{logs_root}: no events to train on before {plan.run_date}: every new day is held"
            + _quoted(held_notes)
        )
    if not events:
        shares = ", ".join(f"{day.date}: {day.share:g}" for day in training) or "no days"
        raise BadDataError(
            f"{logs_root}: no events to train on before {plan.run_date}. The served version was "
            f"trained on the newest day already, and none is replayed (shares: {shares}). "
            "Deliver the newest day's logs, or raise training.exposures"
        )
    if events < fewest:
        raise BadDataError(
            f"{logs_root}: {_number(events)} events to train on before {plan.run_date}, fewer "
            f"than the {_number(fewest)} of validation.min_events. Are the logs of "
            f"{', '.join(str(day.date) for day in training if day.share)} complete?"
            + _quoted(held_notes)
        )
    notes = [note for _, day in sorted(days.items()) for note in _notes(day)]
    notes += _looked_back_on(plan, days)
    begin = min(date for date, day in days.items() if day.manifest.events)
    gone = [date for date in gaps if date in plan.baseline_seen]
    missing = [
        f"{date}: no events any more, though the served version knows the day: keep the logs of "
        "the window, a training anew learns from no others"
        for date in gone
    ]
    gaps = [date for date in gaps if date not in gone]
    missing += [f"{date}: no events, a gap in the window" for date in gaps if date > str(begin)]
    if gaps and gaps[0] < str(begin):
        missing.append(
            f"the events begin on {begin}: {len(with_events)} of the {len(plan.window)} days of "
            "the window hold some"
        )
    late = [
        f"{day.date}: came late or was held, and is trained on in full now"
        for day in training
        if plan.base_missed(day.date)
    ]
    return [*missing, *late, *held_notes, *passed_over, *notes]


def _looked_back_on(plan: RunPlan, days: Mapping[datetime.date, StoredDay]) -> list[str]:
    count = plan.spec.history_days
    first = plan.window[0]
    found = [date for date, day in days.items() if date < first and day.manifest.events]
    if len(found) == count:
        return []
    return [
        f"{len(found)} of the {count} days that history looks back on before {first} hold events"
    ]


def _passed_over(
    dates: Sequence[datetime.date], days: Mapping[datetime.date, StoredDay], logs_root: str
) -> list[str]:
    """What lies in the directories of days without log files: no manifest holds these notes."""
    missing = [date for date in dates if date not in days]
    return [note for date in missing for note in list_logs(logs_root, date).notes]


def _quoted(notes: Sequence[str]) -> str:
    more = f"\n  and {len(notes) - _QUOTED_NOTES} more" if len(notes) > _QUOTED_NOTES else ""
    return "".join(f"\n  {note}" for note in notes[:_QUOTED_NOTES]) + more


def put(source: str, target: str) -> None:
    """Puts a stored file into an artifact: by hard link where that is possible."""
    if storage.is_local(source) and storage.is_local(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise
        except OSError:
            FileSystems.copy([source], [target])
        return
    FileSystems.copy([source], [target])


def put_first(source: str, target: str, events: int) -> None:
    """Writes the first events of a stored shard into an artifact; memory is that of the shard."""
    with create(target) as file:
        file.write(compressed(first_tf_records(read_framed(source), events)))


def _lines(day: StoredDay) -> int:
    manifest = day.manifest
    return manifest.events + manifest.duplicates + manifest.quarantined


def _notes(day: StoredDay) -> list[str]:
    repeated = [f"{day.manifest.date}: {_repetition(day)}"] if day.manifest.duplicates else []
    return [*day.manifest.notes, *repeated]


def _too_malformed(day: StoredDay, limit: float) -> str:
    quarantined, lines = day.manifest.quarantined, _lines(day)
    if quarantined <= limit * lines:
        return ""
    found = f"{_number(quarantined)} of {_number(lines)} lines are malformed"
    reasons = "".join(f"\n  {reason}" for reason in day.manifest.reasons)
    return (
        f"{day.manifest.date}: {found} ({100 * quarantined / lines:.3g} %, limit "
        f"{100 * limit:.3g} %):{reasons}\n  all of them: {day.quarantine}\n"
        "Mend the logs and run again, or raise events.max_quarantined"
    )


def _too_repetitive(day: StoredDay, limit: float) -> str:
    duplicates = day.manifest.duplicates
    if duplicates <= limit * (day.manifest.events + duplicates):
        return ""
    examples = "".join(f"\n  {repeated}" for repeated in day.manifest.repeated)
    return (
        f"{day.manifest.date}: {_repetition(day)}, limit {100 * limit:.3g} %:{examples}\n"
        "An id must be unique to the impression: files that each number their own events need "
        "the file's name in it. Mend the logs and run again, or raise events.max_duplicates "
        "where logs repeat events to correct them"
    )


def _repetition(day: StoredDay) -> str:
    duplicates = day.manifest.duplicates
    events = day.manifest.events + duplicates
    return (
        f"{_number(duplicates)} of {_number(events)} events were left out, since a later one has "
        f"their id ({100 * duplicates / events:.3g} %)"
    )


def _number(value: int) -> str:
    return f"{value:,}".replace(",", " ")
