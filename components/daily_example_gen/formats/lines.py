"""Formats with an event a line.

The lines go through Arrow's parsers a block at a time. Where a parser stops at a line, it goes on
before and after that line, which is parsed by itself. Where it does not say at which line it
stopped, or stops too often, the lines are parsed one by one.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from components.daily_example_gen.fields import Field
from components.daily_example_gen.formats import text
from components.daily_example_gen.formats.checked import Checked, Malformed, bounded
from components.daily_example_gen.formats.text import Block
from components.daily_example_gen.well_formed import (
    MalformedError,
    check_columns,
    check_event,
    rows_to_batch,
    value_of,
)

CARRIAGE_RETURN = "carriage returns within the line; end lines in \\n or \\r\\n"
CHUNK_LINES = 2048
_FEW_LINES = 32
"""So many lines are parsed one by one as fast as by Arrow."""
_MAX_STOPS = 16
"""In a chunk; with more of them, to parse around each takes longer than to parse line by line."""


class StoppedError(Exception):
    """A block that was not parsed whole.

    Attributes:
        line: the line at which the parser stopped, from 0; None if it does not say.
    """

    def __init__(self, line: int | None = None) -> None:
        super().__init__(line)
        self.line = line


class Lines(abc.ABC):
    """A format with an event a line.

    `_hints` holds, for fields that a log may write in several types, the one seen last:
    Arrow wants it beforehand. `_stopped` finds the row in a message of Arrow's parser, whose
    first row is `_first_row`.
    """

    header = bad_header = ""
    _stopped: re.Pattern[str]
    _first_row: int

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self.fields = fields
        self._hints: dict[str, type] = {}

    @abc.abstractmethod
    def _parse_line(self, line: bytes) -> Mapping[str, Any]:
        """Parses a line, or raises `MalformedError`."""

    @abc.abstractmethod
    def _parse_block(self, block: Block) -> Mapping[str, pa.Array]:
        """Parses a block; raises `StoppedError` unless each line gives just one event."""

    def check_block(self, block: Block) -> Checked:
        """Checks a block at C++ speed.

        Raises:
            StoppedError: some of its lines take `check_lines`.
        """
        try:
            columns = self._parse_block(block)
        except pa.ArrowInvalid as error:
            row = self._stopped.search(str(error))
            raise StoppedError(int(row[1]) - self._first_row if row else None) from None
        batch, bad = check_columns(self.fields, columns, block.lines)
        malformed = []
        if bad.any():
            lines = block.data.split(b"\n")
            for row in np.flatnonzero(bad).tolist():
                try:
                    check_event(self.fields, self._parse_line(lines[row]))
                except MalformedError as error:
                    raw = bounded(lines[row])
                    malformed.append(Malformed.of(block.number(row), error, raw))
                else:
                    raise StoppedError(row)
            batch = batch.filter(pa.array(~bad))
        return Checked(batch, malformed, block.lines)

    def check_lines(self, lines: Sequence[bytes], numbers: Sequence[int]) -> Checked:
        """Checks lines that are not blank one by one."""
        rows: list[list[Any]] = []
        malformed = []
        for number, line in zip(numbers, lines, strict=True):
            try:
                event = self._parse_line(line)
                rows.append(check_event(self.fields, event))
            except MalformedError as error:
                malformed.append(Malformed.of(number, error, bounded(line)))
            else:
                if len(rows) == 1:
                    self._learn(event)
        return Checked(rows_to_batch(self.fields, rows), malformed, len(lines))

    def _learn(self, event: Mapping[str, Any]) -> None:
        for field in self.fields:
            value = value_of(event, field)
            if field.kind in ("id", "int", "binary") and value not in (None, []):
                values = value if field.multivalued else [value]
                is_float = any(isinstance(element, float) for element in values)
                self._hints[field.name] = float if is_float else type(values[0])


def read_text(
    parser: Lines, blocks: Iterator[Block], has_header: bool = False
) -> Iterator[Checked]:
    """Reads blocks of lines; the first one begins with a header if `has_header`."""
    for block in blocks:
        header = has_header and block.first_line == 1
        if block.too_long:
            reason = f"longer than {text.MAX_LINE_BYTES >> 20} MiB"
            if b"\r" in block.data:
                reason += f", with {CARRIAGE_RETURN}"
            error = MalformedError(reason)
            malformed = [Malformed.of(block.first_line, error, bounded(block.data))]
            yield Checked(rows_to_batch(parser.fields, []), malformed, lines=1)
            continue
        if header:
            body = block.data[block.data.index(b"\n") + 1 :]
            block = Block(body, block.lines - 1, block.first_line + 1)
        batches, malformed = [], []
        if header and parser.bad_header:
            malformed.append(Malformed.of(1, MalformedError(parser.bad_header), parser.header))
        for part in _parts(parser, text.without_blank_lines(block)):
            batches.append(part.batch)
            malformed.extend(part.malformed)
        table = pa.Table.from_batches(batches) if batches else None
        if table is not None and len(batches) > 1:
            batches = table.combine_chunks().to_batches() or batches[:1]
        batch = batches[0] if batches else rows_to_batch(parser.fields, [])
        yield Checked(batch, malformed, lines=block.lines + header)


def _parts(parser: Lines, block: Block) -> Iterator[Checked]:
    if not block.lines:
        return
    try:
        yield parser.check_block(block)
    except StoppedError:
        for chunk in block.cut(range(0, block.lines, CHUNK_LINES)):
            yield from _around_stops(parser, chunk)


def _around_stops(parser: Lines, chunk: Block) -> Iterator[Checked]:
    """Checks a chunk at C++ speed but for the lines at which the parser stops."""
    parts, stops = [chunk], 0
    while parts:
        part = parts.pop()
        line = None
        if part.lines > _FEW_LINES:
            try:
                yield parser.check_block(part)
                continue
            except StoppedError as stopped:
                line = stopped.line
        stops += 1
        # Whatever a message says of a row, each part is checked again, and smaller.
        if line is None or not 0 <= line < part.lines or stops > _MAX_STOPS:
            lines = part.data.split(b"\n")[:-1]
            yield parser.check_lines(lines, [part.number(row) for row in range(part.lines)])
        else:
            parts += reversed(part.cut([0, line, line + 1]))


def columns_of(table: pa.Table) -> dict[str, pa.Array]:
    """The columns by name, each in one piece."""
    return {
        name: column.chunk(0) if column.num_chunks == 1 else _combined(column)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _combined(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def valid_utf8(data: bytes) -> bool:
    """Whether all of it is UTF-8; Arrow's parsers do not look."""
    offsets = np.array([0, len(data)], dtype=np.int32)
    whole = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    try:
        whole.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
