"""Metrics within groups of events, such as a user's: all of a group's events are needed at once.

Batches are dealt out by block (`deal`), and a block's events summed up (`sum_groups`), so that
memory holds the labels and predictions of one block of `estimates.BLOCKS` at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from components.evaluator.estimates import BLOCKS
from components.evaluator.sums import Floats, Integers, Sums

LAGS = 16
"""Pairs of a regression's events are counted within so many places of a group's random order."""


@dataclasses.dataclass(frozen=True)
class GroupedEvents:
    """Events that have a group, whole groups or parts of them.

    Attributes:
        groups: the group of each event, [events].
        events: a hash of each event, which orders them at random, [events].
        slices: by sliced feature the value of each event, None where it has none, [events].
        labels: by output, NaN where there is none, float32 [events].
        predictions: by model and output, float32 [events].
    """

    groups: Integers
    events: Integers
    slices: Mapping[str, npt.NDArray[np.object_]]
    labels: Mapping[str, Floats]
    predictions: Mapping[str, Mapping[str, Floats]]


def deal(events: GroupedEvents) -> Iterator[tuple[int, GroupedEvents]]:
    """Deals out events by the block of their group."""
    blocks = events.groups % BLOCKS
    order = np.argsort(blocks, kind="stable")
    cuts = np.searchsorted(blocks[order], np.arange(BLOCKS + 1))
    for block in range(BLOCKS):
        rows = order[cuts[block] : cuts[block + 1]]
        if len(rows):
            yield block, _mapped(lambda values, rows=rows: values[rows], events)


def sum_groups(
    block: int, parts: Iterable[GroupedEvents], kinds: Mapping[str, str], first: int
) -> Iterator[tuple[tuple[tuple[str, Any], ...], dict[str, dict[str, Sums]]]]:
    """Sums up what the groups of a block say.

    Args:
        block: the block.
        parts: its events; each group's are all here.
        kinds: kind by output.
        first: number of a group's first events that an NDCG looks at.

    Yields:
        The key of a slice, and sums by model and output.
    """
    events = _mapped(lambda *values: np.concatenate(values), *parts)
    # The order in which events were read must not decide between equal scores.
    order = np.lexsort((events.events, events.groups))
    events = _mapped(lambda values: values[order], events)
    slicings: dict[str, npt.NDArray[np.object_]] = {
        "": np.full(len(events.groups), "", object),
        **events.slices,
    }
    for feature, values in slicings.items():
        present = np.array([value is not None for value in values], bool)
        names, codes = np.unique(values[present], return_inverse=True)
        if not len(names):
            continue
        pairs = np.stack([codes, events.groups[present]], axis=1)
        _, start, group = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        group, slice_of = group.reshape(-1), codes[start]
        models: list[dict[str, dict[str, Sums]]] = [{} for _ in names]
        for model, outputs in events.predictions.items():
            for output, scores in outputs.items():
                labels = events.labels[output][present]
                known = ~np.isnan(labels)
                found = _by_group(
                    kinds[output],
                    labels[known].astype(np.float64),
                    scores[present][known],
                    group[known],
                    len(start),
                    first,
                )
                columns: dict[str, Floats] = {}
                for name, (value, weight) in found.items():
                    columns[name] = value * weight
                    columns[f"{name}_weight"] = weight
                of_slices = {
                    name: np.bincount(slice_of, column, minlength=len(names))
                    for name, column in columns.items()
                }
                for code in range(len(names)):
                    models[code].setdefault(model, {})[output] = Sums(
                        {name: _in_block(block, sums[code]) for name, sums in of_slices.items()}
                    )
        for code, name in enumerate(names):
            yield ((feature, name),) if feature else (), models[code]


def _by_group(
    kind: str, labels: Floats, scores: Floats, group: Integers, number: int, first: int
) -> dict[str, tuple[Floats, Floats]]:
    """Value and weight of each group by metric; a weight of 0 where a group has no value."""
    events = np.bincount(group, minlength=number).astype(np.float64)
    found = {"ndcg": _ndcg(labels, scores, group, number, first)}
    if kind == "binary":
        right, pairs = _pairs_of_classes(labels, scores, group, number)
        name = "gauc"
    else:
        right, pairs = _pairs_nearby(labels, scores, group, number)
        name = "pairwise_accuracy"
    counted = pairs > 0
    found[name] = right / np.where(counted, pairs, 1.0), np.where(counted, events, 0.0)
    return found


def _ndcg(
    labels: Floats, scores: Floats, group: Integers, number: int, first: int
) -> tuple[Floats, Floats]:
    """The discounted gain over that of the best order; groups without any gain have none."""
    gains = np.maximum(labels, 0.0)

    def discounted(by: Floats) -> Floats:
        order = _sorted(group, -by)
        place = np.arange(len(order)) - _starts(group[order])
        counted = place < first
        at = order[counted]
        discounts = np.log2(place[counted] + 2.0)
        return np.bincount(group[at], gains[at] / discounts, minlength=number).astype(np.float64)

    best = discounted(gains)
    return discounted(scores) / np.where(best > 0, best, 1.0), (best > 0).astype(np.float64)


def _pairs_of_classes(
    labels: Floats, scores: Floats, group: Integers, number: int
) -> tuple[Floats, Floats]:
    """Of each group's pairs (a positive, a negative), how many are in order, and their number."""
    order = _sorted(group, scores)
    positive, of_group = labels[order] > 0, group[order]
    negatives = np.concatenate([[0.0], np.cumsum(~positive)])
    # Runs of equal scores in a group.
    new = np.diff(scores[order], prepend=np.nan) != 0
    new |= np.diff(of_group, prepend=-1) != 0
    run = np.cumsum(new) - 1
    begin = np.flatnonzero(new)
    end = np.append(begin[1:], len(order))
    below = negatives[begin][run] - negatives[_starts(of_group)]
    tied = (negatives[end] - negatives[begin])[run]
    right = np.bincount(of_group, positive * (below + 0.5 * tied), minlength=number)
    positives = np.bincount(of_group, positive, minlength=number).astype(np.float64)
    return right.astype(np.float64), positives * (
        np.bincount(of_group, minlength=number) - positives
    )


