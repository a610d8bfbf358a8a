"""CSV."""

import gc
import gzip

import pytest
from event_logs import CARRIAGE_RETURN, GOOD, JOINED, as_csv_line, event, read, read_lines


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
            f"field 'topics': {JOINED}" + '"[\\"a\\",\\"b\\"]"',
        ),
        ("topics", "[a, b]", f"field 'topics': {JOINED}" + '"[a, b]"'),
        ("topics", "{a,b}", f"field 'topics': {JOINED}" + '"{a,b}"'),
        ("codes", "[1, 2]", f"field 'codes': {JOINED}" + '"[1, 2]"'),
        ("clicked", "yes", "field 'clicked': expected 0 or 1, got \"yes\""),
    ],
)
def test_wrong_cell_is_quarantined_with_its_line_and_reason(tmp_path, cell, value, reason):
    lines = [as_csv_line(event(0).values()), as_csv_line(event(1, **{cell: value}).values())]
    rows, malformed, _ = read_lines(tmp_path, lines, "a.csv", as_csv_line(GOOD))
    assert [row["event_id"] for row in rows] == ["e0"]
    (bad,) = malformed
    assert (bad.line, bad.reason, bad.field) == (3, reason, cell)
    assert reason.startswith(f"field '{cell}': {bad.kind}")
    assert value not in bad.kind or value == ""


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'e1,u,"a', "not valid CSV (a quote is left open, or a cell has a newline)"),
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
        by = f"are its cells separated by {delimiter!r}? They must be by commas"
        assert f"names no field of the spec; {by}" in bad.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"e1,u,a,3,1,1.5,1,", "the header 'e1,u,a,3,1,1.5,1,' names no field of the spec"),
        (b"event_id;user;clicked\n", "the header 'event_id;user;clicked' names no field"),
        (b"event_id,user,user,clicked\n", "the header names field 'user' twice"),
        (b'event_id,"user\n', "the header is not valid CSV (a quote is left open"),
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


def test_time_of_a_block_does_not_grow_with_what_else_the_process_holds(tmp_path, monkeypatch):
    monkeypatch.delattr(gc, "get_referrers")  # It goes through all objects that there are.
    rows, _, _ = read_lines(tmp_path, [as_csv_line(event(0).values())], "a.csv", as_csv_line(GOOD))
    assert [row["event_id"] for row in rows] == ["e0"]
