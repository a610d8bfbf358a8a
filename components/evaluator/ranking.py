"""Areas under curves of scores, from mergeable counts, and what each block of events adds to them.

Every event is in one of `BLOCKS` blocks. An area is returned as an estimate, see
`components.evaluator.estimates`: the value of all events, then that without each block.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from components.evaluator.estimates import BLOCKS

Floats = npt.NDArray[np.floating]

MAX_CELLS = 1 << 16
"""Cells that a `Ranking` keeps: 1 MB."""

_SCORE = BLOCKS.bit_length()
"""Bits of a cell below its score: the block's and the class's."""


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How much weight each score was given, by block and class of the events: a cell.

    Exact as long as there are at most `MAX_CELLS` cells. With more, low bits of the scores
    are dropped, as many as it takes, so that scores close to each other become one; an AUC is
    then off by at most half the share of pairs (a positive, a negative) that have one score.

    Attributes:
        cells: score, block and class (1 for positives) in one number, ascending. The scores
            are bits of float32 without the dropped ones: those of numbers from 0 up are in
            their order. [cells]
        weights: of each cell, [cells].
        dropped: number of low bits dropped.
    """

    cells: npt.NDArray[np.uint64]
    weights: npt.NDArray[np.float64]
    dropped: int = 0

    def auc(self) -> Floats:
        """Area under the ROC curve, equal scores counted half; NaN where a class is absent.

        The values without a block are first-order ones, so that the error that follows is
        DeLong's with whole blocks as clusters (Obuchowski 1997, Biometrics 53).

        Returns:
            An estimate, [1 + BLOCKS].
        """
        negatives, positives, level = self._levels()
        all_negatives, all_positives = negatives.sum(), positives.sum()
        if not all_negatives * all_positives:
            return np.full(1 + BLOCKS, math.nan)
        below = (np.cumsum(negatives) - 0.5 * negatives) / all_negatives
        above = 1.0 - (np.cumsum(positives) - 0.5 * positives) / all_positives
        area = positives @ below / all_positives
        return self._without_blocks(
            area,
            (above - area)[level] / all_negatives,
            (below - area)[level] / all_positives,
        )

    def pr_auc(self) -> Floats:
        """Area under the curve of precision over recall; NaN where a class is absent.

        Between two scores the curve is interpolated as TFMA's `AUCPrecisionRecall` and Keras do
        (Davis and Goadrich 2006). The values without a block are first-order ones.

        Returns:
            An estimate, [1 + BLOCKS].
        """
        negatives, positives, level = self._levels()
        if not negatives.sum() * positives.sum():
            return np.full(1 + BLOCKS, math.nan)
        total = positives.sum()
        # At each level, all with that score or a higher one.
        hits = np.cumsum(positives[::-1])[::-1]
        found = hits + np.cumsum(negatives[::-1])[::-1]
        hits_above, found_above = hits - positives, found - positives - negatives
        slope = positives / (positives + negatives)
        some_above = found_above > 0
        logs = np.log(found / np.where(some_above, found_above, found))
        area = np.sum(slope * (positives + (hits_above - slope * found_above) * logs)) / total
        precision = hits / found
        average = np.sum(positives * precision) / total
        # A weight more at a level changes the precision there and at all levels below.
        positive = np.cumsum(positives * (found - hits) / found**2) / total
        negative = np.cumsum(positives * hits / found**2) / total
        return self._without_blocks(
            area,
            -negative[level],
            ((precision - average) / total + positive)[level],
        )

    def _levels(self) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
        """Weights of negatives and positives at each score, and the number of each cell's."""
        scores = self.cells >> np.uint64(_SCORE)
        level = np.cumsum(np.diff(scores, prepend=scores[:1]) != 0)
        of_positives = self.weights * self._positive
        number = int(level[-1]) + 1 if len(level) else 0
        positives = np.bincount(level, of_positives, minlength=number)
        negatives = np.bincount(level, self.weights - of_positives, minlength=number)
        return negatives.astype(np.float64), positives.astype(np.float64), level

    @property
    def _positive(self) -> npt.NDArray[np.bool_]:
        return (self.cells & np.uint64(1)).astype(bool)

    def _without_blocks(self, value: float, negative: Floats, positive: Floats) -> Floats:
        """Takes away from a value what the cells of each block add, by weight and class."""
        adds = self.weights * np.where(self._positive, positive, negative)
        block = (self.cells >> np.uint64(1)).astype(np.int64) & (BLOCKS - 1)
        return np.concatenate([[value], value - np.bincount(block, adds, minlength=BLOCKS)])