def _pairs_nearby(
    labels: Floats, scores: Floats, group: Integers, number: int
) -> tuple[Floats, Floats]:
    """Of each group's pairs with unequal labels, how many are in order, and their number."""
    order = np.argsort(group, kind="stable")
    labels, scores, group = labels[order], scores[order], group[order]
    right, pairs = np.zeros(number), np.zeros(number)
    for lag in range(1, LAGS + 1):
        same = group[lag:] == group[:-lag]
        if not same.any():
            break
        by_label = np.sign(labels[lag:] - labels[:-lag])
        by_score = np.sign(scores[lag:] - scores[:-lag])
        counted = (same & (by_label != 0)).astype(np.float64)
        agree = 0.5 + 0.5 * by_label * by_score
        right += np.bincount(group[lag:], counted * agree, minlength=number)
        pairs += np.bincount(group[lag:], counted, minlength=number)
    return right, pairs


def _sorted(group: Integers, by: Floats) -> Integers:
    """Order by group, then ascending by a value; equal ones stay as they are."""
    return np.lexsort((by, group))


def _starts(group: Integers) -> Integers:
    """For each of the sorted events, where its group starts."""
    new = np.diff(group, prepend=-1) != 0
    return np.flatnonzero(new)[np.cumsum(new) - 1]


def _in_block(block: int, value: float) -> npt.NDArray[np.float64]:
    result = np.zeros(BLOCKS)
    result[block] = value
    return result


def _mapped(function: Any, *several: GroupedEvents) -> GroupedEvents:
    """Applies a function to the arrays of one or several that have the same names."""
    one = several[0]
    return GroupedEvents(
        function(*(item.groups for item in several)),
        function(*(item.events for item in several)),
        {name: function(*(item.slices[name] for item in several)) for name in one.slices},
        {name: function(*(item.labels[name] for item in several)) for name in one.labels},
        {
            model: {
                name: function(*(item.predictions[model][name] for item in several))
                for name in outputs
            }
            for model, outputs in one.predictions.items()
        },
    )
