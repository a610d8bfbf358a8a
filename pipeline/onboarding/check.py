"""A spec held against its logs: what would fail, or do no good, found by reading a part of them."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import difflib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from tensorflow_metadata.proto.v0 import anomalies_pb2

from components.daily_example_gen.day_store import DayLogs, list_logs
from components.daily_example_gen.fields import ID, Field, event_fields
from components.daily_example_gen.sampling import Sample, list_days, read_raw_sample, read_sample
from pipeline.onboarding import columns, newest_day, reading, sizes
from pipeline.onboarding.columns import Column
from pipeline.onboarding.findings import Finding, place_of
from schemas.features import CategoricalFeature, DenseFeature
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask, Task

DAY_BYTES = 32 << 20
"""What is read of a day: a few seconds' worth."""

_DAYS_READ = 3
_RAW_EVENTS = 2000
_MOSTLY = 0.2


@dataclasses.dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes:
        findings: what is wrong, what stops a run first.
        samples: what was read, newest day first.
    """

    findings: tuple[Finding, ...]
    samples: tuple[Sample, ...]

    @property
    def stops(self) -> bool:
        """Whether a run would not push."""
        return any(finding.stops for finding in self.findings)


def check_logs(spec: RankingSpec, logs_root: str, run_date: datetime.date | None = None) -> Result:
    """Holds a spec against a bounded part of its newest days.

    Args:
        spec: the ranking spec.
        logs_root: folder with a folder of logs a day; may be remote.
        run_date: the day that would be run; the newest one if None.

    Raises:
        BadDataError: the folder cannot be listed, or has no day.
    """
    every = list_days(logs_root)
    run_date = run_date or every[-1]
    window = [
        run_date - datetime.timedelta(days=back) for back in range(1, spec.training.window_days + 1)
    ]
    listed = {date: list_logs(logs_root, date) for date in [run_date, *window]}
    found = list(_days(spec, run_date, window, listed, every[0]))
    days = [logs for logs in listed.values() if logs.files][:_DAYS_READ]
    if not days:
        return Result(tuple(found), ())
    fields, faults = _fields_that_parse(spec, days)
    found += faults
    samples = [read_sample(logs, fields, DAY_BYTES) for logs in days]
    found += _lines(spec, samples)
    known = {field.name for field in fields}
    table = pa.concat_tables([sample.events for sample in samples])
    described = {name: columns.describe(table[name]) for name in known}
    found += _ids(spec, samples)
    if not faults:
        found += newest_day.repeated_events(samples)
    found += newest_day.differences(spec, samples, fields)
    found += _volume(spec, samples[0], described)
    found += _features(spec, described)
    found += _labels(spec, table, described)
    found += _slices(spec, samples[0], known)
    found += _too_good(spec, table, known)
    found += _severities(spec)
    return Result(tuple(sorted(found, key=lambda finding: not finding.stops)), tuple(samples))


def _days(
    spec: RankingSpec,
    run_date: datetime.date,
    window: Sequence[datetime.date],
    listed: dict[datetime.date, DayLogs],
    begin: datetime.date,
) -> Iterator[Finding]:
    if not listed[run_date].files:
        passed_over = "; ".join(listed[run_date].notes)
        what = "no log files there" + (f" ({passed_over})" if passed_over else "")
        yield Finding(listed[run_date].directory, what, stops=True)
    for logs in listed.values():
        if logs.files and logs.notes:
            yield Finding(logs.directory, "; ".join(logs.notes))
    gone = [date for date in window if not listed[date].files]
    there = len(window) - len(gone)
    wanted = spec.training.min_window_days
    if there < wanted:
        yield Finding(
            "training.min_window_days",
            f"{wanted} days before {run_date} must hold events, {there} do; run a later day, or "
            "take fewer",
            stops=True,
        )
        return
    if window[-1] < begin:
        what = f"the logs begin on {begin}, within the {len(window)} days before {run_date}; "
        yield Finding("training.window_days", f"{what}{there} of them have logs")
    if gaps := [str(date) for date in sorted(gone) if date >= begin]:
        what = f"{len(gaps)} of the {len(window)} days before {run_date} have no logs: "
        yield Finding("training.window_days", what + _listed(gaps))


def _fields_that_parse(
    spec: RankingSpec, days: Sequence[DayLogs]
) -> tuple[tuple[Field, ...], list[Finding]]:
    """The fields that most events have in the right type; the others hide what is wrong besides."""
    names: set[str] = set()
    for logs in days:
        for event in read_raw_sample(logs, _RAW_EVENTS):
            names |= event.keys()
    found, fields = [], []
    sources = {field.source for field in event_fields(spec)}
    for field in event_fields(spec):
        inside = any(name.startswith(field.source + ".") for name in names)
        if not names or field.source in names or inside:
            fields.append(field)
        else:
            found.append(_absent(spec, field, names - sources))
    read = reading.readable(days[0], fields, _MOSTLY)
    for field, what in read.refused.items():
        found.append(Finding(place_of(spec, field), what, stops=True))
    return read.fields, found


def _absent(spec: RankingSpec, field: Field, names: set[str]) -> Finding:
    near = difflib.get_close_matches(field.source, names, n=1, cutoff=0.5)
    others = f"; not in the spec are {_listed(sorted(names))}" if names else ""
    hint = f"; is it {near[0]!r}?" if near else others
    return Finding(
        place_of(spec, field), f"no event has a field {field.source!r}{hint}", stops=True
    )


def _lines(spec: RankingSpec, samples: Sequence[Sample]) -> Iterator[Finding]:
    for sample in samples:
        for path, reason in sample.unreadable:
            yield Finding(path, reason, stops=True)
        lines = sample.events.num_rows + len(sample.malformed)
        if not sample.malformed:
            continue
        share, limit = len(sample.malformed) / lines, spec.events.max_quarantined
        yield Finding(
            f"logs of {sample.date}",
            f"{reading.share(len(sample.malformed), lines)} of the lines are malformed, at most "
            f"{limit:.2%} may be: {reading.told([bad for _, bad in sample.malformed])}; "
            f"in {sample.malformed[0][0]}, for one",
            stops=share > limit,
        )


def _ids(spec: RankingSpec, samples: Sequence[Sample]) -> Iterator[Finding]:
    for sample in samples:
        if ID not in sample.events.column_names or not sample.events.num_rows:
            continue
        ids = columns.describe(sample.events[ID])
        repeated = ids.rows - ids.distinct
        if repeated > spec.events.max_duplicates * ids.rows:
            yield Finding(
                "events.id",
                f"{reading.share(repeated, ids.rows)} of {sample.date}'s events have the id of "
                f"another one, {ids.top!r} for one; the field must be unique to the impression",
                stops=True,
            )


def _volume(spec: RankingSpec, newest: Sample, described: dict[str, Column]) -> Iterator[Finding]:
    if not newest.events.num_rows:
        return  # What keeps them all from being read is told already.
    if newest.day_events < spec.validation.min_events:
        yield Finding(
            "validation.min_events",
            f"{spec.validation.min_events} events are asked for, {newest.date} has about "
            f"{newest.day_events}",
            stops=True,
        )
    if newest.day_events < sizes.FEW_EVENTS:
        yield Finding(
            f"logs of {newest.date}",
            f"about {newest.day_events} events: too few to learn much from, and to judge a model "
            "by; a few thousand a day are enough to start with",
        )
    least = spec.min_class_events
    few = {}
    for name, task in spec.tasks.items():
        column = described.get(task.label)
        if column is not None and column.distinct > 1:
            is_binary = isinstance(task, BinaryTask)
            share = column.rarer if is_binary else column.present / column.rows
            if (labels := round(share * newest.day_events)) < least:
                kind = "labels of the rarer kind" if is_binary else "labels"
                few[name] = f"about {labels} {kind} on {newest.date}"
    for name, what in few.items():
        what += f", of the {least} of min_class_events: hardly learnt, and not gated"
        yield Finding(f"tasks.{name}.label", what)
    if len(few) == len(spec.tasks):
        what = f"no task has {least} labels of each kind a day: no model would be pushed. Log more"
        yield Finding("min_class_events", what, stops=True)


def _features(spec: RankingSpec, described: dict[str, Column]) -> Iterator[Finding]:
    tables: dict[str, int] = collections.defaultdict(int)
    for name, feature in spec.features.items():
        column, where = described.get(name), f"features.{name}"
        if column is None or not column.rows:
            continue
        if not column.present:
            yield Finding(where, "empty in every event; drop it")
            continue
        if column.constant and column.present == column.rows:
            yield Finding(where, f"{column.top!r} in every event: it says nothing; drop it")
        if isinstance(feature, CategoricalFeature):
            owner = spec.table_of(name)
            tables[owner] = max(tables[owner], column.all_distinct)
        elif isinstance(feature, DenseFeature):
            yield from _numbers(where, feature, column)
    for owner, values in tables.items():
        buckets = spec.categorical[owner].buckets or 0
        if values > buckets and sizes.buckets(values) > buckets:
            yield Finding(
                f"features.{owner}.buckets",
                f"about {values:,} values share {buckets:,} rows; take {sizes.buckets(values)}",
            )
    width = {name: f.embedding or 0 for name, f in spec.categorical.items() if f.table is None}
    bytes_of = {name: 8 * (spec.categorical[name].buckets or 0) * w for name, w in width.items()}
    total = sum(bytes_of.values())
    if total > 4 << 30:
        largest = max(bytes_of, key=lambda name: bytes_of[name])
        yield Finding(
            f"features.{largest}.buckets",
            f"embedding tables and their accumulators take {total / 2**30:.0f} GiB of memory in "
            f"training, {bytes_of[largest] / 2**30:.0f} GiB of it this one's",
        )


def _numbers(where: str, feature: DenseFeature, column: Column) -> Iterator[Finding]:
    low, high = feature.minimum, feature.maximum
    if low is not None and (column.numbers < low).any():
        below = reading.share(int((column.numbers < low).sum()), column.values)
        yield Finding(
            f"{where}.minimum",
            f"{below} of the values lie below {low:g}, the smallest is {column.numbers.min():g}: "
            "an anomaly of the day",
            stops=True,
        )
    if high is not None and (column.numbers > high).any():
        above = reading.share(int((column.numbers > high).sum()), column.values)
        yield Finding(
            f"{where}.maximum",
            f"{above} of the values lie above {high:g}, the largest is {column.numbers.max():g}: "
            "an anomaly of the day",
            stops=True,
        )
    if feature.scale == "log1p" and (column.numbers < 0).any():
        negative = reading.share(int((column.numbers < 0).sum()), column.values)
        yield Finding(f"{where}.scale", f"log1p treats values below 0 as 0: {negative} of them")


def _labels(spec: RankingSpec, table: pa.Table, described: dict[str, Column]) -> Iterator[Finding]:
    for name, task in spec.tasks.items():
        column, where = described.get(task.label), f"tasks.{name}.label"
        if column is None or not column.rows:
            continue
        if not column.present:
            yield Finding(where, f"no event has a value of {task.field or task.label}", stops=True)
        elif column.constant:
            what = f"{column.top:g} in each of {column.present:,} events: there is nothing to learn"
            yield Finding(where, what, stops=True)
        else:
            yield from _gate(name, task, column)


def _gate(name: str, task: Task, column: Column) -> Iterator[Finding]:
    if isinstance(task, BinaryTask):
        if task.gate.min_auc is not None and task.gate.min_auc > 0.98:
            what = f"hardly any model reaches {task.gate.min_auc:g}"
            yield Finding(f"tasks.{name}.gate.min_auc", what)
        return
    if task.transform == "log1p" and (column.numbers < 0).any():
        negative = reading.share(int((column.numbers < 0).sum()), column.values)
        yield Finding(f"tasks.{name}.transform", f"log1p treats labels below 0 as 0: {negative}")
    labels = column.numbers
    labels = np.log1p(np.maximum(labels, 0)) if task.transform == "log1p" else labels
    spread = float(labels.std())
    bound = task.gate.max_rmse
    if bound is None:
        return
    if bound > spread:
        what = f"{bound:g} is met by a constant: the labels' standard deviation is {spread:.3g}"
        yield Finding(f"tasks.{name}.gate.max_rmse", what)
    elif bound < spread / 10:
        what = f"{bound:g} is out of reach: the labels' standard deviation is {spread:.3g}"
        yield Finding(f"tasks.{name}.gate.max_rmse", what)


def _slices(spec: RankingSpec, newest: Sample, known: set[str]) -> Iterator[Finding]:
    for name in (name for name in spec.sliced_features if name in known):
        column = columns.describe(newest.events[name])
        if newest.share and column.top_count / newest.share < spec.min_slice_events:
            what = (
                f"no value of {name} has min_slice_events, {spec.min_slice_events}, on "
                f"{newest.date}: none is gated"
            )
            yield Finding("slices" if name in spec.slices else f"gate.slices.{name}", what)


def _too_good(spec: RankingSpec, table: pa.Table, known: set[str]) -> Iterator[Finding]:
    """What tells a label all alone is most often known only after the impression."""
    single = {
        name
        for name, feature in spec.logged.items()
        if not (isinstance(feature, CategoricalFeature) and feature.multivalued)
    }
    for task_name, task in spec.tasks.items():
        if task.label not in known:
            continue
        labels, where = table[task.label], f"{task_name} is 1"
        if not isinstance(task, BinaryTask):
            labels, where = columns.above_median(labels), f"{task_name} is above its median"
        for name in sorted(single & known):
            if columns.comes_with(table[name], labels):
                what = f"has a value of its own only where {where}"
            elif (area := columns.tells(table[name], labels, name in spec.dense)) > sizes.TOO_GOOD:
                what = f"tells {task_name} on its own (AUC {area:.3f})"
            else:
                continue
            yield Finding(
                f"features.{name}", f"{what}: is it known before the impression is shown?"
            )


def _severities(spec: RankingSpec) -> Iterator[Finding]:
    known = anomalies_pb2.AnomalyInfo.Type.keys()
    for kind in spec.validation.severity:
        if kind not in known:
            what = "TFDV knows no such anomaly type"
            yield Finding(f"validation.severity.{kind}", what, stops=True)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown
