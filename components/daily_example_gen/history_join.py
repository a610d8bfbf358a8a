"""History features in encoded days: each event joined with the days before its own.

A day's totals by id lie beside its shards, made once. A day with history is a stored day
again, in a store of its own: made of the encoded day and of the totals of the days before
it, and made anew once one of these changes.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components import history
from components.daily_example_gen.day_store import QUARANTINE, DayStore, StoredDay, shard_name
from components.daily_example_gen.fields import event_fields
from components.daily_example_gen.ingest import ingest_days
from components.daily_example_gen.shards import (
    chunks_of,
    columns_path,
    encode_examples,
    read_records,
    read_table,
    write_records,
    write_table,
)
from components.daily_example_gen.splits import put
from components.run_plan import RunPlan
from schemas.errors import BadDataError
from schemas.features import HistoryFeature
from schemas.spec import RankingSpec
from schemas.tfdv_schema import tfdv_schema
from trainer_module.signatures import ABSENT_ID

_FORMAT = 2  # Raise it when the same days are to be joined differently.
_BEFORE = b"before"
_FILES_AT_ONCE = 8
"""Totals that are added up at once: each time, all ids so far are gone through again."""

Days = Mapping[datetime.date, StoredDay]


def days_of_run(
    plan: RunPlan,
    logs_root: str,
    day_store: str,
    make_pipeline: Callable[[], beam.Pipeline],
    tables_dir: str | None = None,
) -> dict[datetime.date, StoredDay]:
    """Brings a run's days, and those that its history features look back on, into the store.

    Args:
        plan: the run's plan.
        logs_root: directory with a directory of logs a day; may be remote.
        day_store: directory of encoded days; made if absent.
        make_pipeline: makes a Beam pipeline.
        tables_dir: where the history tables for events after the run date are put, a Parquet
            file a history feature that the model looks up; none if not given.

    Returns:
        The stored days by date, with history where the run trains or evaluates on them; days
        without log files are left out.

    Raises:
        BadDataError: a log file cannot be read, or changed while it was.
    """
    spec = plan.spec
    dates = [*plan.window, plan.run_date]
    days = ingest_days(
        logs_root,
        sorted({*_days_before(dates[0], spec.history_days), *dates}),
        event_fields(spec),
        DayStore(day_store, spec.events_fingerprint()),
        make_pipeline,
        _names(spec),
    )
    if not spec.history:
        return days
    try:
        _count_days(spec, days, day_store, make_pipeline)
        return {**days, **_join_days(spec, dates, days, day_store, make_pipeline, tables_dir)}
    except FileNotFoundError as error:
        raise BadDataError(
            f"{error.filename or error}: gone from the day store while it was in use, since the "
            "day's logs changed and another run ingested them. Run again"
        ) from error


def _days_before(date: datetime.date, count: int) -> list[datetime.date]:
    """The days that an event's history looks back on, oldest first."""
    return [date - datetime.timedelta(days=day) for day in range(count, 0, -1)]


def _totals_path(spec: RankingSpec, name: str, day: StoredDay) -> str:
    """Where a day's totals for a history feature lie; features that count alike share them."""
    key = f"{spec.totals_fingerprint(name)}-{_FORMAT}"
    return os.path.join(day.directory, f"totals-{key}.parquet")


def _count_days(
    spec: RankingSpec, days: Days, day_store: str, make_pipeline: Callable[[], beam.Pipeline]
) -> None:
    """Makes the totals that the days lack."""
    shards = []
    for day in days.values():
        paths = {name: _totals_path(spec, name, day) for name in spec.history}
        new = {name: path for name, path in paths.items() if not FileSystems.exists(path)}
        shards += [
            (day.shard(number), new)
            for number, events in enumerate(day.manifest.shards)
            if events and new
        ]
    if not shards:
        return
    with (
        DayStore(day_store, spec.events_fingerprint()).work_dir() as work_dir,
        make_pipeline() as pipeline,
    ):
        _ = (
            pipeline
            | "Shards" >> beam.Create(shards)
            | "Spread" >> beam.Reshuffle()
            | "Count" >> beam.FlatMap(_count_shard, spec, work_dir)
            | "ByDay" >> beam.GroupByKey()
            | "Store" >> beam.Map(_store_totals, spec)
        )


def _count_shard(
    shard: tuple[str, dict[str, str]], spec: RankingSpec, work_dir: str
) -> Iterator[tuple[tuple[str, str], str]]:
    path, targets = shard
    events = _ids_and_labels(path, spec)
    for name, target in sorted(targets.items()):
        totals = history.count_events(events, spec.history[name], spec.history_tasks(name))
        # In files: those of many days together are more than a worker's memory holds.
        counted = os.path.join(work_dir, f"counted-{uuid.uuid4().hex}.parquet")
        write_table(counted, totals)
        yield (name, target), counted


