"""What ids tell of labels: which are worth a history, and which whole numbers are ids."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.onboarding import columns, sizes
from pipeline.onboarding.guesses import FEW, REPEATS, Guess, Role

_MOST = 6
"""Ids that are chosen for what they tell."""
_ENOUGH, _LARGEST = 5, 3
"""The largest join them up to so many in all, and ids of hundreds of values up to so many of them.
"""
_MANY = 50
_EVENTS = 50_000
"""Of the sample; more take longer and tell the same."""
_STRENGTH = 10.0
"""Events after which an id's own mean counts as much as that of all."""
_LEAST = 0.002
"""Share of a label's variance below which an id tells nothing, in the mean of the labels."""
_LEAST_OF_A_CROSS = 0.01
"""The same of two ids together: there are many pairs to choose from, and their tables are large."""
_MOST_CROSSES = 2
_OTHER_PAIRS = 1.1
"""Pairs for a value of an id, from which on the two together are more than the id."""

_TELLING = 2000
"""Labels from which on it is no chance that nothing tells them."""
_UNTOLD = (
    "no feature tells anything of it: a model is not pushed if it explains nothing of a task. "
    "If most values say that there is none, leave those empty"
)

_NEIGHBOURHOODS, _NEIGHBOURS = 32, 4
"""Parts of a field's values, at most, and values in each, at least."""
_OF_ITS_OWN = 0.25
"""What the values of an id tell beyond their neighbours, at least, as a part of what these do."""
_NUMBERED = (
    "whole numbers, taken for ids: each tells more of the labels than its neighbours; if they are "
    "amounts, make it dense"
)

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class _Label:
    """A label, learnt from one part of the sample and told on the other.

    Attributes:
        unexplained: what is left of it, NaN where there is none, [events].
        learnt: the events that means are taken of, bool [events].
        squares: sum of squares of the others, at first.
    """

    unexplained: Floats
    learnt: Mask
    squares: float

    def explained_by(self, codes: Codes) -> tuple[float, Floats]:
        """What an id tells by the smoothed mean of each of its values.

        Args:
            codes: number of each event's value, [events].

        Returns:
            The share of the variance that it explains of events it has not learnt from, below 0
            where it misleads; and what it predicts, [events].
        """
        used = self.learnt & np.isfinite(self.unexplained)
        sums = np.bincount(codes[used], self.unexplained[used], codes.max() + 1)
        counts = np.bincount(codes[used], minlength=codes.max() + 1)
        predicted = (sums / (counts + _STRENGTH))[codes]
        before, after = (
            np.nansum(np.square(left[~self.learnt]))
            for left in (self.unexplained, self.unexplained - predicted)
        )
        return float((before - after) / self.squares), predicted


def worth_a_history(table: pa.Table, guesses: Sequence[Guess]) -> list[Guess]:
    """Chooses the ids that get a history feature.

    One after another it takes the id that explains most of what those before it leave
    unexplained. A sample of few days shows little of an id of many values, whose past grows from
    day to day: the largest of those that come back join them.

    Args:
        table: checked events.
        guesses: what its fields are for.

    Returns:
        Categorical features; those that tell something come first, the most telling before.
    """
    candidates = _candidates(table, guesses)
    table = _thinned(table)
    codes = {name: _codes(table[name]) for name in candidates}
    labels = list(_labels(table, guesses))
    chosen: list[str] = []
    while len(chosen) < min(_MOST, len(candidates)):
        told = {
            name: [label.explained_by(codes[name]) for label in labels]
            for name in candidates.keys() - chosen
        }
        shares = {name: sum(share for share, _ in parts) for name, parts in told.items()}
        best = max(sorted(shares), key=lambda name: shares[name])
        if not labels or shares[best] < _LEAST * len(labels):
            break
        chosen.append(best)
        labels = _without(labels, [predicted for _, predicted in told[best]])
    distinct = {name: int(numbers.max()) + 1 for name, numbers in codes.items()}
    others = [name for name in candidates if name not in chosen and distinct[name] >= _MANY]
    others.sort(key=lambda name: -distinct[name])
    ids, more = (sum(distinct[n] >= sizes.ID_VALUES for n in some) for some in (chosen, others))
    chosen += others[: max(_ENOUGH - len(chosen), min(_LARGEST - ids, more), 0)]
    return [candidates[name] for name in chosen]


