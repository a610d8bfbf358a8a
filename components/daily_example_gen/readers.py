"""Log files of every format as checked batches, and what is malformed in them.

The text formats go through Arrow's parsers a block at a time. Where a block is not parsed
whole, its lines are parsed one by one: Arrow's readers neither say which line it was nor
go on after it.
"""

from __future__ import annotations

import abc
import collections
import contextlib
import csv
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from components.daily_example_gen import text
from components.daily_example_gen.check import (
    MalformedError,
    check_columns,
    check_event,
    rows_to_batch,
    value_of,
)
from components.daily_example_gen.fields import Field
from components.daily_example_gen.parquet_columns import open_columns
from components.daily_example_gen.text import Block, UnreadableError

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
_CHUNK_LINES = 512
_PARQUET_ROWS = 1 << 14
_RAW_CHARS = 2000
_HEADER_CHARS = 60
_INTEGER = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False}
_CARRIAGE_RETURN = "carriage returns within the line; end lines in \\n or \\r\\n"
_NO_PARQUET = "magic bytes not found"
_BESIDE_QUOTE = np.isin(np.arange(256), list(b',"\r\n'))


@dataclasses.dataclass(frozen=True)
class Malformed:
    """A line that is no event.

    Attributes:
        line: its number, from 1 where the byte range starts; the row in a Parquet file.
        reason: what is wrong with it.
        raw: the line itself, its first characters if it is long.
    """

    line: int
    reason: str
    raw: str


@dataclasses.dataclass(frozen=True)
class Checked:
    """Part of a log file, checked.

    Attributes:
        batch: the events, a column a field.
        malformed: the lines that are none.
        lines: how many lines were read, blank ones included.
    """

    batch: pa.RecordBatch
    malformed: Sequence[Malformed]
    lines: int


def read_events(
    path: str, fields: tuple[Field, ...], start: int = 0, end: int | None = None
) -> Iterator[Checked]:
    """Reads a log file, or the lines that begin in a byte range of it, in bounded memory.

    Args:
        path: file name, ends in one of `SUFFIXES`; may be remote.
        fields: the fields to read.
        start: first byte of the range; plain text formats only.
        end: byte after the range; None for the end of the file.

    Yields:
        The file's parts in order.

    Raises:
        UnreadableError: the file as a whole cannot be read, or not to its end.
    """
    if path.endswith(".parquet"):
        yield from _read_parquet(path, fields)
    elif path.endswith((".jsonl", ".jsonl.gz")):
        yield from _read_text(_JsonLines(fields), text.read_blocks(path, start, end))
    else:
        header = text.first_line(path)
        blocks = text.read_blocks(path, start, end)
        yield from _read_text(_CsvLines(fields, header), blocks, has_header=start == 0)


def read_raw(path: str, start: int = 0, end: int | None = None) -> Iterator[dict[str, Any]]:
    """Reads what a log file holds, whatever it is; lines that do not parse are left out.

    Args:
        path: as for `read_events`.
        start: as for `read_events`.
        end: as for `read_events`.

    Yields:
        The value of each field that an event has: as JSON or Parquet give it, text out of CSV.
        A field of a nested object is named by its path, `item.topic`.

    Raises:
        UnreadableError: as `read_events`.
    """
    if path.endswith(".parquet"):
        yield from map(_flat, _parquet_rows(path))
        return
    is_csv = path.endswith((".csv", ".csv.gz"))
    names: list[str] = []
    with contextlib.suppress(MalformedError):
        names = _cells(text.first_line(path)) if is_csv else []
    for block in text.read_blocks(path, start, end):
        header = is_csv and start == 0 and block.first_line == 1
        for line in block.data.split(b"\n")[int(header) : -1]:
            with contextlib.suppress(ValueError, RecursionError):
                content = (
                    dict(zip(names, _cells(line), strict=True)) if is_csv else json.loads(line)
                )
                if isinstance(content, dict):
                    yield _flat(content)


