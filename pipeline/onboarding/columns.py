"""What a column of sampled events holds, in numbers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.onboarding import sizes

_TRACES = 20
"""Events from which on it is not by chance that a value comes with a label."""
_KEPT = 0.9
"""Share of a field's variance that the day before tells of it, where an id keeps its value."""
_EVENTS = 50_000
_NUMBER = r"^[\p{Sc}%\s]*[+-]?(\d{1,15}|\d{1,3}([,.' ]\d{3})+)([.,:/]\d+)?[\p{Sc}%\s]*$"
_PLAIN = r"^[+-]?(\d+\.?\d*|\.\d+)$"
_NO_VALUE = r"(?i)^(\\n|null|nil|none|nan|#?n/?a|undefined|[-?]+)$"
_CODE = r"^0\d"
_WHOLE = r"^-?\d+$"
_FEW = 5
_MANY = 1000
"""Names beyond which a sample knows too little of each."""
_SCALE = 10
"""Numbers up to which they may be a scale, such as -1, 0 and 1."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of checked events.

    Attributes:
        rows: events.
        present: events with a value.
        values: values; more than `present` where a field holds lists.
        distinct: values that differ.
        once: of these, those seen once.
        twice: those seen twice.
        top: the most frequent value; None without values.
        top_count: how often it is there.
        longest: values of the longest list; 1 where there are none.
        numbers: the values as float64, of a numeric column; else empty.
    """

    rows: int
    present: int
    values: int
    distinct: int
    once: int
    twice: int
    top: object
    top_count: int
    longest: int
    numbers: np.ndarray

    @property
    def constant(self) -> bool:
        """Whether all events with a value have the same one."""
        return self.distinct == 1 and self.longest <= 1

    @property
    def all_distinct(self) -> int:
        """About how many values differ among all events that those read are a sample of.

        Chao's lower bound (Chao 1984, Scandinavian Journal of Statistics): what is seen once
        and twice tells how much is not seen.
        """
        unseen = self.once * (self.once - 1) / (2 * (self.twice + 1))
        return self.distinct + round(unseen)

    @property
    def repeats(self) -> float:
        """Values for each that differs."""
        return self.values / self.distinct if self.distinct else 0.0

    @property
    def rarer(self) -> float:
        """Share of the events that have the rarer one of the labels 0 and 1."""
        ones = float(self.numbers.sum())
        return min(ones, self.present - ones) / self.rows

    @property
    def stand_in(self) -> float | None:
        """The only number below 0 where all others are not: it stands for no value, perhaps."""
        below = np.unique(self.numbers[self.numbers < 0])
        return float(below[0]) if len(below) == 1 and self.distinct > _SCALE else None

    def quantile(self, share: float) -> float:
        """Quantile of the numbers; NaN without any."""
        return float(np.quantile(self.numbers, share)) if self.numbers.size else math.nan


def describe(column: pa.ChunkedArray) -> Column:
    """Counts what is in a column of checked events, a list column by its elements."""
    rows, is_list = len(column), pa.types.is_list(column.type)
    if is_list:
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        present = int(pc.sum(pc.greater(lengths, 0)).as_py() or 0)
        longest = int(pc.max(lengths).as_py() or 0)
        flat = pc.list_flatten(column)
    else:
        present, longest = rows - column.null_count, 1
        flat = column.drop_null()
    counted = pc.value_counts(flat)
    values, counts = counted.field(0), counted.field(1).to_numpy(zero_copy_only=False)
    top = int(counts.argmax()) if counts.size else None
    is_text = pa.types.is_string(flat.type)
    numbers = np.empty(0) if is_text else flat.to_numpy().astype(np.float64)
    return Column(
        rows=rows,
        present=present,
        values=len(flat),
        distinct=len(counts),
        once=int((counts == 1).sum()),
        twice=int((counts == 2).sum()),
        top=None if top is None else values[top].as_py(),
        top_count=0 if top is None else int(counts[top]),
        longest=longest,
        numbers=numbers,
    )


def comes_with(values: pa.ChunkedArray, labels: pa.ChunkedArray) -> bool:
    """Whether a field has a value of its own only where a label is 1.

    A value of its own is one at all, or another than the one that most events have.

    Args:
        values: checked values, not lists.
        labels: 0, 1 or null, as many.
    """
    known = pc.is_valid(labels)
    values, labels = values.filter(known), labels.filter(known)
    column = describe(values)
    own = pc.is_valid(values)
    if column.top_count > 0.5 * column.rows:
        own = pc.fill_null(pc.not_equal(values, pa.scalar(column.top, values.type)), False)
    marked = labels.filter(own)
    if len(marked) < _TRACES or pc.mean(labels).as_py() > 0.5:
        return False
    return bool(pc.mean(marked).as_py() > sizes.TOO_GOOD)