def worth_a_cross(
    days: Sequence[pa.Table], guesses: Sequence[Guess], chosen: Sequence[Guess]
) -> list[tuple[Guess, Guess]]:
    """Chooses the pairs of ids that get a history feature: a user's past with an item.

    What the days before tell of the newest day counts, as in a history: pairs are small enough to
    share what happened to their day, such as the weather.

    Args:
        days: checked events, a table a day, the newest first.
        guesses: what its fields are for.
        chosen: ids that have a history; a pair must tell more than they do.

    Returns:
        Pairs of categorical features, the most telling one first.
    """
    table = pa.concat_tables(days)
    candidates = _candidates(table, guesses)
    before = _sampled(table) >= len(days[0])
    table = _thinned(table)
    codes = {name: _codes(table[name]) for name in candidates}
    labels = list(_labels(table, guesses, [before] if len(days) > 1 else None))
    for guess in chosen:
        labels = _without(
            labels, [label.explained_by(codes[guess.field.name])[1] for label in labels]
        )
    crosses = {}
    for first, second in itertools.combinations(candidates, 2):
        both = codes[first] * (codes[second].max() + 1) + codes[second]
        pairs, numbers = np.unique(both, return_inverse=True)
        alone = max(codes[first].max(), codes[second].max()) + 1
        # An item and its topic are the item.
        if len(numbers) >= REPEATS * len(pairs) and len(pairs) > _OTHER_PAIRS * alone:
            crosses[first, second] = numbers
    found: list[tuple[Guess, Guess]] = []
    while labels and crosses and len(found) < _MOST_CROSSES:
        told = {
            pair: [label.explained_by(numbers) for label in labels]
            for pair, numbers in crosses.items()
        }
        best = max(told, key=lambda pair: sum(share for share, _ in told[pair]))
        if sum(share for share, _ in told[best]) < _LEAST_OF_A_CROSS * len(labels):
            break
        found.append((candidates[best[0]], candidates[best[1]]))
        labels = _without(labels, [predicted for _, predicted in told[best]])
        del crosses[best]
    return found