def _parquet_rows(path: str) -> Iterator[dict[str, Any]]:
    try:
        with text.open_raw(path) as source:
            for batch in open_columns(source, ()).iter_batches(_CHUNK_LINES):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UnreadableError(f"not a whole Parquet file ({error})") from error


def _flat(event: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in event.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _read_text(
    parser: _Lines, blocks: Iterator[Block], has_header: bool = False
) -> Iterator[Checked]:
    for block in blocks:
        header = has_header and block.first_line == 1
        if block.too_long:
            reason = f"longer than {text.MAX_LINE_BYTES >> 20} MiB"
            if b"\r" in block.data:
                reason += f", with {_CARRIAGE_RETURN}"
            malformed = [Malformed(block.first_line, reason, _bounded(block.data))]
            yield Checked(rows_to_batch(parser.fields, []), malformed, lines=1)
            continue
        if header:
            body = block.data[block.data.index(b"\n") + 1 :]
            block = Block(body, block.lines - 1, block.first_line + 1)
        batches, malformed = [], []
        if header and parser.bad_header:
            malformed.append(Malformed(1, parser.bad_header, parser.header))
        for part in _parts(parser, text.without_blank_lines(block)):
            batches.append(part.batch)
            malformed.extend(part.malformed)
        table = pa.Table.from_batches(batches) if batches else None
        if table is not None and len(batches) > 1:
            batches = table.combine_chunks().to_batches() or batches[:1]
        batch = batches[0] if batches else rows_to_batch(parser.fields, [])
        yield Checked(batch, malformed, lines=block.lines + header)


def _parts(parser: _Lines, block: Block) -> Iterator[Checked]:
    if not block.lines:
        return
    part = parser.check_block(block)
    if part is not None:
        yield part
        return
    lines = block.data.split(b"\n")[:-1]
    for first in range(0, len(lines), _CHUNK_LINES):
        chunk = lines[first : first + _CHUNK_LINES]
        numbers = np.array([block.number(first + i) for i in range(len(chunk))])
        data = b"\n".join(chunk) + b"\n"
        part = parser.check_block(Block(data, len(chunk), block.first_line, numbers=numbers))
        yield part if part is not None else parser.check_lines(chunk, numbers.tolist())


class _Lines(abc.ABC):
    """A format with an event a line.

    `_hints` holds, for fields that a log may write in several types, the one seen last:
    Arrow wants it beforehand.
    """

    header = bad_header = ""

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self.fields = fields
        self._hints: dict[str, type] = {}

    @abc.abstractmethod
    def _parse_line(self, line: bytes) -> Mapping[str, Any]:
        """Parses a line, or raises `MalformedError`."""

    @abc.abstractmethod
    def _parse_block(self, block: Block) -> Mapping[str, pa.Array] | None:
        """Parses a block, or returns None unless each line gave just one event."""

    def check_block(self, block: Block) -> Checked | None:
        """Checks a block at C++ speed, or returns None where it takes `check_lines`."""
        try:
            columns = self._parse_block(block)
        except pa.ArrowInvalid:
            return None
        if columns is None:
            return None
        batch, bad = check_columns(self.fields, columns, block.lines)
        malformed = []
        if bad.any():
            lines = block.data.split(b"\n")
            for row in np.flatnonzero(bad).tolist():
                try:
                    check_event(self.fields, self._parse_line(lines[row]))
                except MalformedError as error:
                    raw = _bounded(lines[row])
                    malformed.append(Malformed(block.number(row), str(error), raw))
                else:
                    return None
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
                malformed.append(Malformed(number, str(error), _bounded(line)))
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


class _Object(dict[str, Any]):
    """A JSON object that knows which names it was given more than once."""

    repeated: frozenset[str] = frozenset()

    @classmethod
    def of(cls, pairs: list[tuple[str, Any]]) -> _Object:
        """Makes it from the pairs of the document."""
        made = cls(pairs)
        if len(made) < len(pairs):
            counts = collections.Counter(name for name, _ in pairs)
            made.repeated = frozenset(name for name, count in counts.items() if count > 1)
        return made


class _JsonLines(_Lines):
    def _parse_line(self, line: bytes) -> Mapping[str, Any]:
        try:
            event = json.loads(line.decode(), object_pairs_hook=_Object.of)
        except UnicodeDecodeError:
            raise MalformedError("not valid UTF-8") from None
        except json.JSONDecodeError as error:
            reason = f"not valid JSON ({error.msg}, column {error.colno})"
            if b"\r" in line.strip():
                reason += f"; {_CARRIAGE_RETURN}"
            raise MalformedError(reason) from None
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"not valid JSON ({error})") from None
        if not isinstance(event, dict):
            raise MalformedError(f"expected a JSON object, got {type(event).__name__}")
        for field in self.fields:
            _refuse_repeated(event, (field.source,))
            _refuse_repeated(event, field.path)
        return event

    def _parse_block(self, block: Block) -> Mapping[str, pa.Array] | None:
        data, lines = block.data, block.lines
        # Arrow takes objects as they come, several a line or one over several lines. Where
        # each line begins with { and ends with }, no object can span two, and the number
        # of rows tells that none holds several.
        if not _lines_in_braces(data) or not _valid_utf8(data):
            return None
        table = pa.json.read_json(
            pa.BufferReader(data),
            read_options=pa.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pa.json.ParseOptions(
                explicit_schema=self._schema(), unexpected_field_behavior="ignore"
            ),
        )
        return _of_fields(self.fields, _columns(table)) if table.num_rows == lines else None

    def _schema(self) -> pa.Schema:
        objects: dict[str, Any] = {}
        for field in self.fields:
            objects[field.source] = self._type(field)
            node = objects
            for key in field.path[:-1]:
                node = node.setdefault(key, {})
            if field.path:
                node[field.path[-1]] = objects[field.source]
        return pa.schema([(name, _struct(node)) for name, node in objects.items()])

    def _type(self, field: Field) -> pa.DataType:
        flat = {
            "id": pa.int64() if self._hints.get(field.name) is int else pa.string(),
            "string": pa.string(),
            "int": pa.float64() if self._hints.get(field.name) is float else pa.int64(),
            "number": pa.float64(),
            "binary": pa.bool_() if self._hints.get(field.name) is bool else pa.float64(),
        }[field.kind]
        return pa.list_(flat) if field.multivalued else flat


