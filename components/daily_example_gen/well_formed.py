"""What makes an event well-formed: one value at a time, and whole columns at C++ speed.

`check_event` is the reference. `check_columns` must accept the same values; where it
refuses one, the caller asks `check_event` for the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.daily_example_gen.fields import Field, Kind, arrow_schema

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_EXACT_INT = 2**53
_INT64 = (-(2**63), 2**63 - 1)
_EXPECTED: dict[Kind, str] = {
    "id": "a string or an integer",
    "string": "a string",
    "int": "an integer",
    "number": "a number",
    "binary": "0 or 1",
}


class MalformedError(ValueError):
    """The reason why a line is not an event.

    Attributes:
        kind: what is wrong, in the same words for every line with that fault.
        field: name in the logs of the field that is wrong; empty if the whole line is.
    """

    def __init__(self, kind: str, detail: str = "", *, field: str = "") -> None:
        """Makes it; `detail` goes on with what this line has."""
        super().__init__(f"field '{field}': {kind}{detail}" if field else kind + detail)
        self.kind = kind
        self.field = field


def check_event(fields: tuple[Field, ...], event: Mapping[str, Any]) -> list[Any]:
    """Checks one event.

    Args:
        fields: the fields to read; others are ignored.
        event: values as `json.loads` gives them, or decimals; absent and None are both missing.

    Returns:
        A value a field, of the field's checked type; None or an empty list where missing.

    Raises:
        MalformedError: with the first field that is wrong.
    """
    return [_check_value(field, value_of(event, field)) for field in fields]


def value_of(event: Mapping[str, Any], field: Field) -> Any:
    """Returns a field's value: that of its name, or else that in the nested objects of its path."""
    value = event.get(field.source)
    if value is None and field.path:
        value = event
        for key in field.path:
            value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _check_value(field: Field, value: Any) -> Any:
    empty: Any = [] if field.multivalued else ("" if field.kind in ("id", "string") else None)
    if value is None or value == empty:
        if field.required:
            raise MalformedError("missing, and it is required", field=field.source)
        return [] if field.multivalued else None
    if not field.multivalued:
        return _check_one(field, value)
    if not isinstance(value, list):
        raise MalformedError("expected a list", _got(value), field=field.source)
    if _is_too_long(field, len(value)):
        raise MalformedError(
            f"more elements than the {field.max_length} of its max_length",
            _got(len(value)),
            field=field.source,
        )
    if any(element is None or element == "" for element in value):
        raise MalformedError("a list element is missing", field=field.source)
    return [_check_one(field, element) for element in value]


def _is_too_long(field: Field, lengths: Any) -> Any:
    """Whether a list of that length, or each of several, makes its event malformed."""
    bounded = field.max_length is not None and field.too_long == "malformed"
    return bounded and lengths > field.max_length


def _check_one(field: Field, value: Any) -> Any:
    kind = field.kind
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if kind == "id" and isinstance(value, int) and is_number:
        return str(value)
    if kind in ("id", "string") and isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise MalformedError("not valid UTF-8", field=field.source) from None
        return value
    if kind == "binary" and (isinstance(value, bool) or (is_number and value in (0, 1))):
        return float(value)
    if kind == "int" and isinstance(value, bool):
        return int(value)
    if kind == "int" and is_number:
        exact = isinstance(value, int) or (isinstance(value, Decimal) and value == int(value))
        if exact and _INT64[0] <= value <= _INT64[1]:
            return int(value)
        if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_INT:
            return int(value)
    if kind == "number" and is_number:
        if not abs(value) <= _FLOAT32_MAX:
            raise MalformedError("expected a finite float32", _got(value), field=field.source)
        if field.minimum is not None and value < field.minimum:
            raise MalformedError(
                f"below its minimum of {field.minimum:g}", _got(value), field=field.source
            )
        if field.maximum is not None and value > field.maximum:
            raise MalformedError(
                f"above its maximum of {field.maximum:g}", _got(value), field=field.source
            )
        return float(value)
    raise MalformedError(f"expected {_EXPECTED[kind]}", _got(value), field=field.source)


def _got(value: Any) -> str:
    if isinstance(value, Decimal):
        return f", got {value}"
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
    except ValueError:
        text = "an integer of very many digits"
    text = text.encode(errors="backslashreplace").decode()
    return f", got {text if len(text) <= 80 else text[:77] + '...'}"