def with_numbered_ids(days: Sequence[pa.Table], guesses: Sequence[Guess]) -> list[Guess]:
    """Takes whole numbers for ids where a value tells more of the labels than its neighbours do.

    An amount that each item has tells as much, since it stands for the item: what an id keeps from
    day to day stays an amount. So the field of most values comes first.

    Args:
        days: checked events, a table a day, neighbours next to each other.
        guesses: what the fields are for.
    """
    table = _thinned(pa.concat_tables(days))
    labels = list(_labels(table, guesses))
    if not labels:
        return list(guesses)
    found = {guess.field.name: guess for guess in guesses}
    owners = [
        guess.field.name
        for guess in guesses
        if guess.role is Role.CATEGORICAL and not guess.field.multivalued and _comes_back(guess)
    ]
    numbers = [
        guess
        for guess in guesses
        if guess.role is Role.DENSE and guess.field.kind == "int" and _comes_back(guess)
    ]
    for guess in sorted(numbers, key=lambda guess: -_distinct(guess)):
        name = guess.field.name
        codes = _codes(table[name])
        ranks = np.argsort(np.argsort(table[name].to_numpy(), kind="stable"), kind="stable")
        parts = min(_NEIGHBOURHOODS, _distinct(guess) // _NEIGHBOURS)
        near = [label.explained_by(ranks * parts // len(ranks)) for label in labels]
        by_neighbours = sum(share for share, _ in near)
        left = _without(labels, [predicted for _, predicted in near])
        by_value = sum(label.explained_by(codes)[0] for label in left)
        if by_value < max(_LEAST * len(labels), _OF_ITS_OWN * by_neighbours):
            continue
        if any(columns.kept_by(owner, name, days) for owner in owners):
            continue
        owners.append(name)
        assert guess.column is not None
        why = f"about {guess.column.all_distinct:,} values"
        found[name] = dataclasses.replace(guess, role=Role.CATEGORICAL, why=why, remark=_NUMBERED)
    return list(found.values())


def without_untold(table: pa.Table, guesses: Sequence[Guess], labels: Sequence[str]) -> list[Guess]:
    """Leaves out measures of which no feature tells anything: no model of them would be pushed.

    Args:
        table: checked events.
        guesses: what its fields are for.
        labels: the fields that are labels by what a person said; they stay.
    """
    thinned = _thinned(table)
    features = [
        _parts(thinned[guess.field.name], guess)
        for guess in guesses
        if guess.role in (Role.CATEGORICAL, Role.DENSE)
    ]

    def is_told(guess: Guess) -> bool:
        halves = list(_labels(thinned, [guess]))
        shares = (sum(half.explained_by(codes)[0] for half in halves) for codes in features)
        # Without a half, all values but the few in the tails are the same.
        return bool(halves) and any(share >= _LEAST * len(halves) for share in shares)

    found = []
    for guess in guesses:
        known = len(thinned) - thinned[guess.field.name].null_count
        if guess.role is Role.REGRESSION and known >= _TELLING and not is_told(guess):
            guess = dataclasses.replace(guess, why=f"{guess.why}; {_UNTOLD}")
            if guess.field.source not in labels:
                guess = dataclasses.replace(guess, role=Role.UNUSED)
        found.append(guess)
    return found


def _parts(column: pa.ChunkedArray, guess: Guess) -> Codes:
    """Numbers of a feature's values: near amounts share one, and a list has that of its first."""
    if guess.field.multivalued:
        return _codes(
            pa.chunked_array([[value[0] if value else None for value in column.to_pylist()]])
        )
    if guess.role is Role.CATEGORICAL:
        return _codes(column)
    values = column.to_numpy().astype(np.float64)
    ends = np.nanquantile(values, np.linspace(0, 1, _NEIGHBOURHOODS + 1)[1:-1])
    # What lacks the number sorts behind all others.
    return np.searchsorted(ends, values).astype(np.int64)


def _candidates(table: pa.Table, guesses: Sequence[Guess]) -> dict[str, Guess]:
    """The categories of which a history may tell something."""
    return {
        guess.field.name: guess
        for guess in guesses
        if guess.role is Role.CATEGORICAL
        and not guess.field.multivalued
        and guess.column is not None
        and guess.column.distinct > 2
        and guess.column.repeats >= REPEATS
        and not columns.numbers_as_text(table[guess.field.name])
    }


def _without(labels: Sequence[_Label], predicted: Sequence[Floats]) -> list[_Label]:
    """The labels with what is predicted of each taken away."""
    return [
        dataclasses.replace(label, unexplained=label.unexplained - part)
        for label, part in zip(labels, predicted, strict=True)
    ]


def _comes_back(guess: Guess) -> bool:
    return _distinct(guess) > FEW and guess.column is not None and guess.column.repeats >= REPEATS


def _distinct(guess: Guess) -> int:
    return guess.column.distinct if guess.column else 0


def _thinned(table: pa.Table) -> pa.Table:
    return table.take(_sampled(table))


def _sampled(table: pa.Table) -> Codes:
    """The rows that are looked at."""
    return np.arange(0, len(table), -(-len(table) // _EVENTS))


def _labels(
    table: pa.Table, guesses: Sequence[Guess], parts: Sequence[Mask] | None = None
) -> Iterator[_Label]:
    """Labels, each learnt from one part and told on the rest; by default from a random half."""
    for guess in guesses:
        if guess.role not in (Role.BINARY, Role.REGRESSION):
            continue
        label = table[guess.field.name].to_numpy().astype(np.float64)
        if guess.role is Role.REGRESSION:
            # Or single events in a heavy tail would say which id tells most.
            label = np.clip(label, *np.nanquantile(label, (0.01, 0.99)))
        label = label - np.nanmean(label)
        half = columns.half(len(label))
        for learnt in parts or (half, ~half):
            squares = float(np.nansum(np.square(label[~learnt])))
            if squares > 0.0:
                yield _Label(label, learnt, squares)


def _codes(column: pa.ChunkedArray) -> Codes:
    """A number for each value, from 0 on, [events]; events without a value share one."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
