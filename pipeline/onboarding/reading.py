"""Which fields the events of a day have in the type that is asked for."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from components.daily_example_gen.day_store import DayLogs
from components.daily_example_gen.fields import Field
from components.daily_example_gen.formats.checked import Malformed
from components.daily_example_gen.sampling import read_sample

_BYTES = 2 << 20


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
    left out before the next one is looked for. One of whole numbers is tried as any numbers first.

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
        counts = collections.Counter(bad.field for _, bad in sample.malformed if bad.field)
        worst, count = next(iter(counts.most_common(1)), ("", 0))
        if count <= most * lines:
            return Readable(tuple(left), refused)
        (field,) = [field for field in left if field.source == worst]
        if field.kind == "int" and not field.multivalued:
            left[left.index(field)] = dataclasses.replace(field, kind="number")
            continue
        words = told([bad for _, bad in sample.malformed if bad.field == worst], worst)
        refused[field] = f"{share(count, lines)} of the events: {words}"
        left.remove(field)


def told(lines: Sequence[Malformed], field: str = "") -> str:
    """The three most frequent reasons of lines, as the first has it; `field` is not named again."""
    first: dict[tuple[str, str], str] = {}
    for bad in lines:
        first.setdefault((bad.field, bad.kind), bad.reason.removeprefix(f"field '{field}': "))
    common = collections.Counter((bad.field, bad.kind) for bad in lines).most_common(3)
    return "; ".join(first[fault] for fault, _ in common)


def share(count: int, total: int) -> str:
    """A count as a percentage, for people."""
    return f"{count / total:.2%}" if total else "none"
