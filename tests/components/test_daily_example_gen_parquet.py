"""Parquet."""

import io
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from event_logs import event, read
from hypothesis import given, settings
from hypothesis import strategies as st

from components.daily_example_gen.formats import parquet_columns as thrift
from components.daily_example_gen.formats.text import UnreadableError


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


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_bytes_that_are_no_footer_are_refused(footer):
    with pytest.raises((pa.ArrowException, OSError)):
        thrift.open_columns(io.BytesIO(footer + len(footer).to_bytes(4, "little") + b"PAR1"), {"a"})


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
