"""What a log file is read as: events that hold what the spec says, and malformed lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from components.daily_example_gen.fields import Field
from components.daily_example_gen.well_formed import MalformedError

RAW_CHARS = 2000
"""Characters of a malformed line that are kept."""


@dataclasses.dataclass(frozen=True)
class Malformed:
    """A line that is not an event.

    Attributes:
        line: its number, from 1 where the byte range starts; the row in a Parquet file.
        reason: what is wrong with it.
        raw: the line itself, its first characters if it is long.
        kind: what is wrong, in the same words for every line with that fault.
        field: name in the logs of the field that is wrong; empty if the whole line is.
    """

    line: int
    reason: str
    raw: str
    kind: str
    field: str = ""

    @classmethod
    def of(cls, line: int, error: MalformedError, raw: str) -> Malformed:
        """Makes it of the reason."""
        return cls(line, str(error), raw[:RAW_CHARS], error.kind, error.field)


@dataclasses.dataclass(frozen=True)
class Checked:
    """Part of a log file, checked.

    Attributes:
        batch: the events, a column a field.
        malformed: the lines that are not events.
        lines: how many lines were read, blank ones included.
    """

    batch: pa.RecordBatch
    malformed: Sequence[Malformed]
    lines: int


def bounded(line: bytes) -> str:
    """A malformed line as text, its first `RAW_CHARS` characters."""
    head = line[: 4 * RAW_CHARS].decode(errors="backslashreplace").rstrip("\r\n")
    return head[:RAW_CHARS]


def of_fields(fields: tuple[Field, ...], columns: Mapping[str, pa.Array]) -> Mapping[str, pa.Array]:
    """The columns by the name of their field; what `check.value_of` does for a whole batch."""
    if not any(field.path for field in fields):
        return columns
    found = {}
    for field in fields:
        arrays = [columns[field.source]] if field.source in columns else []
        nested = columns.get(field.path[0]) if field.path else None
        for key in field.path[1:]:
            nested = _child(nested, key)
        if nested is not None:
            arrays.append(nested)
        if arrays:
            found[field.source] = pc.coalesce(*arrays) if len(arrays) > 1 else arrays[0]
    return found


def _child(column: pa.Array | None, name: str) -> pa.Array | None:
    if column is None or not pa.types.is_struct(column.type):
        return None
    index = column.type.get_field_index(name)
    return pc.struct_field(column, [index]) if index >= 0 else None
