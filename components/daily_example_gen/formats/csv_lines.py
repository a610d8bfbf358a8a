"""CSV with a header: cells are separated by commas, the elements of a list by |."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from components.daily_example_gen.fields import Field
from components.daily_example_gen.formats import text
from components.daily_example_gen.formats.checked import bounded
from components.daily_example_gen.formats.lines import (
    CARRIAGE_RETURN,
    Lines,
    StoppedError,
    columns_of,
    valid_utf8,
)
from components.daily_example_gen.formats.text import Block
from components.daily_example_gen.well_formed import MalformedError

# On Python 3.10 Arrow looks through all objects of the process, twice before each block, for a
# cycle that its signal handlers may leave: 100 ms once TFX is imported. Without handlers there is
# none.
pa.enable_signal_handlers(False)
pa.lib.have_signal_refcycle = False

_SHOWN_CHARS = 60
_INTEGER = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False}
_BESIDE_QUOTE = np.isin(np.arange(256), list(b',"\r\n'))


class CsvLines(Lines):
    """CSV, of which `header` is the first line of the file."""

    _stopped = re.compile(r"Row #(\d+)")
    _first_row = 1

    def __init__(self, fields: tuple[Field, ...], header: bytes) -> None:
        """Makes a parser of the fields that the header names."""
        super().__init__(fields)
        csv.field_size_limit(2 * text.MAX_LINE_BYTES)
        self._by_name = {field.source: field for field in fields}
        self.header = bounded(header)
        try:
            self._names = cells(header)
        except MalformedError as error:
            self._names, self.bad_header = [], f"the header is {error}"
        for name in self._names:
            if name in self._by_name and self._names.count(name) > 1:
                self.bad_header = f"the header names field '{name}' twice"
        if not self.bad_header and not self._by_name.keys() & set(self._names):
            signs = [sign for sign in ";\t|" if len(self._names) == 1 and sign in self._names[0]]
            by = f"{signs[0]!r}? They must be by commas" if signs else "commas?"
            self.bad_header = (
                f"the header '{self.header[:_SHOWN_CHARS]}' names no field of the spec; are its "
                f"cells separated by {by}"
            )

    def _parse_line(self, line: bytes) -> Mapping[str, Any]:
        if self.bad_header:
            raise MalformedError(self.bad_header)
        values = cells(line)
        if len(values) != len(self._names):
            raise MalformedError(f"expected {len(self._names)} cells", f", got {len(values)}")
        return {
            name: _typed(self._by_name[name], cell)
            for name, cell in zip(self._names, values, strict=True)
            if name in self._by_name
        }

    def _parse_block(self, block: Block) -> Mapping[str, pa.Array]:
        data, lines = block.data, block.lines
        if self.bad_header:
            raise StoppedError
        # A lone \r ends a line for Arrow; a quote left open swallows newlines, or ends
        # with the block: the number of rows tells the one, the last line the other. Where
        # a cell does not begin with a quote, Arrow takes one within it for text.
        last = data[data.rfind(b"\n", 0, -1) + 1 :]
        if (
            b"\0" in data
            or data.count(b"\r") != data.count(b"\r\n")
            or last.count(b'"') % 2
            or not _quotes_in_place(data)
            or not valid_utf8(data)
        ):
            raise StoppedError
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
            raise StoppedError
        return {
            name: self._split(self._by_name[name], column)
            for name, column in columns_of(table).items()
        }

    def _type(self, field: Field) -> pa.DataType:
        hint = self._hints.get(field.name)
        if field.multivalued or field.kind in ("id", "string"):
            return pa.string()
        if field.kind in ("int", "binary") and hint is bool:
            return pa.bool_()
        if field.kind == "int" and hint is not float:
            # Arrow's readers take 0x10 for a number: `_split` looks for it first.
            return pa.string()
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


def cells(line: bytes) -> list[str]:
    """Cuts a line into its cells.

    Raises:
        MalformedError: it is not UTF-8, or its quotes or ends of line are out of place.
    """
    try:
        decoded = line.decode()
    except UnicodeDecodeError:
        raise MalformedError("not valid UTF-8") from None
    decoded = decoded.removesuffix("\r")
    if "\0" in decoded:
        raise MalformedError("not valid CSV (a control character)")
    if "\r" in decoded:
        raise MalformedError(f"not valid CSV ({CARRIAGE_RETURN})")
    try:
        found = next(csv.reader([decoded + "\n"]), [])
    except csv.Error as error:
        raise MalformedError(f"not valid CSV ({error})") from None
    if found and found[-1].endswith("\n"):
        raise MalformedError("not valid CSV (a quote is left open, or a cell has a newline)")
    if not _quotes_in_place(line):
        raise MalformedError("not valid CSV (a stray quote)")
    return found


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
                "the elements of a list are joined by |, not in brackets",
                f", got {json.dumps(cell[:_SHOWN_CHARS])}",
                field=field.source,
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
    if field.kind in ("int", "binary"):
        return _BOOLEANS.get(number.lower(), cell)
    return cell
