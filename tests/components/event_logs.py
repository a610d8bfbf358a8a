"""Logs for tests of the formats, and how they are read."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from components.daily_example_gen import readers
from components.daily_example_gen.fields import Field, event_fields
from schemas.loading import parse_spec

FIELDS = (
    Field("event_id", "id", required=True),
    Field("user", "string", required=True),
    Field("topics", "string", multivalued=True),
    Field("hour", "int"),
    Field("codes", "int", multivalued=True),
    Field("age", "number"),
    Field("clicked", "binary", required=True),
    Field("rating", "number"),
)
GOOD = {
    "event_id": "e",
    "user": "u",
    "topics": ["a", "b"],
    "hour": 3,
    "codes": [1, 2],
    "age": 1.5,
    "clicked": 1,
    "rating": None,
}
CARRIAGE_RETURN = "carriage returns within the line; end lines in \\n or \\r\\n"
JOINED = "the elements of a list are joined by |, not in brackets, got "


def event(number, **changes):
    return {**GOOD, "event_id": f"e{number}", **changes}


def as_csv_line(values):
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(
        "|".join(map(str, v)) if isinstance(v, list) else v for v in values
    )
    return buffer.getvalue().encode()


def read(path, start=0, end=None):
    parts = list(readers.read_events(str(path), FIELDS, start, end))
    rows = [row for part in parts for row in part.batch.to_pylist()]
    malformed, offset = [], 0
    for part in parts:
        malformed.extend(part.malformed)
        offset += part.lines
    return rows, malformed, offset


def read_lines(directory, lines, name="a.jsonl", header=None):
    content = b"".join(line + b"\n" for line in ([] if header is None else [header]) + lines)
    path = directory / name
    path.write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    return read(path)


NAMED = """
name: named
events: {id: request.ID}
features:
  user: {type: categorical, buckets: 10, embedding: 2, field: userId}
  topics: {type: categorical, multivalued: true, buckets: 10, embedding: 2, field: item.Topics}
  hour: {type: categorical, dtype: int, buckets: 10, embedding: 2, field: item.at.hour}
  age: {type: dense, field: Age (days)}
tasks:
  click: {kind: binary, label: clicked, field: isClicked, gate: {min_auc: 0.5}}
model: {preset: tiny}
serving: {score: click}
"""
NAMED_FIELDS = event_fields(parse_spec(NAMED, "named"))
NESTED = {
    "request": {"ID": 7, "other": [1]},
    "userId": "u",
    "item": {"Topics": ["a", "b"], "at": {"hour": 3, "minute": 5}, "unread": {"at": 1}},
    "Age (days)": 1.5,
    "isClicked": True,
}
FLAT = {
    "request.ID": 7,
    "userId": "u",
    "item.Topics": ["a", "b"],
    "item.at.hour": 3,
    "Age (days)": 1.5,
    "isClicked": True,
}
READ = {"events.id": "7", "user": "u", "topics": ["a", "b"], "hour": 3, "age": 1.5, "clicked": 1.0}


def write(directory, events, suffix):
    path = directory / f"a{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(events), path)
    elif suffix == ".csv":
        lines = [as_csv_line(events[0]), *(as_csv_line(e.values()) for e in events)]
        path.write_bytes(b"\n".join(lines))
    else:
        path.write_text("\n".join(map(json.dumps, events)))
    return str(path)