class _CsvLines(_Lines):
    def __init__(self, fields: tuple[Field, ...], header: bytes) -> None:
        super().__init__(fields)
        csv.field_size_limit(2 * text.MAX_LINE_BYTES)
        self._by_name = {field.source: field for field in fields}
        self.header = _bounded(header)
        try:
            self._names = _cells(header)
        except MalformedError as error:
            self._names, self.bad_header = [], f"the header is {error}"
        for name in self._names:
            if name in self._by_name and self._names.count(name) > 1:
                self.bad_header = f"the header names field '{name}' twice"
        if not self.bad_header and not self._by_name.keys() & set(self._names):
            self.bad_header = (
                f"the header '{self.header[:_HEADER_CHARS]}' names no field of the spec; "
                "are its cells separated by commas?"
            )

    def _parse_line(self, line: bytes) -> Mapping[str, Any]:
        if self.bad_header:
            raise MalformedError(self.bad_header)
        cells = _cells(line)
        if len(cells) != len(self._names):
            raise MalformedError(f"expected {len(self._names)} cells, got {len(cells)}")
        return {
            name: _typed(self._by_name[name], cell)
            for name, cell in zip(self._names, cells, strict=True)
            if name in self._by_name
        }

    def _parse_block(self, block: Block) -> Mapping[str, pa.Array] | None:
        data, lines = block.data, block.lines
        if self.bad_header:
            return None
        # A lone \r ends a line for Arrow; a quote left open swallows newlines, or ends
        # with the block: the number of rows tells the one, the last line the other. Where
        # a cell does not begin with a quote, Arrow takes one within it for text.
        last = data[data.rfind(b"\n", 0, -1) + 1 :]
        if (
            b"\0" in data
            or data.count(b"\r") != data.count(b"\r\n")
            or last.count(b'"') % 2
            or not _quotes_in_place(data)
            or not _valid_utf8(data)
        ):
            return None
        present = [name for name in self._names if name in self._by_name]
        # Names that repeat are of fields that nothing reads.
        unique = [name if name in self._by_name else f"\0{i}" for i, name in enumerate(self._names)]
        table = pa.csv.read_csv(
            pa.BufferReader(data),
            read_options=pa.csv.ReadOptions(
                use_threads=False, block_size=len(data) + 1, column_names=unique
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types={name: self._type(self._by_name[name]) for name in present},
                include_columns=present,
                null_values=[""],
                true_values=["true", "True"],
                false_values=["false", "False"],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                check_utf8=False,
            ),
        )
        if table.num_rows != lines:
            return None
        return {
            name: self._split(self._by_name[name], column)
            for name, column in _columns(table).items()
        }

    def _type(self, field: Field) -> pa.DataType:
        if field.multivalued or field.kind in ("id", "string"):
            return pa.string()
        if field.kind == "int" and self._hints.get(field.name) is not float:
            # Arrow's readers take 0x10 for a number: `_split` looks for it first.
            return pa.string()
        if field.kind == "binary" and self._hints.get(field.name) is bool:
            return pa.bool_()
        return pa.float64()

    def _split(self, field: Field, column: pa.Array) -> pa.Array:
        values = column
        if field.multivalued:
            if any(pc.any(pc.starts_with(column, bracket)).as_py() for bracket in "[{("):
                raise pa.ArrowInvalid("a list in brackets, perhaps")
            lists = pc.split_pattern(column, "|")
            values = lists.flatten()
        if field.kind == "int" and pa.types.is_string(values.type):
            if pc.any(pc.match_substring(values, "x", ignore_case=True)).as_py():
                raise pa.ArrowInvalid("a hexadecimal number")
            is_float = self._hints.get(field.name) is float
            values = values.cast(pa.float64() if is_float else pa.int64())
        if not field.multivalued:
            return values
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), values)


