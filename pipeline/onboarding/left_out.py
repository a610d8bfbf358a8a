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
    """Leaves out single-valued features that tell a label all alone."""
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
                area = columns.tells(table[guess.field.name], labels, guess.role is Role.DENSE)
                why = f"tells {name} on its own (AUC {area:.3f})"
                if columns.comes_with(table[guess.field.name], labels):
                    why = f"has a value of its own only where {where}"
                elif area <= sizes.TOO_GOOD:
                    continue
                why += ": known only after the impression?"
                guess = dataclasses.replace(guess, role=Role.UNUSED, why=why)
                break
        kept.append(guess)
    return kept


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
