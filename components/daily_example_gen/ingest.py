"""Days' logs parsed, encoded and stored by Beam, one element a file or byte range."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
from collections.abc import Callable, Sequence

import apache_beam as beam
from absl import logging

from components.counters import RECORDS
from components.daily_example_gen.day_store import DayLogs, DayStore, StoredDay, list_logs
from components.daily_example_gen.fields import Field
from components.daily_example_gen.parts import (
    Part,
    Piece,
    create,
    open_stored,
    parse_piece,
    printable,
)
from components.daily_example_gen.shards import Shard, write_shard
from schemas.errors import BadDataError

MIN_SHARDS = 16
_MAX_SHARDS = 4096
_SHARD_BYTES = 64 << 20
_PIECE_BYTES = 32 << 20
# Bytes of text that a byte of a file stands for, by suffix; plain text counts as itself.
_EXPANSION = {".gz": 6, ".parquet": 4}


def ingest_days(
    logs_root: str,
    dates: Sequence[datetime.date],
    fields: tuple[Field, ...],
    store: DayStore,
    make_pipeline: Callable[[], beam.Pipeline],
    columns: Sequence[str] = (),
) -> dict[datetime.date, StoredDay]:
    """Brings days into the store; those it has already are not parsed again.

    Args:
        logs_root: directory with a directory of logs a day.
        dates: the days.
        fields: the fields of an event.
        store: where encoded days are kept.
        make_pipeline: makes a Beam pipeline; called only if there is something to parse.
        columns: fields of an event that are stored beside the shards, as `shards.columns_path`
            says.

    Returns:
        The stored days by date; days without log files are left out.

    Raises:
        BadDataError: a log file cannot be read, or changed while it was.
    """
    listed = [logs for date in dates if (logs := list_logs(logs_root, date)).files]
    stored = {logs.date: store.find(logs) for logs in listed}
    new = [logs for logs in listed if stored[logs.date] is None]
    logging.info("%d days stored already, %d to be parsed", len(listed) - len(new), len(new))
    if new:
        with store.work_dir() as work_dir:
            parts, shards = _run(new, fields, work_dir, make_pipeline, columns)
            unreadable: list[Part] = []
            for logs in new:
                # The day changed, be its files readable or not: that is said below.
                if list_logs(logs_root, logs.date) != logs:
                    continue
                day = logs.date.isoformat()
                own = [part for part in parts if part.piece.day == day]
                if errors := [part for part in own if part.error]:
                    unreadable += errors
                    continue
                of_day = [shard for shard in shards if shard.day == day]
                notes = _notes(logs, fields, own)
                stored[logs.date] = store.commit(logs, own, of_day, notes, work_dir)
        _raise_unreadable(unreadable)
    for logs in listed:
        if stored[logs.date] is None:
            raise BadDataError(
                f"{logs.directory}: the log files changed while they were read. Run again once "
                "the day's logs are complete"
            )
    return {date: day for date, day in stored.items() if day is not None}


def _notes(logs: DayLogs, fields: tuple[Field, ...], parts: Sequence[Part]) -> list[str]:
    """What people should know of a day's content, though nothing in it is malformed."""
    notes = []
    for file in logs.files:
        own = [part for part in parts if part.piece.path == file.path]
        if own and not any(part.events for part in own):
            lines = sum(part.lines for part in own)
            notes.append(f"{printable(file.path)}: no events in its {lines} lines")
    seen = {name for part in parts for name in part.seen}
    for field in fields:
        if seen and field.name not in seen:
            notes.append(f"{logs.date}: no event has a value of '{field.source}'")
        if cut := sum(part.cut.get(field.name, 0) for part in parts):
            notes.append(
                f"{logs.date}: {cut} lists of '{field.source}' were cut to the {field.max_length} "
                "elements of its max_length"
            )
    return notes


def _raise_unreadable(parts: Sequence[Part]) -> None:
    errors = [
        f"{printable(part.piece.path)}: {part.error}"
        + (f", after line {part.lines}" if part.lines else "")
        for part in parts
    ]
    if errors:
        raise BadDataError(
            "\n".join(errors) + "\nReplace the file, or remove it to go on without its events"
        )


def pieces_of(logs: DayLogs) -> list[Piece]:
    """Cuts a day's logs into what workers parse; plain text files into byte ranges."""
    ranges: list[tuple[str, int, int | None]] = []
    for file in logs.files:
        if not file.size:
            continue
        if file.name.endswith(tuple(_EXPANSION)) or file.size <= _PIECE_BYTES:
            ranges.append((file.path, 0, None))
            continue
        for start in range(0, file.size, _PIECE_BYTES):
            ranges.append((file.path, start, min(start + _PIECE_BYTES, file.size)))
    day, shards = logs.date.isoformat(), shard_count(logs)
    return [
        Piece(day, path, order, start, end, shards)
        for order, (path, start, end) in enumerate(ranges)
    ]


def shard_count(logs: DayLogs) -> int:
    """Number of a day's shards, such that one fits into a worker's memory."""
    size = sum(file.size * _EXPANSION.get(os.path.splitext(file.name)[1], 1) for file in logs.files)
    return min(max(math.ceil(size / _SHARD_BYTES), MIN_SHARDS), _MAX_SHARDS)


def _run(
    days: Sequence[DayLogs],
    fields: tuple[Field, ...],
    work_dir: str,
    make_pipeline: Callable[[], beam.Pipeline],
    columns: Sequence[str],
) -> tuple[list[Part], list[Shard]]:
    pieces = [piece for logs in days for piece in pieces_of(logs)]
    buckets = [
        (logs.date.isoformat(), bucket) for logs in days for bucket in range(shard_count(logs))
    ]
    summary = os.path.join(work_dir, "summary.json")
    with make_pipeline() as pipeline:
        parts = (
            pipeline
            | "Pieces" >> beam.Create(pieces)
            | "SpreadPieces" >> beam.Reshuffle()
            | "Parse" >> beam.Map(_parse, fields, work_dir)
        )
        shards = (
            pipeline
            | "Buckets" >> beam.Create(buckets)
            | "SpreadBuckets" >> beam.Reshuffle()
            | "Encode"
            >> beam.FlatMap(_shards, beam.pvalue.AsList(parts), fields, work_dir, columns)
        )
        _ = (
            pipeline
            | "Summary" >> beam.Create([summary])
            | "Summarise"
            >> beam.Map(_summarise, beam.pvalue.AsList(parts), beam.pvalue.AsList(shards))
        )
    with open_stored(summary) as file:
        content = json.loads(file.read())
    return (
        [
            Part(**{**part, "piece": Piece(**part["piece"]), "seen": tuple(part["seen"])})
            for part in content["parts"]
        ],
        [Shard(**shard) for shard in content["shards"]],
    )


def _parse(piece: Piece, fields: tuple[Field, ...], work_dir: str) -> Part:
    part = parse_piece(piece, fields, work_dir)
    RECORDS.inc(part.lines)
    return part


def _shards(
    bucket: tuple[str, int],
    parts: list[Part],
    fields: tuple[Field, ...],
    work_dir: str,
    columns: Sequence[str],
) -> list[Shard]:
    day, number = bucket
    own = [part for part in parts if part.piece.day == day]
    if any(part.error for part in own):
        return []
    return [write_shard(day, number, own, fields, work_dir, columns)]


def _summarise(path: str, parts: list[Part], shards: list[Shard]) -> None:
    content = {
        "parts": [dataclasses.asdict(part) for part in parts],
        "shards": [dataclasses.asdict(shard) for shard in shards],
    }
    with create(path) as file:
        file.write(json.dumps(content).encode())
