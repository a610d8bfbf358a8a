import csv
import dataclasses
import gzip
import io
import json
import math
import time
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from components.daily_example_gen import check, readers, text
from components.daily_example_gen import parquet_columns as thrift
from components.daily_example_gen.fields import Field, event_fields
from components.daily_example_gen.text import UnreadableError
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
JOINED = "the elements of a list are joined by |"


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


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("logs")


def test_all_formats_give_the_same_events(tmp_path):
    events = [
        event(0),
        event(1, topics=[], codes=[], hour=None, age=None),
        event(2, topics=["x y"], user='q"uo,te', rating=-2.25, clicked=0),
        event(3, user="žluť", age=1e-3, hour=-(2**62)),
    ]
    lines = [json.dumps(e).encode() for e in events]
    header = as_csv_line(GOOD)
    cells = [as_csv_line(e.values()) for e in events]
    expected, malformed, _ = read_lines(tmp_path, lines)
    assert not malformed
    assert [row["event_id"] for row in expected] == ["e0", "e1", "e2", "e3"]
    assert expected[3]["hour"] == -(2**62)
    pq.write_table(pa.Table.from_pylist(events), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0] == expected
    assert read_lines(tmp_path, lines, "a.jsonl.gz")[0] == expected
    assert read_lines(tmp_path, cells, "a.csv", header)[0] == expected
    assert read_lines(tmp_path, cells, "a.csv.gz", header)[0] == expected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"age": "n/a"}, "field 'age': expected a number, got \"n/a\""),
        ({"age": True}, "field 'age': expected a number, got true"),
        ({"age": math.nan}, "field 'age': expected a finite float32, got NaN"),
        ({"age": math.inf}, "field 'age': expected a finite float32, got Infinity"),
        ({"age": 1e39}, "field 'age': expected a finite float32, got 1e+39"),
        ({"age": [1.0]}, "field 'age': expected a number, got [1.0]"),
        ({"clicked": 2}, "field 'clicked': expected 0 or 1, got 2"),
        ({"clicked": None}, "field 'clicked': missing, and it is required"),
        ({"clicked": "1"}, "field 'clicked': expected 0 or 1, got \"1\""),
        ({"user": 7}, "field 'user': expected a string, got 7"),
        ({"user": ""}, "field 'user': missing, and it is required"),
        ({"user": "\ud800"}, "field 'user': not valid UTF-8"),
        ({"event_id": None}, "field 'event_id': missing, and it is required"),
        ({"event_id": 1.5}, "field 'event_id': expected a string or an integer, got 1.5"),
        ({"hour": 1.5}, "field 'hour': expected an integer, got 1.5"),
        ({"hour": 2**63}, f"field 'hour': expected an integer, got {2**63}"),
        ({"topics": "a"}, "field 'topics': expected a list, got \"a\""),
        ({"topics": ["a", None]}, "field 'topics': a list element is missing"),
        ({"topics": ["a", 1]}, "field 'topics': expected a string, got 1"),
        ({"codes": [1, 1.5]}, "field 'codes': expected an integer, got 1.5"),
    ],
)
def test_wrong_value_is_quarantined_with_its_line_and_reason(tmp_path, changes, reason):
    events = [event(0), event(1), event(2, **changes), event(3)]
    rows, malformed, lines = read_lines(tmp_path, [json.dumps(e).encode() for e in events])
    assert [row["event_id"] for row in rows] == ["e0", "e1", "e3"]
    assert [(bad.line, bad.reason) for bad in malformed] == [(3, reason)]
    assert lines == 4