def rows_to_batch(fields: tuple[Field, ...], rows: list[list[Any]]) -> pa.RecordBatch:
    """Columns of what `check_event` returned for each row."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in fields)
    arrays = [
        pa.array(list(column), type=field.arrow_type)
        for field, column in zip(fields, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(fields))


def check_columns(
    fields: tuple[Field, ...], columns: Mapping[str, pa.Array], rows: int
) -> tuple[pa.RecordBatch, np.ndarray]:
    """Checks whole columns.

    Args:
        fields: the fields to read.
        columns: an array of length `rows` for each field that the log has, by its name there.
        rows: number of events.

    Returns:
        The checked batch, and a boolean mask [rows] that is true where a row is malformed;
        the batch's content there means nothing.
    """
    arrays = []
    malformed = np.zeros(rows, dtype=bool)
    for field in fields:
        column = columns.get(field.source)
        if column is None:
            column = pa.nulls(rows)
        check = _check_list if field.multivalued else _check_single
        array, bad = check(field, column)
        arrays.append(array)
        malformed |= bad
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(fields)), malformed


def cut_lists(
    fields: tuple[Field, ...], batch: pa.RecordBatch
) -> tuple[pa.RecordBatch, dict[str, int]]:
    """Cuts the lists of checked events to the length that their fields allow.

    Returns:
        The events, and by field how many of its lists were longer.
    """
    columns, cut = list(batch.columns), {}
    for number, field in enumerate(fields):
        if field.max_length is None:
            continue
        lengths = _numpy(pc.list_value_length(columns[number]))
        too_long = int((lengths > field.max_length).sum())
        if not too_long:
            continue
        cut[field.name] = too_long
        ends = np.cumsum(lengths)
        position = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
        values = columns[number].flatten().filter(pa.array(position < field.max_length))
        offsets = np.append(0, np.cumsum(np.minimum(lengths, field.max_length)))
        columns[number] = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema), cut


def fields_with_values(fields: tuple[Field, ...], batch: pa.RecordBatch) -> set[str]:
    """Names of the fields that at least one of the checked events has a value of."""
    return {
        field.name
        for field, column in zip(fields, batch.columns, strict=True)
        if (len(column.flatten()) if field.multivalued else len(column) - column.null_count)
    }


def _check_single(field: Field, column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    array, bad = _check_flat(field, column)
    if field.required and array.null_count:
        bad = bad | _numpy(array.is_null())
    return array, bad


def _check_list(field: Field, column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    rows = len(column)
    if not pa.types.is_list(column.type):
        # A JSON column without one list, or a Parquet column of another type.
        return pa.array([[]] * rows, type=field.arrow_type), (
            np.ones(rows, dtype=bool) if field.required else _numpy(column.is_valid())
        )
    lengths = _numpy(pc.fill_null(pc.list_value_length(column), 0))
    values, bad_values = _check_flat(field, column.flatten())
    if values.null_count:
        bad_values = bad_values | _numpy(values.is_null())
    bad = np.zeros(rows, dtype=bool)
    if bad_values.any():
        bad[np.repeat(np.arange(rows), lengths)[bad_values]] = True
    if field.required:
        bad |= lengths == 0
    bad |= _is_too_long(field, lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values), bad


def _check_flat(field: Field, array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Returns the checked values (null: missing) and a mask of wrong ones."""
    kind = field.kind
    if kind in ("id", "string"):
        return _check_text(array, allow_integers=kind == "id")
    if kind == "int":
        return _check_integers(array)
    return _check_numbers(field, array)


def _check_text(array: pa.Array, allow_integers: bool) -> tuple[pa.Array, np.ndarray]:
    if allow_integers and pa.types.is_integer(array.type):
        return array.cast(pa.string()), _none(array)
    if not (pa.types.is_string(array.type) or pa.types.is_binary(array.type)):
        return _wrong_type(array, pa.string())
    bad = _none(array)
    try:
        text = array.view(pa.string())
        text.validate(full=True)
    except pa.ArrowInvalid:
        values = [_decoded(value) for value in array.view(pa.binary()).to_pylist()]
        text = pa.array(values, type=pa.string())
        bad = _numpy(array.is_valid()) & _numpy(text.is_null())
    empty = pc.equal(text, "")
    if pc.any(empty).as_py():
        text = pc.if_else(empty, pa.scalar(None, pa.string()), text)
    return text, bad


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _check_integers(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    if pa.types.is_integer(array.type):
        integers = array.cast(pa.int64(), safe=False)
        # Only one of uint64 can be beyond int64, and is negative there.
        wrapped = pa.types.is_uint64(array.type)
        return integers, _true(pc.less(integers, 0)) if wrapped else _none(array)
    if pa.types.is_boolean(array.type):
        return array.cast(pa.int64()), _none(array)
    if pa.types.is_decimal(array.type):
        return _check_decimals(array)
    if not pa.types.is_floating(array.type):
        return _wrong_type(array, pa.int64())
    values = _floats(array)
    with np.errstate(invalid="ignore"):
        good = (np.abs(values) <= _EXACT_INT) & (np.trunc(values) == values)
    valid = _numpy(array.is_valid())
    integers = np.where(good, values, 0).astype(np.int64)
    return pa.array(integers, mask=~valid), valid & ~good


def _check_decimals(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    integers = array.cast(pa.int64(), safe=False)
    # Beyond int64 the cast drops high bits: off by 2**64 at least, which no rounding is.
    kept = np.abs(_floats(integers) - _floats(array)) < 2.0**63
    good = _true(pc.equal(pc.trunc(array), array)) & kept
    return integers, _numpy(array.is_valid()) & ~good


def _check_numbers(field: Field, array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    binary = field.kind == "binary"
    if binary and pa.types.is_boolean(array.type):
        return array.cast(pa.uint8()).cast(pa.float32()), _none(array)
    is_number = (
        pa.types.is_floating(array.type)
        or pa.types.is_integer(array.type)
        or pa.types.is_decimal(array.type)
    )
    if not is_number:
        return _wrong_type(array, pa.float32())
    values = _floats(array)
    good = (values == 0) | (values == 1) if binary else np.abs(values) <= _FLOAT32_MAX
    if field.minimum is not None:
        good &= values >= field.minimum
    if field.maximum is not None:
        good &= values <= field.maximum
    valid = _numpy(array.is_valid())
    floats = np.where(good, values, 0).astype(np.float32)
    return pa.array(floats, mask=None if valid.all() else ~valid), valid & ~good


def _floats(array: pa.Array) -> np.ndarray:
    if not pa.types.is_float64(array.type):
        array = array.cast(pa.float64(), safe=False)
    return pc.fill_null(array, 0.0).to_numpy(zero_copy_only=False)


def _wrong_type(array: pa.Array, expected: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    return pa.nulls(len(array), expected), _numpy(array.is_valid())


def _none(array: pa.Array) -> np.ndarray:
    return np.zeros(len(array), dtype=bool)


def _true(array: pa.BooleanArray) -> np.ndarray:
    return _numpy(pc.fill_null(array, False))


def _numpy(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)
