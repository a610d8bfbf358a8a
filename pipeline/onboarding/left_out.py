"""Features left out for what their values tell: a label, nothing that lasts, another id."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.onboarding import columns, sizes
from pipeline.onboarding.guesses import FEW, Guess, Role

_PASSING = (
    "no value comes back on the next day, as of a request, a session or an item of one day: no use "
    "to a model"
)


def without_traces(table: pa.Table, guesses: Sequence[Guess]) -> list[Guess]:
    """Leaves out single-valued features that tell a label all alone.

    What tells how large a label is, that most events have none of, may well be known before, as a
    price is, if it does not tell which events have one.
    """
    flags = {}
    for label in guesses:
        values, name = table[label.field.name], label.field.name
        if label.role is Role.BINARY:
            flags[name, f"{name} is 1"] = values
        elif label.role is Role.REGRESSION:
            flags[name, f"{name} is above its median"] = columns.above_median(values)
    kept = []
    for guess in guesses:
        if guess.role in (Role.CATEGORICAL, Role.DENSE) and not guess.field.multivalued:
            for (name, where), labels in flags.items():
                values, is_number = table[guess.field.name], guess.role is Role.DENSE
                area = columns.tells(values, labels, is_number)
                why = f"tells {name} on its own (AUC {area:.3f})"
                if columns.comes_with(values, labels):
                    why = f"has a value of its own only where {where}"
                elif area <= sizes.TOO_GOOD:
                    continue
                elif _is_there_anyway(values, labels, is_number):
                    remark = f"{why}: fine if it is known before, as a price is"
                    guess = dataclasses.replace(guess, remark=remark)
                    continue
                why += ": known only after the impression?"
                guess = dataclasses.replace(guess, role=Role.UNUSED, why=why)
                break
        kept.append(guess)
    return kept


def _is_there_anyway(values: pa.ChunkedArray, labels: pa.ChunkedArray, is_number: bool) -> bool:
    """Whether most events lack the label, but not the value, and the value does not tell which."""
    labelled = pc.is_valid(labels)
    if pc.mean(labelled).as_py() > 0.5:
        return False
    present = pc.is_valid(values.filter(pc.invert(labelled)))
    told = columns.tells(values, labelled.cast(pa.float32()), is_number)
    return bool(pc.mean(present).as_py() > 0.5 and told <= sizes.TOO_GOOD)


def without_passing_ids(days: Sequence[pa.Table], guesses: Sequence[Guess]) -> list[Guess]:
    """Leaves out ids of which no value comes back on the next day, as those of requests.

    Args:
        days: checked events of whole days, a table a day, neighbours next to each other.
        guesses: what the fields are for.
    """

    def passes(name: str) -> bool:
        values = [day[name].unique() for day in days]
        return not any(
            pc.any(pc.is_in(day, before.drop_null())).as_py()
            for day, before in itertools.pairwise(values)
        )

    left = []
    for guess in guesses:
        large = guess.column is not None and guess.column.distinct > FEW
        single = guess.role is Role.CATEGORICAL and not guess.field.multivalued
        if single and large and len(days) > 1 and passes(guess.field.name):
            guess = dataclasses.replace(guess, role=Role.UNUSED, why=_PASSING, remark="")
        left.append(guess)
    return left


def without_twins(table: pa.Table, guesses: Sequence[Guess]) -> list[Guess]:
    """Leaves out ids that are another's under other names, as an item's title is."""
    kept: list[Guess] = []
    ids: list[Guess] = []
    for guess in guesses:
        field, column = guess.field.name, guess.column
        single = guess.role is Role.CATEGORICAL and not guess.field.multivalued
        if single and column is not None and column.distinct > FEW:
            for other in ids:
                assert other.column is not None
                same = column.distinct == other.column.distinct
                if same and columns.pairs(table, field, other.field.name) == column.distinct:
                    why = f"tells the same as {other.field.name}"
                    guess = dataclasses.replace(guess, role=Role.UNUSED, why=why)
                    break
            else:
                ids.append(guess)
        kept.append(guess)
    return kept
