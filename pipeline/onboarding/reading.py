"""Which fields the events of a day have in the type that is asked for."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence

from components.daily_example_gen.day_store import DayLogs
from components.daily_example_gen.fields import Field
from components.daily_example_gen.sampling import Sample, read_sample

_BYTES = 2 << 20
_REASON = re.compile(r"field '(.*?)': (.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Readable:
    """What of some fields can be read.

    Attributes:
        fields: those that most events have in the right type.
        refused: the others, and what is wrong.
    """

    fields: tuple[Field, ...]
    refused: Mapping[Field, str]


def readable(logs: DayLogs, fields: Sequence[Field], most: float) -> Readable:
    """Tells the fields that parse from those that do not, by reading a little of a day.

    An event is malformed by the first field that is wrong, so each one that is too often is
    left out before the next one is looked for.

    Args:
        logs: the day.
        fields: the fields.
        most: share of the lines that a field may make malformed.
    """
    left = list(fields)
    refused: dict[Field, str] = {}
    while True:
        sample = read_sample(logs, tuple(left), _BYTES)
        lines = sample.events.num_rows + len(sample.malformed)
        reasons = _by_field(sample)
        worst = max(reasons, key=lambda source: len(reasons[source]), default="")
        if not worst or len(reasons[worst]) <= most * lines:
            return Readable(tuple(left), refused)
        (field,) = [field for field in left if field.source == worst]
        count = len(reasons[worst])
        refused[field] = f"{share(count, lines)} of the events: {told(reasons[worst])}"
        left.remove(field)


def _by_field(sample: Sample) -> dict[str, list[str]]:
    reasons = collections.defaultdict(list)
    for _, reason in sample.malformed:
        match = _REASON.fullmatch(reason)
        if match:
            reasons[match[1]].append(match[2])
    return reasons


def told(reasons: Sequence[str]) -> str:
    """The most frequent reasons; of those that differ in the value only, one."""
    examples: dict[str, str] = {}
    kinds = [reason.split(", got ")[0].split(" (")[0] for reason in reasons]
    for kind, reason in zip(kinds, reasons, strict=True):
        examples.setdefault(kind, reason)
    common = collections.Counter(kinds).most_common(3)
    return "; ".join(examples[kind] for kind, _ in common)


def share(count: int, total: int) -> str:
    """A count as a percentage, for people."""
    return f"{count / total:.2%}" if total else "none"