@pytest.mark.parametrize(
    ("cell", "value", "reason"),
    [
        ("age", "n/a", "field 'age': expected a number, got \"n/a\""),
        ("age", "nan", "field 'age': expected a number, got \"nan\""),
        ("age", "inf", "field 'age': expected a number, got \"inf\""),
        ("hour", "0x10", "field 'hour': expected an integer, got \"0x10\""),
        ("codes", "1||2", "field 'codes': a list element is missing"),
        ("clicked", "", "field 'clicked': missing, and it is required"),
        (
            "topics",
            '["a","b"]',
            'field \'topics\': "[\\"a\\",\\"b\\"]" is a list in brackets; ' + JOINED,
        ),
        ("topics", "[a, b]", "field 'topics': \"[a, b]\" is a list in brackets; " + JOINED),
        ("topics", "{a,b}", "field 'topics': \"{a,b}\" is a list in brackets; " + JOINED),
        ("codes", "[1, 2]", "field 'codes': \"[1, 2]\" is a list in brackets; " + JOINED),
        ("clicked", "yes", "field 'clicked': expected 0 or 1, got \"yes\""),
    ],
)
def test_wrong_cell_is_quarantined_with_its_line_and_reason(tmp_path, cell, value, reason):
    lines = [as_csv_line(event(0).values()), as_csv_line(event(1, **{cell: value}).values())]
    rows, malformed, _ = read_lines(tmp_path, lines, "a.csv", as_csv_line(GOOD))
    assert [row["event_id"] for row in rows] == ["e0"]
    assert [(bad.line, bad.reason) for bad in malformed] == [(3, reason)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'e1,u,"a', "not valid CSV (a quote is left open)"),
        (b"e1,u", "expected 8 cells, got 2"),
        (b"\xff,u,a,1,1,1,1,", "not valid UTF-8"),
        (b"e1,u,a,1,1,1,1,\0", "not valid CSV (a control character)"),
        (b"e1,u,a,1\r,1,1,1,", f"not valid CSV ({CARRIAGE_RETURN})"),
        (b'e1",u,a,1,1,1,1,', "not valid CSV (a stray quote)"),
        (b'e1,"u"v,a,1,1,1,1,', "not valid CSV (a stray quote)"),
        (b'e1,5" or 7",a,1,1,1,1,', "not valid CSV (a stray quote)"),
    ],
)
def test_broken_csv_line_takes_no_other_line_with_it(tmp_path, line, reason):
    good = [as_csv_line(event(n).values()) for n in range(4)]
    lines = [*good[:2], line, *good[2:]]
    rows, malformed, _ = read_lines(tmp_path, lines, "a.csv", as_csv_line(GOOD))
    assert [row["event_id"] for row in rows] == ["e0", "e1", "e2", "e3"]
    assert [(bad.line, bad.reason) for bad in malformed] == [(4, reason)]


def test_cell_with_a_newline_gives_no_event_of_its_end(tmp_path):
    good = [as_csv_line(event(n).values()) for n in range(2)]
    lines = [good[0], b'"a', b'b",u,a,1,1,1,1,', good[1]]
    rows, malformed, _ = read_lines(tmp_path, lines, "a.csv", as_csv_line(GOOD))
    assert [row["event_id"] for row in rows] == ["e0", "e1"]
    assert [bad.line for bad in malformed] == [3, 4]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_header_that_names_no_field_is_the_reason_of_each_line(tmp_path, delimiter):
    header = delimiter.join(GOOD).encode()
    lines = [delimiter.join(["e", "u", "a", "3", "1", "1.5", "1", ""]).encode()] * 2
    rows, malformed, _ = read_lines(tmp_path, lines, "a.csv", header)
    assert not rows
    assert [bad.line for bad in malformed] == [1, 2, 3]
    for bad in malformed:
        assert f"the header 'event_id{delimiter}user" in bad.reason
        assert "names no field of the spec; are its cells separated by commas?" in bad.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"e1,u,a,3,1,1.5,1,", "the header 'e1,u,a,3,1,1.5,1,' names no field of the spec"),
        (b"event_id;user;clicked\n", "the header 'event_id;user;clicked' names no field"),
        (b"event_id,user,user,clicked\n", "the header names field 'user' twice"),
        (b'event_id,"user\n', "the header is not valid CSV (a quote is left open)"),
        (
            b"event_id,user,clicked\r" + b"e,u,1\r" * 1000,
            f"the header is not valid CSV ({CARRIAGE_RETURN})",
        ),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_bad_header_without_a_line_below_it_is_malformed_itself(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    rows, (bad,), lines = read(tmp_path / name)
    assert (rows, lines, bad.line) == ([], 1, 1)
    assert bad.reason.startswith(reason)
    assert bad.raw == content.split(b"\n")[0].decode()[:2000]


def test_good_header_alone_is_no_malformed_line(tmp_path):
    assert read_lines(tmp_path, [], "a.csv", as_csv_line(GOOD)) == ([], [], 1)


def test_bad_header_counts_once_however_the_file_is_cut(tmp_path):
    content = b"a;b\n" + b"1;2\n" * 50
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    for width in (3, 11, len(content)):
        ranges = range(0, len(content), width)
        parts = [read(path, start, min(start + width, len(content))) for start in ranges]
        assert sum(len(malformed) for _, malformed, _ in parts) == 51


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_lines_that_end_in_carriage_returns_alone_are_one_that_says_so(
    tmp_path, monkeypatch, suffix
):
    line = as_csv_line(event(0).values()) if suffix == "csv" else json.dumps(event(0)).encode()
    path = tmp_path / f"a.{suffix}"
    path.write_bytes((line + b"\r") * 1000)
    rows, (bad,), _ = read(path)
    assert not rows
    assert CARRIAGE_RETURN in bad.reason
    monkeypatch.setattr(text, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(text, "MAX_LINE_BYTES", 4000)
    monkeypatch.setattr(text, "_READ_BYTES", 500)
    _, (bad,), _ = read(path)
    assert bad.reason.endswith(f"with {CARRIAGE_RETURN}")


REPEATED = [
    ('"clicked": 0', "field 'clicked': it appears twice"),
    ('"\\u0063licked": 1', "field 'clicked': it appears twice"),
    ('"rating": null', "field 'rating': it appears twice"),
    ('"unknown": 1, "unknown": 2', None),
    ('"unknown": {"clicked": 1, "clicked": 0}', None),
]


@pytest.mark.parametrize(("added", "reason"), REPEATED)
def test_json_object_that_names_a_field_twice_is_malformed(tmp_path, added, reason):
    twice = json.dumps(event(1))[:-1] + f", {added}}}"
    lines = [json.dumps(event(0)).encode(), twice.encode(), json.dumps(event(2)).encode()]
    rows, malformed, _ = read_lines(tmp_path, lines)
    assert [row["event_id"] for row in rows] == (["e0", "e2"] if reason else ["e0", "e1", "e2"])
    assert [(bad.line, bad.reason) for bad in malformed] == ([(2, reason)] if reason else [])


def test_name_that_is_twice_in_an_object_on_the_way_to_a_field_is_malformed(tmp_path):
    fields = (*FIELDS[:1], Field("topic", "string", field="item.topic", path=("item", "topic")))
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"event_id": 1, "item": {"topic": "a", "topic": "b"}}\n'
        '{"event_id": 2, "item": {"topic": "a", "x": 1, "x": 2}}\n'
        '{"event_id": 3, "item": {"topic": "a"}, "item": {"topic": "b"}}\n'
    )
    (part,) = readers.read_events(str(path), fields)
    assert [(bad.line, bad.reason) for bad in part.malformed] == [
        (1, "field 'topic': it appears twice"),
        (3, "field 'item': it appears twice"),
    ]
    assert part.batch.column(1).to_pylist() == ["a"]