def kept_by(ids: str, name: str, days: Sequence[pa.Table]) -> bool:
    """Whether an id has about the same value of a field from one day to the next.

    A property of an item or a user has; what came of an impression has not. Ids of one day alone,
    such as sessions, tell nothing.

    Args:
        ids: the column of ids.
        name: another column: numbers, or text of two values.
        days: checked events, a table a day, neighbours next to each other.
    """

    def numbers(day: pa.Table) -> pa.Table:
        # PyArrow 10 groups wrongly, or crashes, where columns are cut into different chunks.
        both = day.select([ids, name]).slice(0, _EVENTS).drop_null().combine_chunks()
        values = both[name]
        if pa.types.is_string(values.type):
            values = pc.equal(values, one_of_two)
        return pa.table({"id": both[ids], "value": values.cast(pa.float64())})

    one_of_two = pc.min(days[0][name]) if pa.types.is_string(days[0][name].type) else None
    for day, before in itertools.pairwise(days):
        means = numbers(before).group_by("id").aggregate([("value", "mean")])
        events = numbers(day)
        told = means["value_mean"].take(pc.index_in(events["id"], means["id"]))
        both = pa.table([events["value"], told], ["value", "told"]).drop_null()
        values = both["value"].to_numpy()
        if len(values) >= _TRACES and values.var() > 0.0:
            left = np.square(values - both["told"].to_numpy()).mean()
            return bool(left < (1 - _KEPT) * values.var())
    return False


def pairs(table: pa.Table, first: str, second: str) -> int:
    """How many different pairs of values two columns have."""
    both = [first, second]
    return len(table.select(both).drop_null().combine_chunks().group_by(both).aggregate([]))


def above_median(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers as 1 where they are above the one in the middle, else 0; null where they are."""
    middle = pc.quantile(labels, 0.5, interpolation="lower")[0]
    return pc.greater(labels, middle).cast(pa.float32())


def numbers_as_text(column: pa.ChunkedArray) -> str:
    """What to do about text that is mostly numbers, such as `€ 12.50` or `NULL`; empty if none."""
    if not pa.types.is_string(column.type):
        return ""
    values = column.drop_null()
    is_number = pc.match_substring_regex(values, _NUMBER)
    numbers, others = values.filter(is_number), values.filter(pc.invert(is_number)).unique()
    # Whole numbers that are written as text, or begin with zeros, are names.
    codes = pc.match_substring_regex(numbers, _CODE)
    named = pc.all(pc.match_substring_regex(numbers, _WHOLE)) if not len(others) else pc.any(codes)
    absent = pc.sum(pc.match_substring_regex(values, _NO_VALUE)).as_py() or 0
    if 2 * len(numbers) <= len(values) - absent or named.as_py() or len(others) > _FEW:
        return ""
    odd = numbers.filter(pc.invert(pc.match_substring_regex(numbers, _PLAIN)))
    rest = ", ".join(repr(other.as_py()) for other in others)
    if rest and not len(odd):
        return f"numbers, but for {rest}: leave those empty, in JSON null"
    empty = f", and leave {rest} empty, in JSON null" if rest else ""
    shown = (odd if len(odd) else numbers)[0].as_py()
    return f"numbers as text, such as {shown!r}: log the number alone{empty}"


def tells(values: pa.ChunkedArray, labels: pa.ChunkedArray, is_number: bool) -> float:
    """How well a field alone tells a label: an AUC from 0.5 to 1, 0.5 where there is none.

    Args:
        values: checked values, not lists.
        labels: 0, 1 or null, as many.
        is_number: whether they count as amounts; names tell by the rate that each has in one half
            of the events, on the other half.
    """
    both = pa.table([values, labels], ["value", "label"]).drop_null()
    values, labels = both["value"].to_pandas().to_numpy(), both["label"].to_numpy()
    if is_number:
        area = auc(values.astype(np.float64), labels)
        return max(area, 1 - area) if area == area else 0.5
    names, codes = np.unique(values, return_inverse=True)
    if not 0 < len(names) <= _MANY:
        return 0.5
    learnt = half(len(codes))
    seen = np.bincount(codes[learnt], minlength=len(names))
    ones = np.bincount(codes[learnt], weights=labels[learnt], minlength=len(names))
    rates = (ones + labels.mean()) / (seen + 1)
    area = auc(rates[codes[~learnt]], labels[~learnt])
    return area if area == area else 0.5


def half(rows: int) -> np.ndarray:
    """A mask of a random half, bool [rows], the same each time; the rows of a log may alternate."""
    return np.random.default_rng(0).random(rows) < 0.5


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half; NaN where there is one class only.

    Args:
        scores: float [rows].
        labels: 0 or 1 [rows].
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return math.nan
    _, codes, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # The middle of the ranks that a value's ties share.
    ranks = np.cumsum(counts) - (counts - 1) / 2
    area = ranks[codes][labels == 1].sum() - positives * (positives + 1) / 2
    return float(area / (positives * negatives))
