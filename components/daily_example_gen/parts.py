"""First stage: a log file, or a byte range of one, parsed and spread over buckets.

A part is one Arrow IPC file. Its record batches come in rounds of one batch a bucket, so
that batch `round * buckets + bucket` is found without reading the others.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import uuid
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from components.daily_example_gen.fields import Field, arrow_schema
from components.daily_example_gen.formats.checked import Checked
from components.daily_example_gen.formats.text import UnreadableError
from components.daily_example_gen.readers import read_events
from components.daily_example_gen.well_formed import cut_lists, fields_with_values

_ROUND_BYTES = 32 << 20
_HASH_KEY = "daily-event-logs"  # 16 characters; another key moves events between shards.


@dataclasses.dataclass(frozen=True)
class Piece:
    """What one worker parses at a time.

    Attributes:
        day: date of the log, ISO format.
        path: the log file.
        order: position among the day's pieces; of events with one id the last one counts.
        start: first byte of the range of the file.
        end: byte after the range; None for the whole file.
        buckets: number of buckets of the day.
    """

    day: str
    path: str
    order: int
    start: int
    end: int | None
    buckets: int


@dataclasses.dataclass(frozen=True)
class Part:
    """What became of a piece.

    Attributes:
        piece: the piece.
        events: number of well-formed events.
        lines: lines of the range, the malformed and the blank ones included.
        data: the IPC file.
        malformed: number of malformed lines.
        quarantine: JSON lines with the malformed ones, numbered from the range's first
            line; empty if there are none.
        error: why the file cannot be read; empty if it can.
        seen: names of the fields that some event has a value of.
        cut: by field how many lists were longer than its `max_length` and cut.
    """

    piece: Piece
    events: int
    lines: int
    data: str
    malformed: int
    quarantine: str
    error: str
    seen: tuple[str, ...]
    cut: dict[str, int]


def parse_piece(piece: Piece, fields: tuple[Field, ...], work_dir: str) -> Part:
    """Parses one piece into `work_dir`, in memory that does not grow with its size."""
    # The same piece may be worked on twice at once; each attempt has files of its own.
    stem = os.path.join(work_dir, f"{piece.day}-{piece.order:05d}-{uuid.uuid4().hex}")
    data, quarantine = stem + ".arrow", stem + ".jsonl"
    events = lines = malformed = 0
    error = ""
    seen: set[str] = set()
    cut: collections.Counter[str] = collections.Counter()
    quarantine_file = None

    def checked() -> Iterator[pa.RecordBatch]:
        nonlocal events, lines, malformed, quarantine_file
        for part in read_events(piece.path, fields, piece.start, piece.end):
            if part.malformed and quarantine_file is None:
                quarantine_file = create(quarantine)
            if quarantine_file is not None:
                quarantine_file.write(_as_json_lines(part))
            events += part.batch.num_rows
            lines += part.lines
            malformed += len(part.malformed)
            batch, cut_here = cut_lists(fields, part.batch)
            cut.update(cut_here)
            seen.update(fields_with_values(fields, batch))
            yield batch

    try:
        _write_part(data, fields, checked(), piece.buckets)
    except UnreadableError as unreadable:
        error = str(unreadable)
    finally:
        if quarantine_file is not None:
            quarantine_file.close()
    return Part(
        piece=piece,
        events=events,
        lines=lines,
        data=data,
        malformed=malformed,
        quarantine=quarantine if malformed else "",
        error=error,
        seen=tuple(sorted(seen)),
        cut=dict(cut),
    )


def read_bucket(data: str, bucket: int, buckets: int) -> list[pa.RecordBatch]:
    """The events of one bucket of a part, in the order of the log."""
    with open_stored(data) as file:
        reader = pa.ipc.open_file(file)
        return [reader.get_batch(i) for i in range(bucket, reader.num_record_batches, buckets)]


def open_stored(path: str) -> BinaryIO:
    """Opens a file for reading, without Beam's decompression by suffix."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def create(path: str) -> BinaryIO:
    """Opens a file for writing, without Beam's compression by suffix."""
    return FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)


def printable(path: str) -> str:
    """The path as text that can be encoded; a file's name may be no valid UTF-8."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _as_json_lines(part: Checked) -> bytes:
    return b"".join(
        json.dumps(dataclasses.asdict(malformed)).encode() + b"\n" for malformed in part.malformed
    )


def _write_part(
    path: str, fields: tuple[Field, ...], batches: Iterator[pa.RecordBatch], buckets: int
) -> None:
    schema = arrow_schema(fields)
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with create(path) as file, pa.ipc.new_file(file, schema, options=options) as writer:
        pending: list[pa.RecordBatch] = []
        size = 0
        for batch in batches:
            pending.append(batch)
            size += batch.nbytes
            if size >= _ROUND_BYTES:
                _write_round(writer, pending, buckets)
                pending, size = [], 0
        if pending:
            _write_round(writer, pending, buckets)


def _write_round(
    writer: pa.ipc.RecordBatchFileWriter, batches: list[pa.RecordBatch], buckets: int
) -> None:
    table = pa.Table.from_batches(batches).combine_chunks()
    bucket = _bucket(table.column(0), buckets)
    by_bucket = table.take(pa.array(np.argsort(bucket, kind="stable"))).combine_chunks()
    ends = np.cumsum(np.bincount(bucket, minlength=buckets)).tolist()
    whole = by_bucket.to_batches()
    batch = (
        whole[0]
        if whole
        else pa.RecordBatch.from_arrays(
            [pa.array([], type=field.type) for field in table.schema], schema=table.schema
        )
    )
    for start, end in zip([0, *ends], ends, strict=False):
        writer.write_batch(batch.slice(start, end - start))


def _bucket(ids: pa.ChunkedArray, buckets: int) -> np.ndarray:
    """Bucket of each id [rows], the same on every machine and day."""
    values = ids.to_numpy().astype(object)
    hashes = pd.util.hash_array(values, hash_key=_HASH_KEY, categorize=False)
    return (hashes % np.uint64(buckets)).astype(np.int64)