@pytest.mark.parametrize(("name", "is_field"), [("clicked", True), ("unknown", False)])
def test_parquet_with_two_columns_of_one_name_is_malformed_where_it_is_a_field(
    tmp_path, name, is_field
):
    table = pa.Table.from_pylist([event(n, unknown=1) for n in range(3)])
    table = table.append_column(name, pa.array([0, 0, 0]))
    pq.write_table(table, tmp_path / "a.parquet")
    rows, malformed, lines = read(tmp_path / "a.parquet")
    assert lines == 3
    assert len(rows) == (0 if is_field else 3)
    assert [(bad.line, bad.reason) for bad in malformed] == [
        (n, "two columns are named 'clicked'") for n in ((1, 2, 3) if is_field else ())
    ]
    assert all('"clicked": 1' in bad.raw and '"clicked": 0' in bad.raw for bad in malformed)


LIMITED = (
    Field("event_id", "id", required=True),
    Field("topics", "string", multivalued=True, max_length=2, too_long="malformed"),
    Field("codes", "int", multivalued=True, max_length=2),
    Field("seconds", "number", minimum=0.1, maximum=7200.0),
)
LIMITS = [
    ({"topics": ["a", "b"]}, None),
    (
        {"topics": ["a", "b", "c"]},
        "field 'topics': a list of 3 elements, more than the 2 of its max_length",
    ),
    ({"codes": [1, 2, 3]}, None),
    ({"seconds": 0.1}, None),
    ({"seconds": 7200}, None),
    ({"seconds": 7200.0001}, "field 'seconds': 7200.0001 is above its maximum of 7200"),
    ({"seconds": 0.09999999999}, "field 'seconds': 0.09999999999 is below its minimum of 0.1"),
    ({"seconds": -1}, "field 'seconds': -1 is below its minimum of 0.1"),
    ({"seconds": None}, None),
]


