"""JSON lines: a JSON object a line."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from components.daily_example_gen.fields import Field
from components.daily_example_gen.formats.checked import of_fields
from components.daily_example_gen.formats.lines import (
    CARRIAGE_RETURN,
    Lines,
    StoppedError,
    columns_of,
    valid_utf8,
)
from components.daily_example_gen.formats.text import Block
from components.daily_example_gen.well_formed import MalformedError


class JsonLines(Lines):
    """JSON lines; what the objects hold beside the fields is ignored."""

    _stopped = re.compile(r"in row (\d+)$")
    _first_row = 0

    def _parse_line(self, line: bytes) -> Mapping[str, Any]:
        try:
            event = json.loads(line.decode(), object_pairs_hook=_Object.of)
        except UnicodeDecodeError:
            raise MalformedError("not valid UTF-8") from None
        except json.JSONDecodeError as error:
            kind = f"not valid JSON ({error.msg})"
            if b"\r" in line.strip():
                kind += f"; {CARRIAGE_RETURN}"
            raise MalformedError(kind, f", at column {error.colno}") from None
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"not valid JSON ({error})") from None
        if not isinstance(event, dict):
            raise MalformedError("expected a JSON object", f", got {type(event).__name__}")
        for field in self.fields:
            _refuse_repeated(event, (field.source,))
            _refuse_repeated(event, field.path)
        return event

    def _parse_block(self, block: Block) -> Mapping[str, pa.Array]:
        data, lines = block.data, block.lines
        # Arrow takes objects as they come, several a line or one over several lines. Where
        # each line begins with { and ends with }, no object can span two, and the number
        # of rows tells that none holds several.
        if (line := _first_without_braces(data)) is not None:
            raise StoppedError(line)
        if not valid_utf8(data):
            raise StoppedError
        table = pa.json.read_json(
            pa.BufferReader(data),
            read_options=pa.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pa.json.ParseOptions(
                explicit_schema=self._schema(), unexpected_field_behavior="ignore"
            ),
        )
        if table.num_rows != lines:
            raise StoppedError
        return of_fields(self.fields, columns_of(table))

    def _schema(self) -> pa.Schema:
        objects: dict[str, Any] = {}
        for field in self.fields:
            objects[field.source] = self._type(field)
        for field in self.fields:
            node: Any = objects
            for key in field.path[:-1]:
                node = node.setdefault(key, {})
                if not isinstance(node, dict):
                    # Beside a field `user`, a field `user.age` is a name with a dot in it.
                    break
            else:
                if field.path:
                    node.setdefault(field.path[-1], objects[field.source])
        return pa.schema([(name, _struct(node)) for name, node in objects.items()])

    def _type(self, field: Field) -> pa.DataType:
        hint = self._hints.get(field.name)
        flat = {
            "id": pa.int64() if hint is int else pa.string(),
            "string": pa.string(),
            "int": pa.float64() if hint is float else pa.bool_() if hint is bool else pa.int64(),
            "number": pa.float64(),
            "binary": pa.bool_() if hint is bool else pa.float64(),
        }[field.kind]
        return pa.list_(flat) if field.multivalued else flat


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


def _refuse_repeated(event: Any, path: Sequence[str]) -> None:
    for name in path:
        if not isinstance(event, _Object):
            return
        if name in event.repeated:
            raise MalformedError("it appears twice", field=name)
        event = event.get(name)


def _struct(node: Any) -> pa.DataType:
    if not isinstance(node, dict):
        return node
    return pa.struct([(name, _struct(child)) for name, child in node.items()])


def _first_without_braces(data: bytes) -> int | None:
    """Number of the first line, none of them blank, that does not begin with { and end with }."""
    codes = np.frombuffer(data, dtype=np.uint8)
    newlines = np.flatnonzero(codes == ord("\n"))
    first = codes[np.append(0, newlines[:-1] + 1)]
    last = codes[newlines - 1]
    last = np.where(last == ord("\r"), codes[np.maximum(newlines - 2, 0)], last)
    without = np.flatnonzero((first != ord("{")) | (last != ord("}")))
    return int(without[0]) if len(without) else None
