"""A bounded part of a day's logs, read as ingestion reads them: to look before a run."""

from __future__ import annotations

import dataclasses
import datetime
import gzip
import itertools
import os
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from components import storage
from components.daily_example_gen.day_store import DayLogs, LogFile
from components.daily_example_gen.fields import Field, arrow_schema
from components.daily_example_gen.formats import text
from components.daily_example_gen.formats.checked import Malformed
from components.daily_example_gen.formats.parquet_columns import open_columns
from components.daily_example_gen.formats.text import UnreadableError
from components.daily_example_gen.parts import printable
from components.daily_example_gen.readers import read_events, read_raw
from schemas.errors import BadDataError

_WORDS = {"": None, "true": True, "false": False}
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)?\.[0-9]*([eE][+-]?[0-9]+)?")
_MAX_FILES = 16
_MAX_PIECES = 32
_MIN_PIECE_BYTES = 1 << 18
_PLAIN = (".jsonl", ".csv")
_UNPACKED_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Sample:
    """What was read of a day.

    Attributes:
        date: the day.
        events: the well-formed events, a column a field, by the spec's names.
        malformed: the malformed lines, each with its file before it.
        unreadable: files that cannot be read, each with the reason.
        share: share of the day's bytes that was read, 1 for the whole day.
    """

    date: datetime.date
    events: pa.Table
    malformed: tuple[tuple[str, Malformed], ...]
    unreadable: tuple[tuple[str, str], ...]
    share: float

    @property
    def day_events(self) -> int:
        """About how many events the whole day has."""
        return round(self.events.num_rows / self.share) if self.share else 0


def list_days(logs_root: str) -> list[datetime.date]:
    """The days that have a folder of logs, oldest first.

    Raises:
        BadDataError: there is no such folder, or it holds no day.
    """
    try:
        if not storage.is_local(logs_root):
            found = FileSystems.match([FileSystems.join(logs_root, "*/*")])[0].metadata_list
            names = {os.path.basename(os.path.dirname(metadata.path)) for metadata in found}
        else:
            names = set(os.listdir(logs_root))
    except OSError as error:
        raise BadDataError(f"{logs_root}: cannot be listed ({error.strerror or error})") from error
    days = []
    for name in names:
        try:
            day = datetime.date.fromisoformat(name)
        except ValueError:
            continue
        if day.isoformat() == name:
            days.append(day)
    if not days:
        there = f" but {', '.join(map(repr, sorted(names)[:3]))}" if names else ""
        raise BadDataError(
            f"{logs_root}: holds no day{there}; logs lie in a folder a day, named by its date, "
            f"such as {os.path.join(logs_root, '2026-01-31')}/part-0.jsonl; docs/event-logs.md "
            "shows how to bring others into this shape"
        )
    return sorted(days)


def read_sample(logs: DayLogs, fields: tuple[Field, ...], max_bytes: int) -> Sample:
    """Reads about `max_bytes` of a day, from all over it."""
    batches: list[pa.RecordBatch] = []
    malformed: list[tuple[str, Malformed]] = []
    unreadable: list[tuple[str, str]] = []
    total = sum(file.size for file in logs.files)
    read = 0
    for file, budget in _chosen(logs, max_bytes):
        try:
            for start, end in _ranges(file, budget):
                taken = lines = 0
                for part in read_events(file.path, fields, start, end):
                    batches.append(part.batch)
                    malformed += [(printable(file.path), bad) for bad in part.malformed]
                    taken += part.batch.nbytes
                    lines += part.lines
                    if taken > budget and not file.name.endswith(_PLAIN):
                        read += _bytes_of(file, lines)
                        break
                else:
                    read += (file.size if end is None else end) - start
        except UnreadableError as error:
            unreadable.append((printable(file.path), str(error)))
    events = pa.Table.from_batches(batches, schema=arrow_schema(fields))
    share = min(1.0, read / total) if total else 1.0
    return Sample(logs.date, events, tuple(malformed), tuple(unreadable), share)


def read_raw_sample(logs: DayLogs, max_events: int) -> Iterator[dict[str, Any]]:
    """Reads about `max_events` of a day as they are, from all over it.

    Yields:
        As `read_raw`, but the text of a CSV cell as the number, truth value or list that it
        says, and None where it is empty.
    """
    chosen = _chosen(logs, _MAX_PIECES * _MIN_PIECE_BYTES)
    ranges = [(file, *piece) for file, budget in chosen for piece in _ranges(file, budget)]
    for file, start, end in ranges:
        try:
            events = read_raw(file.path, start, end)
            for event in itertools.islice(events, max(1, max_events // len(ranges))):
                if ".csv" in file.name:
                    yield {name: _said(cell) for name, cell in event.items()}
                else:
                    yield event
        except UnreadableError:
            continue


def _chosen(logs: DayLogs, max_bytes: int) -> list[tuple[LogFile, int]]:
    """The files to read, and how much of each: all over the day, by size."""
    files = [file for file in logs.files if file.size]
    step = max(1, -(-len(files) // _MAX_FILES))
    files = files[::step]
    total = sum(file.size for file in files)
    return [(file, max(_MIN_PIECE_BYTES, max_bytes * file.size // total)) for file in files]


def _ranges(file: LogFile, budget: int) -> list[tuple[int, int | None]]:
    """Byte ranges of about `budget` in all; a file that has none is read from its start."""
    if file.size <= budget or not file.name.endswith(_PLAIN):
        return [(0, None)]
    pieces = min(_MAX_PIECES, max(1, budget // _MIN_PIECE_BYTES))
    size = budget // pieces
    starts = [file.size * piece // pieces for piece in range(pieces)]
    return [(start, min(start + size, file.size)) for start in starts]


def _bytes_of(file: LogFile, lines: int) -> int:
    """About how many bytes of a packed file hold its first lines."""
    with text.open_raw(file.path) as packed:
        if file.name.endswith(".parquet"):
            return file.size * lines // open_columns(packed, ()).metadata.num_rows
        found = 0
        with gzip.GzipFile(fileobj=packed) as unpacked:
            while found < lines and (data := unpacked.read(_UNPACKED_BYTES)):
                found += data.count(b"\n")
        return packed.tell()


def _said(cell: str) -> Any:
    if cell.lower() in _WORDS:
        return _WORDS[cell.lower()]
    if _INTEGER.fullmatch(cell):
        return int(cell)
    # A code such as 007 is not a number.
    if _NUMBER.fullmatch(cell):
        return float(cell)
    return [_said(element) for element in cell.split("|")] if "|" in cell else cell