@pytest.mark.parametrize(("values", "reason"), LIMITS)
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_list_or_label_beyond_its_limit_is_malformed(tmp_path, values, reason, suffix):
    name, value = next(iter(values.items()))
    path = tmp_path / f"a.{suffix}"
    events = [{"event_id": "a"}, {"event_id": "b", **values}, {"event_id": "c"}]
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(e) + "\n" for e in events))
    elif suffix == "csv":
        lines = [as_csv_line(e.get(key) for key in ("event_id", name)) for e in events]
        path.write_bytes(b"\n".join([as_csv_line(["event_id", name]), *lines, b""]))
    else:
        pq.write_table(pa.table({"event_id": list("abc"), name: [None, value, None]}), path)
    (part,) = readers.read_events(str(path), LIMITED)
    if reason and suffix == "csv" and name == "seconds":
        reason = reason.replace("': -1", "': -1.0")
    assert [bad.reason for bad in part.malformed] == ([reason] if reason else [])
    assert part.batch.column(0).to_pylist() == (["a", "c"] if reason else ["a", "b", "c"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6), st.integers(1, 4))
def test_lists_are_cut_to_their_first_elements(lists, limit):
    fields = (Field("codes", "int", multivalued=True, max_length=limit),)
    batch = check.rows_to_batch(fields, [[values] for values in lists])
    cut, counts = check.cut_lists(fields, batch)
    assert cut.column(0).to_pylist() == [values[:limit] for values in lists]
    assert counts.get("codes", 0) == sum(len(values) > limit for values in lists)
    assert cut.schema == batch.schema