def _store_totals(of_day: tuple[tuple[str, str], Iterable[str]], spec: RankingSpec) -> None:
    (name, path), counted = of_day
    write_table(path, _added_up([], list(counted), spec.history[name]))


def _added_up(
    tables: Sequence[pa.Table], paths: Sequence[str], feature: HistoryFeature
) -> pa.Table:
    """Adds up totals, those in files a few at a time: memory is that of the ids."""
    for start in range(0, len(paths), _FILES_AT_ONCE):
        some = [read_table(path) for path in paths[start : start + _FILES_AT_ONCE]]
        tables = [history.merge([*tables, *some], feature)]
    (table,) = tables
    return table


def _ids_and_labels(shard: str, spec: RankingSpec) -> pa.Table:
    """What history needs of a shard's events, null where missing.

    Ingestion has left it beside the shard. Where history came into the spec, or changed, after
    the day was ingested, the shard is decoded once, which is dear.
    """
    names = _names(spec)
    path = columns_path(shard, names)
    if not FileSystems.exists(path):
        write_table(path, _columns(read_records(shard), spec, names))
    return pa.table(
        {
            name: _present(column)
            for name, column in zip(names, read_table(path).columns, strict=True)
        }
    )


def _present(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with null for the integer that says that there is no id."""
    if not pa.types.is_integer(column.type):
        return column
    return pc.if_else(pc.equal(column, ABSENT_ID), pa.scalar(None, column.type), column)


def _names(spec: RankingSpec) -> list[str]:
    """Fields of an event that its own and later events' history needs."""
    ids = {key for feature in spec.history.values() for key in feature.of}
    labels = {task.label for name in spec.history for task in spec.history_tasks(name).values()}
    return sorted(ids | labels)


def _columns(records: Sequence[bytes], spec: RankingSpec, names: Sequence[str]) -> pa.Table:
    """Single-valued fields of encoded events as flat columns, null where missing."""
    schema = tfdv_schema(spec)
    chosen = [feature for feature in schema.feature if feature.name in names]
    del schema.feature[:]
    schema.feature.extend(chosen)
    batch = ExamplesToRecordBatchDecoder(schema.SerializeToString()).DecodeBatch(list(records))
    return pa.table(
        {name: _flat(batch.column(batch.schema.get_field_index(name))) for name in names}
    )


def _flat(column: pa.ListArray) -> pa.Array:
    present = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False) > 0
    index = np.cumsum(present) - 1
    values = column.flatten()
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        values = values.cast(pa.string())
    return values.take(pa.array(index, mask=~present))


def _join_days(
    spec: RankingSpec,
    dates: Sequence[datetime.date],
    days: Days,
    day_store: str,
    make_pipeline: Callable[[], beam.Pipeline],
    tables_dir: str | None,
) -> dict[datetime.date, StoredDay]:
    """Stores days with history, and writes the tables for the day after the last."""
    store = DayStore(day_store, f"{spec.events_fingerprint()}-{spec.history_fingerprint()}")
    after = dates[-1] + datetime.timedelta(days=1)
    dates = [date for date in dates if date in days]
    made_of = {date: _fingerprint(spec, date, days) for date in dates}
    joined = {date: store.find_content(date, made_of[date]) for date in dates}
    with store.work_dir() as work_dir:
        tables = {
            (date, name): _stored_table(spec, name, date, days, work_dir)
            for date in [*(date for date in dates if joined[date] is None), after]
            if date != after or tables_dir is not None
            for name in spec.history
        }
        shards, staged = [], {}
        for date in dates:
            if joined[date] is not None:
                continue
            own = {name: tables[date, name] for name in spec.history}
            staged[date] = store.staging(date, made_of[date], work_dir)
            put(days[date].quarantine, os.path.join(staged[date], QUARANTINE))
            count = len(days[date].manifest.shards)
            for number in range(count):
                target = os.path.join(staged[date], shard_name(number, count))
                shards.append((date, days[date].shard(number), target, own))
        _run(spec, tables, shards, days, make_pipeline)
        for date, directory in staged.items():
            manifest = dataclasses.replace(days[date].manifest, fingerprint=made_of[date])
            joined[date] = store.publish(directory, manifest)
        # A day is joined once: only the tables to serve with are read again.
        used = {path for (date, _), path in tables.items() if date in staged}
        FileSystems.delete([path for path in used if FileSystems.exists(path)])
        if tables_dir is not None:
            for name in spec.history:
                put(tables[after, name], table_path(tables_dir, name))
    return {date: day for date, day in joined.items() if day is not None}


