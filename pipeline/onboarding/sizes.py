"""Rules of thumb for the numbers of a spec; `docs/event-logs.md` says them in words."""

from __future__ import annotations

TOO_GOOD = 0.95
"""AUC from which on a field that tells a label all alone is taken for a trace of it."""

MIN_POSITIVES = 50
"""Positives, and negatives, in the events read, below which nothing can be learnt or judged."""

FEW_EVENTS = 1000
"""Events a day below which a model learns little, and a day tells little of it."""

ID_VALUES = 200
"""Values from which on a category is an id: hundreds of users, items, places."""

KNOWN_FROM = 10
"""Mean labels of an id in two weeks, of the rarer kind, from which on its products with others are
learned.
"""

_MIN_BUCKETS = 16
_MAX_BUCKETS = 1 << 22
_ROOM = 32
_ROOMY = 1 << 16
"""Rows up to which a table is given room."""


def buckets(values: int) -> int:
    """Rows of the table of a feature with so many values, a power of two.

    32 times as many up to 65,536 rows, and twice as many beyond. A new id that shares the row of
    one that was trained is taken for that one, and new ids come every day: room costs memory,
    sharing costs quality. With twice as many rows two values in five share one.
    """
    room = max(2 * values, min(_ROOM * values, _ROOMY))
    return min(max(1 << max(room - 1, 0).bit_length(), _MIN_BUCKETS), _MAX_BUCKETS)


def width(values: int, day_events: float) -> int:
    """Width of an embedding: 16, of a flag as of an id, where days are not tiny.

    A narrow row learns slowly what it has in common with others: Adagrad moves each of its numbers
    by about the rate. Few events are overfitted by wide ones (docs/results/defaults.md).
    """
    if day_events >= FEW_EVENTS:
        return 16
    return 2 if values <= 4 else 4 if values <= 32 else 8 if values <= 1000 else 16