def with_newer_type(path, name):
    """Gives a column's schema element a logical type that no Parquet library knows."""
    content = path.read_bytes()
    size = int.from_bytes(content[-8:-4], "little")
    body, footer = content[: -8 - size], content[-8 - size : -8]
    fields, _ = thrift._struct(footer, 0)
    schema = next(field for field in fields if field.number == 2)
    elements = thrift._elements(schema.content)
    for at, element in enumerate(elements):
        if name.encode() in element:
            known = [f for f in thrift._struct(element, 0)[0] if f.number < 6]
            unknown = thrift._Field(99, thrift._STRUCT, b"\0")
            kind = thrift._Field(10, thrift._STRUCT, thrift._joined([unknown]))
            elements[at] = thrift._joined([*known, kind])
    changed = thrift._listed(schema, elements)
    footer = thrift._joined(changed if field is schema else field for field in fields)
    path.write_bytes(body + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def test_parquet_column_of_an_unknown_type_that_nobody_reads_is_passed_over(tmp_path):
    path = tmp_path / "a.parquet"
    events = [event(n, extra={"x": [n], "y": "z"}) for n in range(50)]
    table = pa.Table.from_pylist(events).add_column(3, "newer", pa.array([1.0] * 50))
    pq.write_table(table, path, row_group_size=20)
    expected = read(path)
    with_newer_type(path, "newer")
    with pytest.raises((OSError, pa.ArrowException)):
        pq.ParquetFile(path)
    assert read(path) == expected
    assert len(expected[0]) == 50


def test_parquet_column_of_an_unknown_type_that_is_read_says_who_cannot_and_what_to_do(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([event(0)]), path)
    with_newer_type(path, "age")
    with pytest.raises(UnreadableError, match=rf"pyarrow {pa.__version__} cannot .* JSON lines"):
        read(path)


def test_damaged_parquet_pages_are_unreadable(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([event(n) for n in range(500)]), path)
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(
        UnreadableError, match=r"cannot decode it \(.*damaged, or written in a newer"
    ):
        read(path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_bytes_that_are_no_footer_are_refused(footer):
    with pytest.raises((pa.ArrowException, OSError)):
        thrift.open_columns(io.BytesIO(footer + len(footer).to_bytes(4, "little") + b"PAR1"), {"a"})


EMPTY = [
    ("user", "", None),
    ("hour", "", 'expected an integer, got ""'),
    ("hour", [], "expected an integer, got []"),
    ("age", "", 'expected a number, got ""'),
    ("age", [], "expected a number, got []"),
    ("topics", [], None),
    ("topics", "", 'expected a list, got ""'),
]


@pytest.mark.parametrize(("name", "empty", "reason"), EMPTY)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_empty_value_is_missing_only_where_it_is_of_the_type(tmp_path, name, empty, reason, suffix):
    fields = tuple(dataclasses.replace(f, required=f.kind == "id") for f in FIELDS)
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        path.write_text(json.dumps(event(0, **{name: empty})) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([event(0, **{name: empty})]), path)
    (part,) = readers.read_events(str(path), fields)
    expected = [] if reason is None else [f"field '{name}': {reason}"]
    assert [bad.reason for bad in part.malformed] == expected
    assert [row[name] or None for row in part.batch.to_pylist()] == ([] if reason else [None])


def test_column_of_another_type_in_parquet_is_malformed_not_null(tmp_path):
    table = pa.Table.from_pylist([event(0, age="n/a"), event(1, age=None)])
    pq.write_table(table, tmp_path / "a.parquet")
    rows, malformed, _ = read(tmp_path / "a.parquet")
    assert [row["event_id"] for row in rows] == ["e1"]
    assert malformed[0].reason == "field 'age': expected a number, got \"n/a\""


def test_parquet_takes_dictionaries_binary_and_narrow_types(tmp_path):
    table = pa.table(
        {
            "event_id": pa.array([1, 2], pa.uint32()),
            "user": pa.array([b"u", b"\xff"], pa.binary()),
            "topics": pa.array([["a"], None], pa.large_list(pa.string())),
            "hour": pa.array([3.0, None], pa.float64()),
            "clicked": pa.array([True, False]),
            "age": pa.array([1, 2], pa.int8()),
        }
    ).set_column(2, "topics", pa.array([["a"], None], pa.large_list(pa.large_string())))
    pq.write_table(table, tmp_path / "a.parquet")
    rows, malformed, _ = read(tmp_path / "a.parquet")
    assert [(r["event_id"], r["topics"], r["hour"], r["clicked"]) for r in rows] == [
        ("1", ["a"], 3, 1.0)
    ]
    assert [(bad.line, bad.reason) for bad in malformed] == [(2, "field 'user': not valid UTF-8")]


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


@pytest.mark.parametrize(
    ("suffix", "event"),
    [
        (".jsonl", FLAT),
        (".csv", FLAT),
        (".parquet", FLAT),
        (".jsonl", NESTED),
        (".parquet", NESTED),
    ],
)
def test_field_is_read_by_its_name_in_the_logs_and_kept_by_that_in_the_spec(
    tmp_path, suffix, event
):
    (part,) = readers.read_events(write(tmp_path, [event, event], suffix), NAMED_FIELDS)
    assert not part.malformed
    assert part.batch.to_pylist() == [READ, READ]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_raw_events_hold_all_fields_nested_ones_by_their_path(tmp_path, suffix):
    events = [{**FLAT, "unread": number} for number in range(3)]
    if suffix != ".csv":
        events[1] = {**NESTED, "unread": 1}
    read = list(readers.read_raw(write(tmp_path, events, suffix)))
    assert [int(event["unread"]) for event in read] == [0, 1, 2]
    for event in read:
        assert str(event["item.at.hour"] or 3) == "3"
        assert set(FLAT) <= set(event)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_value_below_an_object_counts_where_there_is_none_of_the_whole_name(tmp_path, suffix):
    events = [
        {"item.Topics": ["x"], "item.at.hour": None, **NESTED},
        {"item.Topics": None, "item.at.hour": 5, **NESTED},
        {**NESTED, "item": None},
        {**NESTED, "item": {"Topics": ["c"], "at": None}},
    ]
    (part,) = readers.read_events(write(tmp_path, events, suffix), NAMED_FIELDS)
    assert not part.malformed
    assert [(row["topics"], row["hour"]) for row in part.batch.to_pylist()] == [
        (["x"], 3),
        (["a", "b"], 5),
        ([], None),
        (["c"], None),
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_malformed_value_below_an_object_is_named_as_in_the_logs(tmp_path, suffix):
    events = [{**NESTED, "item": {"Topics": ["a"], "at": {"hour": hour}}} for hour in (1.5, 2.0)]
    (part,) = readers.read_events(write(tmp_path, events, suffix), NAMED_FIELDS)
    assert [bad.reason for bad in part.malformed] == [
        "field 'item.at.hour': expected an integer, got 1.5"
    ]
    assert [row["hour"] for row in part.batch.to_pylist()] == [2]


def test_dots_are_part_of_the_name_below_a_field_of_the_spec(tmp_path):
    spec = parse_spec(NAMED, "named", ["features.user.field=item"])
    events = [{**FLAT, "item": "u"}, {**NESTED, "item": {"Topics": ["a"]}}]
    for event in events:
        event.pop("userId")
    (part,) = readers.read_events(write(tmp_path, events, ".jsonl"), event_fields(spec))
    assert [bad.reason for bad in part.malformed] == [
        'field \'item\': expected a string, got {"Topics": ["a"]}'
    ]
    assert part.batch.to_pylist() == [READ]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    lines=st.lists(
        st.dictionaries(
            st.sampled_from(["item", "item.at.hour", "item.Topics", "request", "request.ID"]),
            st.recursive(
                st.one_of(st.none(), st.integers(0, 9), st.just("a"), st.just(["a"])),
                lambda inner: st.dictionaries(
                    st.sampled_from(["at", "hour", "Topics", "ID"]), inner, max_size=3
                ),
                max_leaves=6,
            ),
            max_size=4,
        ).map(lambda changes: json.dumps({**NESTED, **changes}).encode()),
        max_size=6,
    )
)
def test_fate_of_a_line_with_objects_does_not_depend_on_its_neighbours(scratch, lines):
    alone = [readers._JsonLines(NAMED_FIELDS).check_lines([line], [1]) for line in lines]
    path = scratch / "objects.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    parts = list(readers.read_events(str(path), NAMED_FIELDS))
    assert [row for part in parts for row in part.batch.to_pylist()] == [
        row for part in alone for row in part.batch.to_pylist()
    ]
    assert [bad.reason for part in parts for bad in part.malformed] == [
        bad.reason for part in alone for bad in part.malformed
    ]


INT64 = 2**63 - 1
NO_TEXT = "not valid UTF-8"
NO_INTEGER = "expected an integer, got "
DECIMAL = pa.decimal128(38, 2)
COLUMNS = [
    ("event_id", [b"ab", b"\xff1"], pa.binary(2), ["ab", NO_TEXT]),
    ("user", [b"ab", b"\xff1"], pa.binary(2), ["ab", NO_TEXT]),
    ("topics", [[b"ab"], [b"\xff1"]], pa.list_(pa.binary(2)), [["ab"], NO_TEXT]),
    ("topics", [[b"a"], [b"\xff"]], pa.list_(pa.binary()), [["a"], NO_TEXT]),
    ("topics", [["a", "b"], ["c", ""]], pa.list_(pa.string(), 2), [["a", "b"], "is missing"]),
    ("codes", [[1, 2], [3, 4]], pa.list_(pa.int32(), 2), [[1, 2], [3, 4]]),
    ("codes", [[1], [2**64 - 1]], pa.list_(pa.uint64()), [[1], NO_INTEGER + str(2**64 - 1)]),
    ("hour", [2**53 + 1, 2**64 - 1, INT64, None], pa.uint64(),
     [2**53 + 1, NO_INTEGER + str(2**64 - 1), INT64, None]),
    ("hour", [Decimal(2**53 + 1), Decimal("1.5"), Decimal(2**63), Decimal(-(2**63)), None], DECIMAL,
     [2**53 + 1, NO_INTEGER + "1.50", NO_INTEGER + f"{2**63}.00", -(2**63), None]),
    ("hour", [Decimal(2**64 + 1), Decimal(INT64)], pa.decimal256(76, 0),
     [NO_INTEGER + str(2**64 + 1), INT64]),
    ("age", [Decimal("1.5"), None], DECIMAL, [1.5, None]),
    ("clicked", [Decimal(1), Decimal(2)], DECIMAL, [1.0, "expected 0 or 1, got 2.00"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values", "column", "expected"), COLUMNS)
def test_parquet_column_is_read_and_a_wrong_value_takes_no_other_with_it(
    tmp_path, name, values, column, expected
):
    events = pa.Table.from_pylist([event(n) for n in range(len(values))])
    where = events.schema.get_field_index(name)
    table = events.set_column(where, name, pa.array(values, column))
    pq.write_table(table, tmp_path / "a.parquet")
    rows, malformed, _ = read(tmp_path / "a.parquet")
    reasons = {n: e for n, e in enumerate(expected, 1) if isinstance(e, str) and " " in e}
    assert [row[name] for row in rows] == [e for n, e in enumerate(expected, 1) if n not in reasons]
    assert [bad.line for bad in malformed] == list(reasons)
    for bad in malformed:
        assert bad.reason.startswith(f"field '{name}': ")
        assert bad.reason.endswith(reasons[bad.line])


def test_decimals_and_binary_do_not_hide_the_field_that_is_wrong(tmp_path):
    table = pa.table(
        {
            "event_id": pa.array([b"ab"], pa.binary(2)),
            "user": pa.array(["u"]),
            "topics": pa.array([[b"a"]], pa.list_(pa.binary())),
            "hour": pa.array([Decimal(5)], pa.decimal128(38, 0)),
            "clicked": pa.array([7]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    _, malformed, _ = read(tmp_path / "a.parquet")
    assert [bad.reason for bad in malformed] == ["field 'clicked': expected 0 or 1, got 7"]


def test_types_that_vary_from_line_to_line_are_all_read(tmp_path):
    events = [
        event(0),
        event(1, event_id=7, clicked=True, hour=5.0, codes=[1.0, 2]),
        event(2, event_id=2**70, clicked=0.0, hour=2**60 + 1),
    ]
    rows, malformed, _ = read_lines(tmp_path, [json.dumps(e).encode() for e in events])
    assert not malformed
    assert [row["event_id"] for row in rows] == ["e0", "7", str(2**70)]
    assert [row["clicked"] for row in rows] == [1.0, 1.0, 0.0]
    assert [row["hour"] for row in rows] == [3, 5, 2**60 + 1]


def test_blank_lines_and_carriage_returns_and_byte_order_mark_are_no_events(tmp_path):
    line = json.dumps(event(0)).encode()
    rows, malformed, lines = read_lines(
        tmp_path, [b"\xef\xbb\xbf" + line + b"\r", b"", b"  \r", json.dumps(event(1)).encode()]
    )
    assert len(rows) == 2
    assert not malformed
    assert lines == 4


def test_two_objects_on_a_line_and_one_object_on_two_lines_are_malformed(tmp_path):
    one = json.dumps(event(0)).encode()
    half = one.index(b', "hour"')
    rows, malformed, _ = read_lines(tmp_path, [one + one, one[:half], one[half:], one])
    assert len(rows) == 1
    assert [bad.line for bad in malformed] == [1, 2, 3]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz"])
def test_line_numbers_hold_across_blocks(tmp_path, monkeypatch, name):
    monkeypatch.setattr(text, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(text, "_READ_BYTES", 300)
    bad = {1, 57, 58, 199}
    is_csv = ".csv" in name
    lines = [
        b"oops"
        if n in bad
        else (as_csv_line(event(n).values()) if is_csv else json.dumps(event(n)).encode())
        for n in range(1, 200)
    ]
    header = as_csv_line(GOOD) if is_csv else None
    rows, malformed, _ = read_lines(tmp_path, lines, name, header)
    assert {m.line - is_csv for m in malformed} == bad
    assert len(rows) == 195


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_byte_ranges_cover_each_line_once(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(text, "_READ_BYTES", 100)
    lines = [
        as_csv_line(event(n).values()) if suffix == "csv" else json.dumps(event(n)).encode()
        for n in range(30)
    ]
    if suffix == "csv":
        lines = [as_csv_line(GOOD), *lines]
    path = tmp_path / f"a.{suffix}"
    content = b"\n".join(lines)
    path.write_bytes(content)
    for width in (1, 7, len(lines[1]) + 1, 400, len(content)):
        ranges = range(0, len(content), width)
        parts = [read(path, start, min(start + width, len(content))) for start in ranges]
        ids = [row["event_id"] for rows, _, _ in parts for row in rows]
        assert ids == [f"e{n}" for n in range(30)]
        assert sum(count for _, _, count in parts) == len(lines)


def test_line_without_end_is_cut_off_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(text, "MAX_LINE_BYTES", 4000)
    monkeypatch.setattr(text, "_READ_BYTES", 500)
    good = json.dumps(event(0)).encode()
    rows, malformed, lines = read_lines(tmp_path, [good, b"x" * 50_000, good])
    assert len(rows) == 2
    assert [bad.line for bad in malformed] == [2]
    assert len(malformed[0].raw) <= 2000
    assert lines == 3


@pytest.mark.parametrize("cut", [5, -20])
def test_gzip_that_breaks_off_is_unreadable(tmp_path, cut):
    content = b"\n".join(json.dumps(event(n)).encode() for n in range(1000))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(content)[:cut])
    with pytest.raises(UnreadableError, match="breaks off"):
        read(path)


def test_gzip_members_are_read_one_after_the_other(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(
        b"".join(gzip.compress(json.dumps(event(n)).encode() + b"\n") for n in range(3))
    )
    assert len(read(path)[0]) == 3


@pytest.mark.parametrize("padding", [100, 3 << 20])
def test_gzip_members_may_be_padded_with_zeros(tmp_path, padding):
    path = tmp_path / "a.jsonl.gz"
    members = [gzip.compress(json.dumps(event(n)).encode() + b"\n") for n in range(2)]
    path.write_bytes(b"".join(member + bytes(padding) for member in members))
    assert len(read(path)[0]) == 2


def test_zeros_alone_are_no_gzip(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(bytes(3 << 20))
    with pytest.raises(UnreadableError, match="corrupt"):
        read(tmp_path / "a.jsonl.gz")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz", "a.parquet"])
def test_file_that_is_gone_is_unreadable(tmp_path, name):
    with pytest.raises(UnreadableError, match=rf"cannot be opened \(.*{name}"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz"])
def test_file_whose_reading_fails_is_unreadable(tmp_path, monkeypatch, name):
    class Broken(io.BytesIO):
        def read(self, *_):
            raise OSError("the disk is broken")

    monkeypatch.setattr(text, "open_raw", lambda _: Broken())
    with pytest.raises(UnreadableError, match=r"cannot be read \(the disk is broken\)"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet"])
def test_file_of_another_format_is_unreadable(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"this is neither" * 10)
    with pytest.raises(UnreadableError):
        read(path)


JUNK = st.binary(max_size=40).map(lambda b: b.replace(b"\n", b""))
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 0.0, 1.0, 1e39, 5.0]),
    st.floats(width=32),
    st.text(max_size=5),
    st.lists(
        st.one_of(st.text(max_size=3), st.integers(0, 9), st.none(), st.just(2.0)), max_size=3
    ),
)
CHANGED = st.dictionaries(st.sampled_from([*GOOD, "unknown"]), VALUES, max_size=3)
JSON_LINES = st.one_of(
    st.just(json.dumps(GOOD).encode()),
    CHANGED.map(lambda changes: json.dumps({**GOOD, **changes}).encode()),
    CHANGED.map(lambda changes: json.dumps({**GOOD, **changes}, ensure_ascii=True)[:-3].encode()),
    CHANGED.map(
        lambda more: f"{json.dumps(GOOD)[:-1]}, {json.dumps({'': 0, **more})[1:]}".encode()
    ),
    st.sampled_from([b"", b" ", b"\t\r", b"\v\f"]),
    JUNK,
)
CELLS = st.one_of(
    st.sampled_from(["", "1", "0", "true", "False", "1.", ".5", "-0", "1e5", "0x1F", " 2", "5.0"]),
    st.sampled_from(["[a]", "[a|b]", "{1,2}", "(", "[1", "()|a"]),
    st.sampled_from(["007", "1e400", "-", "+1", "nan", "a|b", "1|2", '"', '"a"b', 'a"b', "\t3"]),
    st.text(st.characters(blacklist_characters="\n\0", blacklist_categories=["Cs"]), max_size=4),
)
CSV_LINES = st.one_of(
    st.just(as_csv_line(GOOD.values())),
    st.dictionaries(st.sampled_from(list(GOOD)), CELLS, max_size=3).map(
        lambda changes: as_csv_line({**GOOD, **changes}.values()).replace(b"\n", b"")
    ),
    st.lists(CELLS, min_size=8, max_size=8).map(lambda cells: ",".join(cells).encode()),
    JUNK,
)


def assert_fate_of_each_line_is_its_own(directory, lines, name, header):
    """The lines together give what each gives alone, where it is parsed by itself."""
    # There it is a mark of the file.
    assume(header is not None or not lines or not lines[0].startswith(b"\xef\xbb\xbf"))
    alone = []
    for line in lines:
        parser = readers._JsonLines(FIELDS) if header is None else readers._CsvLines(FIELDS, header)
        alone.append(parser.check_lines(*([line], [1]) if line.strip() else ([], [])))
    rows, malformed, count = read_lines(directory, lines, name, header)
    shift = 1 if header is None else 2
    assert count == len(lines) + shift - 1
    assert [(bad.line, bad.reason) for bad in malformed] == [
        (n, bad.reason) for n, part in enumerate(alone, shift) for bad in part.malformed
    ]
    assert rows == [row for part in alone for row in part.batch.to_pylist()]
    blank = sum(not line.strip() for line in lines)
    assert len(rows) + len(malformed) + blank == len(lines)


SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@SETTINGS
@given(lines=st.lists(JSON_LINES, max_size=8))
def test_fate_of_a_json_line_does_not_depend_on_its_neighbours(scratch, lines):
    assert_fate_of_each_line_is_its_own(scratch, lines, "h.jsonl", None)


@SETTINGS
@given(lines=st.lists(CSV_LINES, max_size=8))
def test_fate_of_a_csv_line_does_not_depend_on_its_neighbours(scratch, lines):
    assert_fate_of_each_line_is_its_own(scratch, lines, "h.csv", as_csv_line(GOOD))


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_megabytes_of_blank_lines_take_seconds(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    first = as_csv_line(GOOD) if suffix == "csv" else b""
    path.write_bytes(first + b"\n" * (20 << 20) + b"oops\n")
    started = time.process_time()
    rows, (bad,), lines = read(path)
    assert time.process_time() - started < 10
    assert not rows
    assert bad.line == lines == (20 << 20) + 1
