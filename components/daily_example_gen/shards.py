"""Second stage: a bucket of a day's events deduplicated, shuffled and encoded as a shard."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from isal import isal_zlib
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

from components.daily_example_gen.fields import Field, arrow_schema
from components.daily_example_gen.parts import (
    Part,
    create,
    open_stored,
    printable,
    read_bucket,
)
from schemas.errors import BadDataError

_ENCODED_ROWS = 1 << 13
_GZIP_LEVEL = 1
_GZIP_FORMAT = 31
_CRC_MASK_DELTA = np.uint32(0xA282EAD8)


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard of a day, where its worker left it.

    Attributes:
        day: date of the events, ISO format.
        bucket: number of the shard.
        path: TFRecord file of tf.Examples, gzip.
        events: how many it holds.
        duplicates: events left out since a later one has their id.
        repeated: an id that repeats, with the files of an event left out and of the one kept;
            empty if none does.
        columns: Parquet file of some fields of the same events; empty if none were wanted.
    """

    day: str
    bucket: int
    path: str
    events: int
    duplicates: int
    repeated: str
    columns: str = ""


def write_shard(
    day: str,
    bucket: int,
    parts: Sequence[Part],
    fields: tuple[Field, ...],
    work_dir: str,
    columns: Sequence[str] = (),
) -> Shard:
    """Writes one shard into `work_dir`; memory is that of a bucket's events.

    Args:
        day: date of the events, ISO format; with `bucket` it seeds the shuffle.
        bucket: number of the shard.
        parts: all parts of the day.
        fields: the fields of an event.
        work_dir: directory for the file.
        columns: fields that are written once more, as `columns_path` says.

    Returns:
        The shard.
    """
    parts = sorted(parts, key=lambda part: part.piece.order)
    by_part = [read_bucket(part.data, bucket, part.piece.buckets) for part in parts]
    batches = [batch for batches in by_part for batch in batches if batch.num_rows]
    table = pa.Table.from_batches(batches, schema=arrow_schema(fields)).combine_chunks()
    kept = last_of_each(table.column(0))
    duplicates = table.num_rows - len(kept)
    rows = [sum(batch.num_rows for batch in batches) for batches in by_part]
    repeated = _repeated(table.column(0), kept, parts, rows) if duplicates else ""
    seed = (datetime.date.fromisoformat(day).toordinal(), bucket)
    order = np.random.default_rng(seed).permutation(kept)
    path = os.path.join(work_dir, f"{day}-shard-{bucket:05d}-{uuid.uuid4().hex}.gz")
    examples = table.drop([table.column_names[0]])
    write_records(path, (_encoded_rows(examples, rows) for rows in chunks_of(order)))
    beside = ""
    if columns:
        beside = columns_path(path, columns)
        write_table(beside, examples.select(list(columns)).take(pa.array(order)))
    return Shard(day, bucket, path, len(kept), duplicates, repeated, beside)


def columns_path(shard: str, names: Sequence[str]) -> str:
    """Where these fields of a shard's events lie, as columns, for who would else decode it."""
    key = hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:16]
    return f"{shard}-{key}.parquet"


def write_table(path: str, table: pa.Table) -> None:
    """Writes a Parquet file that is there as a whole, or not at all."""
    temporary = f"{path}.{uuid.uuid4().hex}"
    with create(temporary) as file:
        pq.write_table(table, file)
    FileSystems.rename([temporary], [path])


def read_table(path: str) -> pa.Table:
    """Reads a file of `write_table`.

    Raises:
        BadDataError: it is damaged.
    """
    with open_stored(path) as file:
        content = file.read()
    try:
        return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    # Of a page that does not unpack, Arrow raises an OSError.
    except (pa.ArrowException, OSError) as error:
        raise BadDataError.of_damaged(path, error) from error


def _repeated(
    ids: pa.ChunkedArray, kept: np.ndarray, parts: Sequence[Part], rows: Sequence[int]
) -> str:
    """Says of the first event that is left out which one is kept; `rows` are those of a part."""
    first = int(np.setdiff1d(np.arange(len(ids)), kept)[0])
    last = int(np.flatnonzero(pc.equal(ids, ids[first]).to_numpy())[-1])
    files = [
        os.path.basename(printable(parts[part].piece.path))
        for part in np.searchsorted(np.cumsum(rows), [first, last], side="right")
    ]
    where = f"in {files[0]}, and again in {files[1]}" if len(set(files)) > 1 else f"in {files[0]}"
    return f"{json.dumps(ids[first].as_py(), ensure_ascii=False)} {where}"