def _stored_table(
    spec: RankingSpec, name: str, date: datetime.date, days: Days, work_dir: str
) -> str:
    """Where a history table for events of a date is kept: beside the newest day that it is of.

    A run makes the table for the day after its own, to serve with; the next day's run joins
    that day's events with it.
    """
    past = _past(spec, name, date, days)
    content = [
        *(_FORMAT, spec.history_fingerprint(), name, str(date)),
        *((str(day), days[day].manifest.fingerprint) for day in past),
    ]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    directory = days[past[-1]].directory if past else work_dir
    return os.path.join(directory, f"history-{name}-{key}.parquet")


def _past(spec: RankingSpec, name: str, date: datetime.date, days: Days) -> list[datetime.date]:
    """The days with events that a history feature of events of a date is of, oldest first."""
    return [
        day
        for day in _days_before(date, spec.history[name].days)
        if day in days and days[day].manifest.events
    ]


def table_path(directory: str, name: str) -> str:
    """Where in a directory a history feature's table lies."""
    return os.path.join(directory, f"{name}.parquet")


def _fingerprint(spec: RankingSpec, date: datetime.date, days: Days) -> str:
    """Identifies what a day with history is made of."""
    past = _days_before(date, spec.history_days)
    content = [
        _FORMAT,
        *((str(d), days[d].manifest.fingerprint) for d in [*past, date] if d in days),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _run(
    spec: RankingSpec,
    tables: Mapping[tuple[datetime.date, str], str],
    shards: Sequence[tuple[datetime.date, str, str, dict[str, str]]],
    days: Days,
    make_pipeline: Callable[[], beam.Pipeline],
) -> None:
    jobs = [
        (
            *(date, name, path),
            [_totals_path(spec, name, days[day]) for day in _past(spec, name, date, days)],
        )
        for (date, name), path in tables.items()
        if not FileSystems.exists(path)
    ]
    if not (jobs or shards):
        return
    with make_pipeline() as pipeline:
        written = (
            pipeline
            | "Tables" >> beam.Create(jobs)
            | "SpreadTables" >> beam.Reshuffle()
            | "Smooth" >> beam.Map(_make_table, spec)
        )
        _ = (
            pipeline
            | "Shards" >> beam.Create(shards)
            | "SpreadShards" >> beam.Reshuffle()
            # The list is what makes these wait for the tables.
            | "Join" >> beam.Map(_join_shard, beam.pvalue.AsList(written), spec)
        )


def _make_table(job: tuple[datetime.date, str, str, list[str]], spec: RankingSpec) -> str:
    date, name, path, totals = job
    feature, tasks = spec.history[name], spec.history_tasks(name)
    nothing = _columns([], spec, _names(spec))
    merged = _added_up([history.count_events(nothing, feature, tasks)], totals, feature)
    table = history.history_table(merged, name, feature, tasks)
    write_table(path, table.replace_schema_metadata({_BEFORE: str(date)}))
    return path


def _join_shard(
    job: tuple[datetime.date, str, str, dict[str, str]], _written: Sequence[str], spec: RankingSpec
) -> None:
    date, source, target, tables = job
    records = read_records(source)
    found = {name: read_table(path) for name, path in tables.items()}
    for name, table in found.items():
        check_before(table, date, name)
    values = history.look_up(_ids_and_labels(source, spec), found, spec)
    fields = history.as_fields(values, spec)

    def chunks() -> Iterator[list[bytes]]:
        for rows in chunks_of(np.arange(len(records))):
            batch = fields.slice(rows[0], len(rows)).combine_chunks().to_batches()[0]
            # Serialized messages one after the other are one with the fields of both.
            yield [
                records[row] + extra
                for row, extra in zip(rows, encode_examples(batch), strict=True)
            ]

    temporary = f"{target}.{uuid.uuid4().hex}"
    write_records(temporary, chunks())
    FileSystems.rename([temporary], [target])


def check_before(table: pa.Table, date: datetime.date, name: str) -> None:
    """Holds a history table against the day of the events that it is joined with.

    Raises:
        ValueError: it holds events of that day, or is not of the days right before it.
    """
    before = (table.schema.metadata or {}).get(_BEFORE, b"").decode()
    if before != str(date):
        raise ValueError(
            f"history {name!r} for events of {date}: the table is of the days before "
            f"{before or 'an unknown day'}; the labels of the day itself would leak into it"
        )