def rankings_by_group(
    labels: Floats,
    scores: Floats,
    weights: Floats,
    blocks: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
    number: int,
) -> list[Ranking]:
    """Makes the ranking of each group.

    Args:
        labels: 0 or 1, [events].
        scores: from 0 up, [events].
        weights: [events].
        blocks: the block of each event, 0 to `BLOCKS` - 1, [events].
        groups: the group of each event, 0 to `number` - 1, [events].
        number: number of groups.

    Returns:
        The ranking of each group.
    """
    # Group, score, block and class in one number: one sort does for all groups.
    bits = np.abs(np.asarray(scores, np.float32)).view(np.uint32).astype(np.uint64)
    shift = np.uint64(_SCORE)
    low = (blocks.astype(np.uint64) << np.uint64(1)) | (np.asarray(labels) > 0)
    top = np.uint64(32) + shift
    keys, summed = _sum_equal((groups.astype(np.uint64) << top) | (bits << shift) | low, weights)
    cuts = np.searchsorted(keys >> top, np.arange(number + 1))
    mask = (np.uint64(1) << top) - np.uint64(1)
    return [
        _limited(Ranking(keys[start:end] & mask, summed[start:end]))
        for start, end in itertools.pairwise(cuts)
    ]


def merge_rankings(rankings: Sequence[Ranking]) -> Ranking:
    """Makes the ranking of all events of several."""
    dropped = max(ranking.dropped for ranking in rankings)
    cells, weights = _sum_equal(
        np.concatenate([_drop(r.cells, dropped - r.dropped) for r in rankings]),
        np.concatenate([ranking.weights for ranking in rankings]),
    )
    return _limited(Ranking(cells, weights, dropped))


def _limited(ranking: Ranking) -> Ranking:
    """Drops the fewest bits that leave at most `MAX_CELLS`."""
    if len(ranking.cells) <= MAX_CELLS:
        return ranking
    # Block and class above the score: what becomes one cell is now side by side.
    low = ranking.cells & np.uint64((1 << _SCORE) - 1)
    cells = np.sort((low << np.uint64(32)) | (ranking.cells >> np.uint64(_SCORE)))
    # Two cells become one when as many bits are dropped as the bit length of their difference.
    _, bits_apart = np.frexp((cells[1:] ^ cells[:-1]).astype(np.float64))
    left = len(cells) - np.cumsum(np.bincount(bits_apart, minlength=33))
    bits = int(np.argmax(left <= MAX_CELLS))
    cells, weights = _sum_equal(_drop(ranking.cells, bits), ranking.weights)
    return Ranking(cells, weights, ranking.dropped + bits)


def _drop(cells: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.uint64]:
    """Drops low bits of the cells' scores."""
    low = np.uint64((1 << _SCORE) - 1)
    score = cells >> np.uint64(_SCORE + bits)
    return (score << np.uint64(_SCORE)) | (cells & low)


def _sum_equal(
    keys: npt.NDArray[np.uint64], weights: Floats
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float64]]:
    """Sums the weights, [keys], of equal keys; returns the keys in ascending order."""
    unique, inverse = np.unique(keys, return_inverse=True)
    return unique, np.bincount(inverse, weights, minlength=len(unique)).astype(np.float64)
