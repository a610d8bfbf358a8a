"""What the fields of a log are for, guessed by their names and values, each with the reason."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from components.daily_example_gen.fields import Field
from pipeline.onboarding import columns
from pipeline.onboarding.columns import Column
from pipeline.onboarding.guesses import FEW, REPEATS, STAND_IN, Guess, Role
from pipeline.onboarding.kinds import TIME
from pipeline.onboarding.labels import label_role
from pipeline.onboarding.left_out import without_traces, without_twins
from pipeline.onboarding.names import (
    NO_EVENT_ID,
    WORDS,
    counts_today,
    event_id_rank,
    is_code,
    is_place,
    is_time,
    sound_of,
    words,
)

_TODAY = "a count that goes on: does it include what comes of the impression itself?"
_PLACE = (
    "a place in the list? Nobody knows it before the list is sorted: a request sends the same one, "
    "such as the first, for each candidate"
)
_STATE = "is it as of the impression? One that is joined later tells what came of it"
_MOVES = "numbers that move on from day to day, as an age does"
_MOVED = 0.1
"""Share of a day's events beyond the range of the day before, from which on a field moves on."""
_FRESH = (
    "two values, and no id keeps one from day to day: if it tells what came of the impression, "
    "name it by --label or leave it out"
)


def guess_roles(
    events: Sequence[pa.Table],
    fields: Sequence[Field],
    event_id: str | None,
    labels: Sequence[str],
) -> list[Guess]:
    """Guesses what fields are for.

    Args:
        events: checked events, a table a day.
        fields: its columns.
        event_id: the field with the event's id, if it is known.
        labels: the fields that are labels, if they are known.

    Returns:
        A guess a field, in the order of `fields`.
    """
    table = pa.concat_tables(events)
    described = {field.name: columns.describe(table[field.name]) for field in fields}
    texts = {field.name: columns.numbers_as_text(table[field.name]) for field in fields}
    owners = [f.name for f in fields if not texts[f.name] and _is_owner(f, described[f.name])]
    event_id = event_id or _event_id(events, fields, described)
    guesses = []
    for field in fields:
        column, text = described[field.name], texts[field.name]
        if field.name == event_id:
            guesses.append(Guess(field, Role.EVENT_ID, "unique to each event", column))
            continue

        def is_kept(name: str = field.name) -> bool:
            return any(columns.kept_by(owner, name, events) for owner in owners if owner != name)

        role, why = label_role(field, column, labels, text, is_kept)
        remark = ""
        if role is None:
            role, why, remark = *_feature_role(field, column), why
            if role is Role.CATEGORICAL and _moves_on(events, field, column):
                role, why = Role.DENSE, _MOVES
            if _is_time_of_event(events, field.name):
                role, why = Role.UNUSED, TIME
            elif column.present and not columns.describe(events[0][field.name]).present:
                role, why = Role.UNUSED, "no event of the newest day has a value"
            elif field.kind in ("int", "number") and counts_today(field.name):
                remark = remark or _TODAY
            elif field.kind in ("int", "number") and is_place(field.name):
                remark = remark or _PLACE
            elif role is Role.DENSE and column.stand_in is not None:
                remark = remark or STAND_IN.format(column.stand_in)
            elif role is Role.CATEGORICAL and WORDS["states"].intersection(words(field.name)):
                remark = remark or _STATE
            elif role is Role.CATEGORICAL:
                remark = remark or _remark(field, column, table[field.name], text)
                flag = column.distinct == 2 and not field.multivalued and len(events) > 1
                if not remark and flag and not is_kept():
                    remark = _FRESH
        guesses.append(Guess(field, role, why, column, remark))
    if not labels:
        guesses = [_act_behind(table, guess, guesses) for guess in guesses]
    return without_twins(table, without_traces(table, guesses))


def _act_behind(table: pa.Table, guess: Guess, others: Sequence[Guess]) -> Guess:
    """A flag as a label, where a measure of what came of the impression comes only with it."""
    column, name = guess.column, guess.field.name
    if guess.remark != _FRESH or guess.field.kind == "string" or column is None:
        return guess
    for other in others:
        is_measure = sound_of(other.field.name) and other.field.kind in ("int", "number")
        if is_measure and columns.comes_with(table[other.field.name], table[name]):
            why = f"{other.field.name} has a value of its own only where it is 1"
            return dataclasses.replace(guess, role=Role.BINARY, why=why, remark="")
    return guess


def _is_owner(field: Field, column: Column) -> bool:
    """Whether it is an id of something that has properties."""
    return (
        _feature_role(field, column)[0] is Role.CATEGORICAL
        and not field.multivalued
        and column.distinct > FEW
        and column.repeats >= REPEATS
        # A value that most events have says that there is none, as of a coupon.
        and 2 * column.top_count <= column.rows
        and not sound_of(field.name)
    )