def last_of_each(ids: pa.ChunkedArray) -> np.ndarray:
    """Indices [unique ids] of the last row with each id, ascending."""
    codes = pc.dictionary_encode(ids).unify_dictionaries()
    flat = np.concatenate(
        [chunk.indices.to_numpy(zero_copy_only=False) for chunk in codes.chunks]
        or [np.empty(0, dtype=np.int32)]
    )
    _, from_end = np.unique(flat[::-1], return_index=True)
    return np.sort(len(flat) - 1 - from_end)


def encode_examples(batch: pa.RecordBatch) -> list[bytes]:
    """Serialized tf.Examples, one a row; a missing value is a feature without a list."""
    arrays = [_as_feature(column) for column in batch.columns]
    return RecordBatchToExamplesEncoder().encode(
        pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
    )


def _as_feature(column: pa.Array) -> pa.Array:
    """The column as a list array of bytes, int64 or float32, null where it is missing."""
    if pa.types.is_list(column.type):
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        values = column.flatten()
    else:
        lengths = column.is_valid().to_numpy(zero_copy_only=False)
        values = column.drop_null() if column.null_count else column
    if pa.types.is_string(values.type):
        values = values.cast(pa.binary())
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    missing = np.append(lengths == 0, False)
    return pa.ListArray.from_arrays(
        pa.array(offsets, mask=missing if missing.any() else None), values
    )


def tf_records(records: Sequence[bytes]) -> bytes:
    """The records in TFRecord framing: length, its CRC, data, its CRC."""
    lengths = np.fromiter(map(len, records), dtype="<u8", count=len(records))
    raw = lengths.tobytes()
    head = np.empty(len(records), dtype=[("length", "<u8"), ("crc", "<u4")])
    head["length"] = lengths
    head["crc"] = _masked_crc([raw[i : i + 8] for i in range(0, len(raw), 8)])
    heads, tails = head.tobytes(), _masked_crc(records).tobytes()
    framed: list[bytes] = []
    for i, record in enumerate(records):
        framed += (heads[12 * i : 12 * i + 12], record, tails[4 * i : 4 * i + 4])
    return b"".join(framed)


def first_tf_records(framed: bytes, count: int) -> bytes:
    """The first so many of records in TFRecord framing."""
    end = 0
    for _ in range(count):
        # The length takes 8 bytes, a CRC 4.
        end += 8 + 4 + int.from_bytes(framed[end : end + 8], "little") + 4
    return framed[:end]


def compressed(content: bytes) -> bytes:
    """The content as a gzip file."""
    compressor = _compressor()
    return compressor.compress(content) + compressor.flush()


def read_framed(path: str) -> bytes:
    """Reads a stored shard: its records in TFRecord framing.

    Raises:
        BadDataError: it is damaged; gzip's checksum covers all of it.
    """
    with open_stored(path) as file:
        content = file.read()
    try:
        return isal_zlib.decompress(content, _GZIP_FORMAT)
    except isal_zlib.error as error:  # type: ignore[misc]  # as its stub has it
        raise BadDataError.of_damaged_day(path, error) from error


def _compressor() -> isal_zlib.Compress:
    # To the size of zlib's level 1, in a quarter of its time.
    return isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_FORMAT)


def _masked_crc(chunks: Sequence[bytes]) -> np.ndarray:
    crc = np.fromiter(map(google_crc32c.value, chunks), dtype="<u4", count=len(chunks))
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + _CRC_MASK_DELTA


def write_records(path: str, chunks: Iterable[Sequence[bytes]]) -> None:
    """Writes a gzipped TFRecord file, a chunk of records at a time."""
    compressor = _compressor()
    with create(path) as file, futures.ThreadPoolExecutor(1) as pool:

        def write(records: Sequence[bytes]) -> None:
            file.write(compressor.compress(tf_records(records)))

        # Compression lets go of the interpreter: the next records are made meanwhile.
        written: futures.Future[None] | None = None
        for records in chunks:
            if written is not None:
                written.result()
            written = pool.submit(write, records)
        if written is not None:
            written.result()
        file.write(compressor.flush())


def read_records(path: str) -> list[bytes]:
    """Reads the records of a stored shard; raises as `read_framed`."""
    framed = read_framed(path)
    records, start = [], 0
    while start < len(framed):
        # The length takes 8 bytes, a CRC 4.
        end = start + 12 + int.from_bytes(framed[start : start + 8], "little")
        records.append(framed[start + 12 : end])
        start = end + 4
    return records


def chunks_of(values: Sequence[Any] | np.ndarray) -> Iterator[Any]:
    """Cuts records, or indices of rows, into chunks of a size that is written at once."""
    for start in range(0, len(values), _ENCODED_ROWS):
        yield values[start : start + _ENCODED_ROWS]


def _encoded_rows(table: pa.Table, rows: np.ndarray) -> list[bytes]:
    return encode_examples(table.take(pa.array(rows)).combine_chunks().to_batches()[0])
