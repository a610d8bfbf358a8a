"""Rules of thumb for the numbers of a spec; `docs/event-logs.md` says them in words."""

from __future__ import annotations

TOO_GOOD = 0.95
"""AUC from which on a field that tells a label all alone is taken for a trace of it."""

MIN_POSITIVES = 50
"""Positives, and negatives, in the events read, below which nothing can be learnt or judged."""

_MIN_BUCKETS = 16
_MAX_BUCKETS = 1 << 22


def buckets(values: int) -> int:
    """Rows of the table of a feature with so many values: twice as many, a power of two.

    At that load two in five values share a row with another one, most of them rare.
    """
    return min(max(1 << max(2 * values - 1, 0).bit_length(), _MIN_BUCKETS), _MAX_BUCKETS)


def width(values: int) -> int:
    """Width of an embedding: 2 for a flag, 4 for a category, 8 for hundreds, 16 for ids."""
    return 2 if values <= 4 else 4 if values <= 32 else 8 if values <= 1000 else 16