def _event_id(
    events: Sequence[pa.Table], fields: Sequence[Field], described: Mapping[str, Column]
) -> str | None:
    """The field with a value of its own for each event of a day, by the likeliest name.

    A few events may repeat, but none of a field whose name is not that of an id. A time is not an
    id: two events of a busy day share it.
    """

    def unique(name: str) -> float:
        days = [table[name] for table in events]
        return min(0.0 if day.null_count else len(day.unique()) / len(day) for day in days)

    candidates = [
        field.name
        for field in fields
        if field.kind in ("string", "int")
        and not field.multivalued
        and not is_time(words(field.name), described[field.name])
        and not _is_time_of_event(events, field.name)
    ]
    for name in sorted(candidates, key=event_id_rank):
        if unique(name) >= (0.9 if event_id_rank(name) < NO_EVENT_ID - 1 else 1.0):
            return name
    return None


def _feature_role(field: Field, column: Column) -> tuple[Role, str]:
    said = words(field.name)
    if field.path and not column.present:
        why = "no event has a value here: does a name within an object have a dot? Rename it"
        return Role.UNUSED, why
    if column.present < 0.01 * column.rows:
        return Role.UNUSED, f"only {column.present / column.rows:.2%} of the events have a value"
    if column.constant:
        shown = str(bool(column.top)).lower() if field.kind == "binary" else repr(column.top)
        return Role.UNUSED, f"{shown} in every event that has a value"
    if field.kind == "binary":
        return Role.CATEGORICAL, "true or false, which are 1 and 0"
    if field.kind in ("int", "number") and not field.multivalued and is_time(said, column):
        return Role.UNUSED, TIME
    if field.kind == "number":
        return Role.DENSE, ""
    values = f"about {column.all_distinct:,} values"
    if field.kind == "string" or field.multivalued:
        unique = column.distinct > 0.9 * column.values and column.values > 100
        # Of a part of a large log each user may be there once, but not each request.
        if unique and event_id_rank(field.name) != NO_EVENT_ID - 1:
            values = f"{column.distinct:,} values for {column.values:,} events"
            return Role.UNUSED, f"{values}: text, or an id of each event"
        return Role.CATEGORICAL, values
    if is_code(field.name):
        return Role.CATEGORICAL, values
    if column.distinct <= FEW:
        amounts = "" if column.distinct == 2 else "; if these are amounts, make it dense"
        return Role.CATEGORICAL, values + amounts
    return Role.DENSE, f"{values}; if these are names, categorical with dtype int"


def _remark(field: Field, column: Column, values: pa.ChunkedArray, text: str) -> str:
    """What a person should look at in a category."""
    if text and column.distinct > FEW and not is_code(field.name):
        return text
    if not pa.types.is_string(values.type):
        return ""
    if column.distinct <= FEW:
        acts = [value for value in values.unique().drop_null().to_pylist() if sound_of(value)]
        if len(acts) > 1:
            return (
                f"{' and '.join(map(repr, sorted(acts)[:2]))} sound like what came of the "
                "impression: log each as a label, 0 or 1, and one event for each impression"
            )

    def share(pattern: str) -> float:
        return pc.mean(pc.match_substring_regex(values, pattern)).as_py() or 0.0

    if share(r'^\s*\{\s*"') > 0.5:
        return "objects as text: log what they hold as fields of their own"
    if not text and share(r"^[\[{(]?[^,;\s]+([,;] ?[^,;\s]+)+$") > 0.1:
        return "many of them lists by the look of it: log them as lists, in CSV joined by |"
    return ""


def _moves_on(events: Sequence[pa.Table], field: Field, column: Column) -> bool:
    """Whether whole numbers go beyond those of the day before, day after day: no category lasts."""
    if field.kind != "int" or field.multivalued or is_code(field.name) or column.distinct <= 2:
        return False

    def moved(day: pa.Array, before: pa.Array) -> bool:
        ends = pc.min_max(before)
        beyond = pc.or_(pc.less(day, ends["min"]), pc.greater(day, ends["max"]))
        return (pc.mean(beyond).as_py() or 0.0) > _MOVED

    pairs = list(itertools.pairwise(table[field.name] for table in events))
    return bool(pairs) and all(moved(*pair) for pair in pairs)


def _is_time_of_event(events: Sequence[pa.Table], name: str) -> bool:
    """Text with date and clock, or a date of which a day has two at most."""
    if not pa.types.is_string(events[0][name].type):
        return False
    values = pa.concat_tables(events)[name].drop_null()
    if not len(values):
        return False

    def share(pattern: str) -> float:
        return float(pc.mean(pc.match_substring_regex(values, pattern)).as_py())

    date = r"^(\d{4}[-/.]?\d{2}[-/.]?\d{2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})"
    if share(date + r",?[T ]\d{1,2}:?\d{2}") > 0.9:
        return True
    return share(date + "$") > 0.9 and all(len(day[name].unique()) <= 2 for day in events)


def surfaces(guesses: Iterable[Guess]) -> list[str]:
    """Fields whose values are worth a look of their own: devices, countries, pages."""
    return [
        guess.field.name
        for guess in guesses
        if guess.role is Role.CATEGORICAL
        and not guess.field.multivalued
        and set(words(guess.field.name)) & WORDS["surfaces"]
        and guess.column is not None
        and guess.column.distinct <= 12
    ]
