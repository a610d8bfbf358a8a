"""Parquet files opened for some of their columns, whatever the others are.

Arrow converts the schema of a whole file before it reads a column, and refuses the file for
a type that it is too old to know, be it of a column that nobody wants. Then the file's footer
is cut down to the wanted columns first: a Thrift struct, whose parts are copied as they are
(https://github.com/apache/parquet-format, `parquet.thrift` and README; Thrift's compact
protocol: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md).
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Collection, Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet

_MAGIC = b"PAR1"
_BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY = (1, 2), 3, (4, 5, 6), 7, 8
_LISTS, _MAP, _STRUCT = (9, 10), 11, 12
# Field numbers of parquet.thrift.
_SCHEMA, _ROW_GROUPS, _KEY_VALUES, _COLUMN_ORDERS = 2, 4, 5, 7
_NAME, _CHILDREN = 4, 5
_COLUMNS, _SORTING_COLUMNS = 1, 4


def open_columns(source: BinaryIO, names: Collection[str]) -> pyarrow.parquet.ParquetFile:
    """Opens a Parquet file to read some of its columns.

    Args:
        source: the file.
        names: top-level names of the columns that will be read.

    Raises:
        pa.ArrowException, OSError: it is not a whole Parquet file, or a wanted column is of a type
            that Arrow does not know.
    """
    try:
        return pyarrow.parquet.ParquetFile(source)
    except (pa.ArrowException, OSError):
        try:
            footer = _cut_down(_footer(source), names)
        except (ValueError, IndexError, RecursionError):
            footer = b""
        if not footer:
            raise
    tail = footer + len(footer).to_bytes(4, "little") + _MAGIC
    metadata = pyarrow.parquet.read_metadata(io.BytesIO(_MAGIC + tail))
    return pyarrow.parquet.ParquetFile(source, metadata=metadata)


def _footer(source: BinaryIO) -> bytes:
    source.seek(-8, io.SEEK_END)
    tail = source.read(8)
    if tail[4:] != _MAGIC:
        raise ValueError("no Parquet footer")
    size = int.from_bytes(tail[:4], "little")
    source.seek(-8 - size, io.SEEK_END)
    return source.read(size)


@dataclasses.dataclass(frozen=True)
class _Field:
    number: int
    kind: int
    content: bytes


def _cut_down(footer: bytes, names: Collection[str]) -> bytes:
    """A `FileMetaData` with the wanted columns alone, and no types of Arrow's own."""
    fields, _ = _struct(footer, 0)
    (schema,) = (_elements(field.content) for field in fields if field.number == _SCHEMA)
    root, kept, leaves = _cut_schema(schema, names)

    def of_row_group(group: bytes) -> bytes:
        return _joined(
            _listed(field, [_elements(field.content)[leaf] for leaf in leaves])
            if field.number == _COLUMNS
            else field
            for field in _struct(group, 0)[0]
            if field.number != _SORTING_COLUMNS
        )

    def cut(field: _Field) -> _Field:
        if field.number == _SCHEMA:
            return _listed(field, [root, *kept])
        if field.number == _ROW_GROUPS:
            return _listed(field, [of_row_group(group) for group in _elements(field.content)])
        if field.number == _COLUMN_ORDERS:
            return _listed(field, [_elements(field.content)[leaf] for leaf in leaves])
        return field

    # Arrow writes its own schema, of all columns, under the key values.
    return _joined(cut(field) for field in fields if field.number != _KEY_VALUES)


def _cut_schema(
    schema: list[bytes], names: Collection[str]
) -> tuple[bytes, list[bytes], list[int]]:
    """The root, the elements below it that are wanted, and the numbers of their leaves."""
    root, _ = _struct(schema[0], 0)
    kept: list[bytes] = []
    leaves: list[int] = []
    at, leaf, columns = 1, 0, 0
    while at < len(schema):
        end, last = _subtree(schema, at, leaf)
        name = next((f.content for f in _struct(schema[at], 0)[0] if f.number == _NAME), b"\0")
        if _text(name) in names:
            kept += schema[at:end]
            leaves += range(leaf, last)
            columns += 1
        at, leaf = end, last
    children = _Field(_CHILDREN, 5, _as_varint(2 * columns))
    others = [field for field in root if field.number != _CHILDREN]
    ordered = sorted([*others, children], key=lambda field: field.number)
    return _joined(ordered), kept, leaves


def _subtree(schema: list[bytes], at: int, leaf: int) -> tuple[int, int]:
    """Where the element at `at` ends, and the number of the leaf after its own."""
    fields, _ = _struct(schema[at], 0)
    children = [_varint(f.content, 0)[0] // 2 for f in fields if f.number == _CHILDREN]
    if not children or not children[0]:
        return at + 1, leaf + 1
    at += 1
    for _ in range(children[0]):
        at, leaf = _subtree(schema, at, leaf)
    return at, leaf


def _text(content: bytes) -> str:
    size, start = _varint(content, 0)
    return content[start : start + size].decode()


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _struct(data: bytes, at: int) -> tuple[list[_Field], int]:
    """The fields of the struct at `at`, and where it ends."""
    fields: list[_Field] = []
    number = 0
    while data[at]:
        delta, kind = data[at] >> 4, data[at] & 15
        at += 1
        if delta:
            number += delta
        else:
            zigzag, at = _varint(data, at)
            number = (zigzag >> 1) ^ -(zigzag & 1)
        end = at if kind in _BOOLEANS else _end(data, at, kind)
        fields.append(_Field(number, kind, data[at:end]))
        at = end
    return fields, at + 1


def _joined(fields: Iterator[_Field] | list[_Field]) -> bytes:
    parts = [bytes([f.kind]) + _as_varint(2 * f.number) + f.content for f in fields]
    return b"".join(parts) + b"\0"


def _end(data: bytes, at: int, kind: int) -> int:
    """Where the value at `at` ends."""
    if kind in _BOOLEANS or kind == _BYTE:
        return at + 1
    if kind in _INTEGERS:
        return _varint(data, at)[1]
    if kind == _DOUBLE:
        return at + 8
    if kind == _BINARY:
        size, at = _varint(data, at)
        return at + size
    if kind in _LISTS:
        size, element, at = _list_header(data, at)
        for _ in range(size):
            at = _end(data, at, element)
        return at
    if kind == _MAP:
        size, at = _varint(data, at)
        if size > len(data):
            raise ValueError("a map longer than the footer")
        kinds, at = (data[at], at + 1) if size else (0, at)
        for _ in range(size):
            at = _end(data, _end(data, at, kinds >> 4), kinds & 15)
        return at
    if kind == _STRUCT:
        return _struct(data, at)[1]
    raise ValueError(f"no Thrift type {kind}")


def _list_header(data: bytes, at: int) -> tuple[int, int, int]:
    size, element = data[at] >> 4, data[at] & 15
    at += 1
    if size == 15:
        size, at = _varint(data, at)
    if size > len(data):
        raise ValueError("a list longer than the footer")
    return size, element, at


def _elements(content: bytes) -> list[bytes]:
    size, kind, at = _list_header(content, 0)
    elements = []
    for _ in range(size):
        end = _end(content, at, kind)
        elements.append(content[at:end])
        at = end
    return elements


def _listed(field: _Field, elements: list[bytes]) -> _Field:
    """The list with other elements of the same type."""
    header = bytes([0xF0 | field.content[0] & 15]) + _as_varint(len(elements))
    return _Field(field.number, field.kind, header + b"".join(elements))
