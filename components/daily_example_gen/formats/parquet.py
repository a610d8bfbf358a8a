"""Parquet: an event a row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.daily_example_gen.fields import Field
from components.daily_example_gen.formats import text
from components.daily_example_gen.formats.checked import Checked, Malformed, of_fields
from components.daily_example_gen.formats.parquet_columns import open_columns
from components.daily_example_gen.formats.text import UnreadableError
from components.daily_example_gen.well_formed import (
    MalformedError,
    check_columns,
    check_event,
    rows_to_batch,
)

_ROWS = 1 << 14
_RAW_ROWS = 512
_NO_PARQUET = "magic bytes not found"


def read_parquet(path: str, fields: tuple[Field, ...]) -> Iterator[Checked]:
    """Reads a file a batch of rows at a time; errors are those of `readers.read_events`."""
    line = 1
    wanted = {field.source for field in fields} | {f.path[0] for f in fields if f.path}
    file = None
    try:
        with text.open_raw(path) as source:
            file = open_columns(source, wanted)
            repeated = _repeated_column(fields, file.schema_arrow)
            present = [name for name in file.schema_arrow.names if name in wanted]
            for batch in file.iter_batches(batch_size=_ROWS, columns=present, use_threads=False):
                if repeated:
                    yield _refuse_all(batch, line, f"two columns are named '{repeated}'", fields)
                else:
                    yield _check_parquet(fields, batch, line)
                line += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        message = str(error).splitlines()[0]
        if file is None and _NO_PARQUET in message:
            raise UnreadableError(f"not a whole Parquet file ({message})") from error
        raise UnreadableError(
            f"pyarrow {pa.__version__} cannot decode it ({message}): it is damaged, or written in "
            "a newer way. Write it with dictionary or plain encoding, data pages of "
            "version 1 and types that Parquet 2.6 knows (DuckDB: PARQUET_VERSION v1; Spark: "
            "parquet.writer.version=v1), or as JSON lines"
        ) from error


def parquet_rows(path: str) -> Iterator[dict[str, Any]]:
    """Yields all columns of each row, unchecked; errors are those of `readers.read_raw`."""
    try:
        with text.open_raw(path) as source:
            for batch in open_columns(source, ()).iter_batches(_RAW_ROWS):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UnreadableError(f"not a whole Parquet file ({error})") from error


def _repeated_column(fields: tuple[Field, ...], schema: pa.Schema) -> str:
    """Name of a column that a field may be read from and that appears twice; or empty."""
    for path in [(field.source,) for field in fields] + [field.path for field in fields]:
        columns = list(schema)
        for depth, name in enumerate(path, 1):
            found = [column for column in columns if column.name == name]
            if len(found) > 1:
                return ".".join(path[:depth])
            kind = found[0].type if found else pa.null()
            is_struct = pa.types.is_struct(kind)
            columns = [kind[i] for i in range(kind.num_fields)] if is_struct else []
    return ""


def _refuse_all(
    batch: pa.RecordBatch, line: int, reason: str, fields: tuple[Field, ...]
) -> Checked:
    malformed = []
    for row in range(batch.num_rows):
        cells = [
            f"{json.dumps(name)}: {json.dumps(_value(array, row), default=str)}"
            for name, array in zip(batch.schema.names, batch.columns, strict=True)
        ]
        raw = "{" + ", ".join(cells) + "}"
        malformed.append(Malformed.of(line + row, MalformedError(reason), raw))
    return Checked(rows_to_batch(fields, []), malformed, batch.num_rows)


def _check_parquet(fields: tuple[Field, ...], batch: pa.RecordBatch, line: int) -> Checked:
    read = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns = {name: _plain(array) for name, array in of_fields(fields, read).items()}
    checked, bad = check_columns(fields, columns, batch.num_rows)
    malformed = []
    for row in np.flatnonzero(bad).tolist():
        event = {name: _value(array, row) for name, array in columns.items()}
        reason = MalformedError("malformed")
        try:
            check_event(fields, event)
        except MalformedError as error:
            reason = error
        malformed.append(Malformed.of(line + row, reason, json.dumps(event, default=str)))
    if malformed:
        checked = checked.filter(pa.array(~bad))
    return Checked(checked, malformed, batch.num_rows)


def _value(array: pa.Array, row: int) -> Any:
    value = array.slice(row, 1)
    if pa.types.is_list(array.type):
        elements = value.flatten()
        return [_value(elements, i) for i in range(len(elements))] if value[0].is_valid else None
    if pa.types.is_string(array.type):
        value = value.view(pa.binary())
    value = value[0].as_py()
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def _plain(array: pa.Array) -> pa.Array:
    """The array in one of the types that `check_columns` knows."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _plain(array.cast(kind.value_type))
    if pa.types.is_large_string(kind):
        return array.cast(pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return array.cast(pa.binary())
    if pa.types.is_large_list(kind):
        return _plain(array.cast(pa.list_(kind.value_type)))
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        values = _plain(array.flatten())
        lengths = pc.list_value_length(array)
        ends = np.cumsum(pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False))
        offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
        return pa.ListArray.from_arrays(offsets, values)
    return array
