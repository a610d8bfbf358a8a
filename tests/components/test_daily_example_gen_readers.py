"""What holds for files of every format."""

import dataclasses
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from event_logs import (
    FIELDS,
    FLAT,
    GOOD,
    NAMED,
    NAMED_FIELDS,
    NESTED,
    READ,
    as_csv_line,
    event,
    read,
    read_lines,
    write,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from components.daily_example_gen import readers, well_formed
from components.daily_example_gen.fields import Field, event_fields
from components.daily_example_gen.formats import text
from components.daily_example_gen.formats.csv_lines import CsvLines
from components.daily_example_gen.formats.json_lines import JsonLines
from components.daily_example_gen.formats.text import UnreadableError
from schemas.loading import parse_spec


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
        "field 'topics': more elements than the 2 of its max_length, got 3",
    ),
    ({"codes": [1, 2, 3]}, None),
    ({"seconds": 0.1}, None),
    ({"seconds": 7200}, None),
    ({"seconds": 7200.0001}, "field 'seconds': above its maximum of 7200, got 7200.0001"),
    ({"seconds": 0.09999999999}, "field 'seconds': below its minimum of 0.1, got 0.09999999999"),
    ({"seconds": -1}, "field 'seconds': below its minimum of 0.1, got -1"),
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
        reason = reason.replace("got -1", "got -1.0")
    assert [bad.reason for bad in part.malformed] == ([reason] if reason else [])
    assert part.batch.column(0).to_pylist() == (["a", "c"] if reason else ["a", "b", "c"])


@settings(max_examples=100)
@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6), st.integers(1, 4))
def test_lists_are_cut_to_their_first_elements(lists, limit):
    fields = (Field("codes", "int", multivalued=True, max_length=limit),)
    batch = well_formed.rows_to_batch(fields, [[values] for values in lists])
    cut, counts = well_formed.cut_lists(fields, batch)
    assert cut.column(0).to_pylist() == [values[:limit] for values in lists]
    assert counts.get("codes", 0) == sum(len(values) > limit for values in lists)
    assert cut.schema == batch.schema


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
    assert [int(found["unread"]) for found in read] == [0, 1, 2]
    for found in read:
        assert str(found["item.at.hour"] or 3) == "3"
        assert set(FLAT) <= set(found)


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
    for each in events:
        each.pop("userId")
    (part,) = readers.read_events(write(tmp_path, events, ".jsonl"), event_fields(spec))
    assert [bad.reason for bad in part.malformed] == [
        'field \'item\': expected a string, got {"Topics": ["a"]}'
    ]
    assert part.batch.to_pylist() == [READ]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
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
    alone = [JsonLines(NAMED_FIELDS).check_lines([line], [1]) for line in lines]
    path = scratch / "objects.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    parts = list(readers.read_events(str(path), NAMED_FIELDS))
    assert [row for part in parts for row in part.batch.to_pylist()] == [
        row for part in alone for row in part.batch.to_pylist()
    ]
    assert [bad.reason for part in parts for bad in part.malformed] == [
        bad.reason for part in alone for bad in part.malformed
    ]


def test_types_that_vary_from_line_to_line_are_all_read(tmp_path):
    events = [
        event(0),
        event(1, event_id=7, clicked=True, hour=5.0, codes=[1.0, 2]),
        event(2, event_id=2**70, clicked=0.0, hour=2**60 + 1),
        event(3, hour=True, codes=[False]),
    ]
    rows, malformed, _ = read_lines(tmp_path, [json.dumps(e).encode() for e in events])
    assert not malformed
    assert [row["event_id"] for row in rows] == ["e0", "7", str(2**70), "e3"]
    assert [row["clicked"] for row in rows] == [1.0, 1.0, 0.0, 1.0]
    assert [row["hour"] for row in rows] == [3, 5, 2**60 + 1, 1]
    assert rows[3]["codes"] == [0]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_true_and_false_are_the_codes_one_and_zero_in_each_format(tmp_path, suffix):
    flags = [number % 3 == 0 for number in range(100)]
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        ids = [f"e{number}" for number in range(100)]
        pq.write_table(pa.table({"event_id": ids, "hour": flags}), path)
    elif suffix == "csv":
        rows = "".join(f"e{number},{flag}\n" for number, flag in enumerate(flags))
        path.write_text("event_id,hour\n" + rows)
    else:
        events = [{"event_id": f"e{number}", "hour": flag} for number, flag in enumerate(flags)]
        path.write_text("".join(json.dumps(e) + "\n" for e in events))
    fields = (Field("event_id", "id", required=True), Field("hour", "int"))
    parts = list(readers.read_events(str(path), fields))
    assert not [bad for part in parts for bad in part.malformed]
    found = [row["hour"] for part in parts for row in part.batch.to_pylist()]
    assert found == [int(flag) for flag in flags]


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
    st.sampled_from(["Row #0", "Row #3", "Row #99", "in row 3"]),
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
        parser = JsonLines(FIELDS) if header is None else CsvLines(FIELDS, header)
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


