"""Which fields are labels, by what was said of them, their names and their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from components.daily_example_gen.fields import Field
from pipeline.onboarding import sizes
from pipeline.onboarding.columns import Column
from pipeline.onboarding.guesses import STAND_IN, Role
from pipeline.onboarding.names import WORDS, is_time, sound_of, words

_AFTER = "'{}' sounds like what is known only after the impression"


def label_role(
    field: Field, column: Column, labels: Sequence[str], text: str, is_kept: Callable[[], bool]
) -> tuple[Role | None, str]:
    """The role of what is a label or sounds like one, and why; none for a feature.

    Args:
        field: the field.
        column: its values.
        labels: the fields that are labels, if they are known.
        text: what `columns.numbers_as_text` says of it.
        is_kept: whether an id keeps the field's value from day to day.
    """
    told, sound = field.name in labels, sound_of(field.name)
    is_flag = field.kind == "binary" or (
        field.kind == "int" and not field.multivalued and _flags(column)
    )
    is_number = field.kind in ("int", "number") and not field.multivalued
    if not told:
        if not sound or not (is_flag or is_number or column.distinct <= 2 or text):
            after = _AFTER.format(sound) + ": leave it out, unless it tells of those before"
            return None, after if sound and field.multivalued else ""
        if not field.multivalued and is_kept():
            return None, f"'{sound}' sounds like a label, but ids keep its value from day to day"
        after = _AFTER.format(sound)
        if labels:
            return Role.UNUSED, f"{after}, and it is not a label given by --label"
    because = "by --label" if told else f"guessed by '{sound}' in its name"
    if not is_flag and not is_number:
        what = "a list: log an event for each impression"
        if not field.multivalued:
            what = f"text such as {column.top!r}"
        return Role.UNUSED, f"{because}, but a label is 0, 1 or a number, not {what}"
    if column.distinct < 2:
        what = f"{because}, but each label is {column.quantile(0):g}"
        return Role.UNUSED, what + ("; log 0 for the other events" if column.top else "")
    if is_time(words(field.name), column):
        return Role.UNUSED, f"{because}, but it holds times: log 0 or 1, or how long it took"
    if is_flag:
        because += f", {column.numbers.mean():.2%} of the events are 1"
        if column.rarer * column.rows < sizes.MIN_POSITIVES:
            return Role.UNUSED, f"{because}: too few to learn and to judge"
        return Role.BINARY, because
    if column.distinct == 2:
        low, high = column.quantile(0), column.quantile(1)
        return Role.UNUSED, f"{because}, but it is {low:g} or {high:g}: log 0 or 1"
    if not told and sound not in WORDS["measures"]:
        return Role.UNUSED, f"{after}: is it a label, for --label, or a feature, to be added?"
    most = column.top_count / column.values
    if not told and column.stand_in is not None:
        return Role.UNUSED, f"{because}, but {STAND_IN.format(column.stand_in)}"
    if most > 0.5:
        because += f", but {most:.1%} of the values are {column.top:g}: an act of its own?"
        return (Role.REGRESSION if told else Role.UNUSED), because
    return Role.REGRESSION, because


def _flags(column: Column) -> bool:
    return column.distinct <= 2 and bool(np.isin(column.numbers, (0.0, 1.0)).all())