def _cells(line: bytes) -> list[str]:
    try:
        decoded = line.decode()
    except UnicodeDecodeError:
        raise MalformedError("not valid UTF-8") from None
    decoded = decoded.removesuffix("\r")
    if "\0" in decoded:
        raise MalformedError("not valid CSV (a control character)")
    if "\r" in decoded:
        raise MalformedError(f"not valid CSV ({_CARRIAGE_RETURN})")
    try:
        cells = next(csv.reader([decoded + "\n"]), [])
    except csv.Error as error:
        raise MalformedError(f"not valid CSV ({error})") from None
    if cells and cells[-1].endswith("\n"):
        raise MalformedError("not valid CSV (a quote is left open)")
    if not _quotes_in_place(line):
        raise MalformedError("not valid CSV (a stray quote)")
    return cells


def _quotes_in_place(data: bytes) -> bool:
    """Whether each quote opens a cell, closes it, or is doubled within it."""
    if b'"' not in data:
        return True
    codes = np.frombuffer(data, dtype=np.uint8)
    quotes = np.flatnonzero(codes == ord('"'))
    # Beyond either end the clipped index gives the quote itself.
    before = codes.take(quotes[::2] - 1, mode="clip")
    after = codes.take(quotes[1::2] + 1, mode="clip")
    return bool(_BESIDE_QUOTE.take(before).all() and _BESIDE_QUOTE.take(after).all())


