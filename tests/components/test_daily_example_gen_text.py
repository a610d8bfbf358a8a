"""Text files in blocks of whole lines, plain and gzip."""

import gzip
import json
import time

import pytest
from event_logs import CARRIAGE_RETURN, GOOD, as_csv_line, event, read, read_lines

from components.daily_example_gen.formats import text
from components.daily_example_gen.formats.text import UnreadableError


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


def test_blank_lines_and_carriage_returns_and_byte_order_mark_are_no_events(tmp_path):
    line = json.dumps(event(0)).encode()
    rows, malformed, lines = read_lines(
        tmp_path, [b"\xef\xbb\xbf" + line + b"\r", b"", b"  \r", json.dumps(event(1)).encode()]
    )
    assert len(rows) == 2
    assert not malformed
    assert lines == 4


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
