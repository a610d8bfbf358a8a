"""Which ids are worth a history: those whose past tells what their next events are like."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.onboarding.roles import Guess, Role

_MOST = 6
_LARGE = 5
_MANY = 50
_REPEATS = 1.5
_EVENTS = 50_000
"""Of the sample; more take longer and tell the same."""
_STRENGTH = 10.0
"""Events after which an id's own mean counts as much as that of all."""
_LEAST = 0.002
"""Share of a label's variance below which an id tells nothing, in the mean of the labels."""

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class _Label:
    """A label, learnt from one half of the sample and told on the other.

    Attributes:
        unexplained: what is left of it, NaN where there is none, [events].
        learnt: the events that means are taken of, bool [events].
        squares: sum of squares of the others, at first.
    """

    unexplained: Floats
    learnt: npt.NDArray[np.bool_]
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
    day to day: if few ids tell something, the largest of those that come back join them.

    Args:
        table: checked events.
        guesses: what its fields are for.

    Returns:
        Categorical features; those that tell something come first, the most telling before.
    """
    candidates = {
        guess.field.name: guess
        for guess in guesses
        if guess.role is Role.CATEGORICAL
        and not guess.field.multivalued
        and guess.column is not None
        and guess.column.distinct > 2
        and guess.column.repeats >= _REPEATS
    }
    table = table.take(np.arange(0, len(table), -(-len(table) // _EVENTS)))
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
        labels = [
            dataclasses.replace(label, unexplained=label.unexplained - predicted)
            for label, (_, predicted) in zip(labels, told[best], strict=True)
        ]
    distinct = {name: int(numbers.max()) + 1 for name, numbers in codes.items()}
    large = [name for name in candidates if name not in chosen and distinct[name] >= _MANY]
    large.sort(key=lambda name: -distinct[name])
    chosen += large[: max(0, _LARGE - len(chosen))]
    return [candidates[name] for name in chosen]


def _labels(table: pa.Table, guesses: Sequence[Guess]) -> Iterator[_Label]:
    for guess in guesses:
        if guess.role not in (Role.BINARY, Role.REGRESSION):
            continue
        label = table[guess.field.name].to_numpy().astype(np.float64)
        if guess.role is Role.REGRESSION:
            # Or single events in a heavy tail would say which id tells most.
            label = np.clip(label, *np.nanquantile(label, (0.01, 0.99)))
        label = label - np.nanmean(label)
        even = np.arange(len(label)) % 2 == 0
        for learnt in (even, ~even):
            squares = float(np.nansum(np.square(label[~learnt])))
            if squares > 0.0:
                yield _Label(label, learnt, squares)


def _codes(column: pa.ChunkedArray) -> Codes:
    """A number for each value, from 0 on, [events]; events without a value share one."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