SETTINGS = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def among(good, lines):
    """Lists of lines, each behind as many good ones as make a parser stop in their middle."""
    return st.builds(
        lambda drawn, count: [line for one in drawn for line in [*[good] * count, one]],
        st.lists(lines, max_size=8),
        st.sampled_from([0, 40]),
    )


@pytest.mark.slow
@SETTINGS
@given(lines=among(json.dumps(GOOD).encode(), JSON_LINES))
def test_fate_of_a_json_line_does_not_depend_on_its_neighbours(scratch, lines):
    assert_fate_of_each_line_is_its_own(scratch, lines, "h.jsonl", None)


@SETTINGS
@given(lines=among(as_csv_line(GOOD.values()), CSV_LINES))
def test_fate_of_a_csv_line_does_not_depend_on_its_neighbours(scratch, lines):
    assert_fate_of_each_line_is_its_own(scratch, lines, "h.csv", as_csv_line(GOOD))


@pytest.mark.parametrize("cell", ["Row #0", "Row #2", "Row #99"])
def test_a_cell_that_looks_like_part_of_the_parsers_message_is_only_malformed(tmp_path, cell):
    lines = [as_csv_line(GOOD.values())] * 40
    lines[7] = as_csv_line({**GOOD, "hour": cell}.values())
    rows, malformed, _ = read_lines(tmp_path, lines, "a.csv", as_csv_line(GOOD))
    assert len(rows) == 39
    assert [bad.line for bad in malformed] == [9]


BROKEN_JSON = [
    json.dumps(GOOD)[:20],
    json.dumps(event(0, age="n/a")),
    json.dumps({name: value for name, value in GOOD.items() if name != "user"}),
    json.dumps(GOOD).replace(",", "", 1),
]
BROKEN_CSV = [
    ",".join(["x"] * 3),
    as_csv_line(event(0, age="n/a").values()).decode(),
    as_csv_line(event(0, user="").values()).decode(),
]


@pytest.mark.parametrize(
    ("kind", "good", "broken", "header"),
    [
        (JsonLines, json.dumps(GOOD), BROKEN_JSON, None),
        (CsvLines, as_csv_line(GOOD.values()).decode(), BROKEN_CSV, as_csv_line(GOOD)),
    ],
    ids=["json", "csv"],
)
def test_one_broken_line_in_a_thousand_keeps_the_others_at_full_speed(
    tmp_path, monkeypatch, kind, good, broken, header
):
    lines = [good.encode()] * 20_000
    places = range(500, 20_000, 1000)
    for number, place in enumerate(places):
        lines[place] = broken[number % len(broken)].encode()
    alone = 0
    parse_line = kind._parse_line

    def counted(self, line):
        nonlocal alone
        alone += 1
        return parse_line(self, line)

    monkeypatch.setattr(kind, "_parse_line", counted)
    name = "a.jsonl" if header is None else "a.csv"
    rows, malformed, _ = read_lines(tmp_path, lines, name, header)
    first = 1 if header is None else 2
    assert [bad.line for bad in malformed] == [first + place for place in places]
    assert len(rows) == len(lines) - len(places)
    assert alone <= 3 * len(places)