def _typed(field: Field, cell: str) -> Any:
    if not cell:
        return None
    if field.multivalued:
        if cell[0] + cell[-1] in ("[]", "{}", "()"):
            raise MalformedError(
                f"field '{field.source}': {json.dumps(cell[:_HEADER_CHARS])} is a list in "
                "brackets; the elements of a list are joined by |"
            )
        return [_typed_one(field, element) for element in cell.split("|")]
    return _typed_one(field, cell)


def _typed_one(field: Field, cell: str) -> Any:
    if field.kind in ("id", "string"):
        return cell
    number = cell.strip(" \t")
    if field.kind == "int" and _INTEGER.fullmatch(number):
        # Longer ones are out of range, and slow to convert.
        return int(number) if len(number) < 40 else cell
    if _NUMBER.fullmatch(number):
        return float(number)
    if field.kind == "binary":
        return _BOOLEANS.get(number.lower(), cell)
    return cell


def _read_parquet(path: str, fields: tuple[Field, ...]) -> Iterator[Checked]:
    line = 1
    wanted = {field.source for field in fields} | {f.path[0] for f in fields if f.path}
    file = None
    try:
        with text.open_raw(path) as source:
            file = open_columns(source, wanted)
            repeated = _repeated_column(fields, file.schema_arrow)
            present = [name for name in file.schema_arrow.names if name in wanted]
            for batch in file.iter_batches(
                batch_size=_PARQUET_ROWS, columns=present, use_threads=False
            ):
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
        malformed.append(Malformed(line + row, reason, raw[:_RAW_CHARS]))
    return Checked(rows_to_batch(fields, []), malformed, batch.num_rows)


def _check_parquet(fields: tuple[Field, ...], batch: pa.RecordBatch, line: int) -> Checked:
    read = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns = {name: _plain(array) for name, array in _of_fields(fields, read).items()}
    checked, bad = check_columns(fields, columns, batch.num_rows)
    malformed = []
    for row in np.flatnonzero(bad).tolist():
        event = {name: _value(array, row) for name, array in columns.items()}
        reason = "malformed"
        try:
            check_event(fields, event)
        except MalformedError as error:
            reason = str(error)
        raw = json.dumps(event, default=str)
        malformed.append(Malformed(line + row, reason, raw[:_RAW_CHARS]))
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


def _struct(node: Any) -> pa.DataType:
    if not isinstance(node, dict):
        return node
    return pa.struct([(name, _struct(child)) for name, child in node.items()])


def _of_fields(
    fields: tuple[Field, ...], columns: Mapping[str, pa.Array]
) -> Mapping[str, pa.Array]:
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


def _refuse_repeated(event: Any, path: Sequence[str]) -> None:
    for name in path:
        if not isinstance(event, _Object):
            return
        if name in event.repeated:
            raise MalformedError(f"field '{name}': it appears twice")
        event = event.get(name)


def _columns(table: pa.Table) -> dict[str, pa.Array]:
    return {
        name: column.chunk(0) if column.num_chunks == 1 else _combined(column)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _combined(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _lines_in_braces(data: bytes) -> bool:
    codes = np.frombuffer(data, dtype=np.uint8)
    newlines = np.flatnonzero(codes == ord("\n"))
    if newlines[0] == 0:
        return False
    last = codes[newlines - 1]
    if (last == ord("\r")).any():
        last = np.where(last == ord("\r"), codes[np.maximum(newlines - 2, 0)], last)
    opens = codes[0] == ord("{") and (codes[newlines[:-1] + 1] == ord("{")).all()
    return bool(opens and (last == ord("}")).all())


def _valid_utf8(data: bytes) -> bool:
    offsets = np.array([0, len(data)], dtype=np.int32)
    whole = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    try:
        whole.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _bounded(line: bytes) -> str:
    head = line[: 4 * _RAW_CHARS].decode(errors="backslashreplace").rstrip("\r\n")
    return head[:_RAW_CHARS]
