"""Log files of every format as checked batches, and what is malformed in them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from components.daily_example_gen.fields import Field
from components.daily_example_gen.formats import text
from components.daily_example_gen.formats.checked import Checked
from components.daily_example_gen.formats.csv_lines import CsvLines, cells
from components.daily_example_gen.formats.json_lines import JsonLines
from components.daily_example_gen.formats.lines import read_text
from components.daily_example_gen.formats.parquet import parquet_rows, read_parquet
from components.daily_example_gen.well_formed import MalformedError

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")


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
        yield from read_parquet(path, fields)
    elif path.endswith((".jsonl", ".jsonl.gz")):
        yield from read_text(JsonLines(fields), text.read_blocks(path, start, end))
    else:
        header = text.first_line(path)
        blocks = text.read_blocks(path, start, end)
        yield from read_text(CsvLines(fields, header), blocks, has_header=start == 0)


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
        yield from map(_flat, parquet_rows(path))
        return
    is_csv = path.endswith((".csv", ".csv.gz"))
    names: list[str] = []
    with contextlib.suppress(MalformedError):
        names = cells(text.first_line(path)) if is_csv else []
    for block in text.read_blocks(path, start, end):
        header = is_csv and start == 0 and block.first_line == 1
        for line in block.data.split(b"\n")[int(header) : -1]:
            with contextlib.suppress(ValueError, RecursionError):
                content = dict(zip(names, cells(line), strict=True)) if is_csv else json.loads(line)
                if isinstance(content, dict):
                    yield _flat(content)


def _flat(event: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in event.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
