"""How ingestion could read the fields that raw events have."""

from __future__ import annotations

import collections
import datetime
import decimal
import re
from collections.abc import Iterable, Mapping
from typing import Any

from components.daily_example_gen.fields import Field, Kind
from schemas.values import FIELD_NAME

_INDEX = re.compile(r"__index_level_\d+__|Unnamed: \d+")
"""Names that pandas gives to the numbers of rows."""
_RARE = 0.01
"""Share of the values up to which those of another kind are taken for malformed ones."""
TIME = "a time: it only grows, a model never sees its values again; log the hour"
_HOLDS = "a field holds numbers, text, true and false, or lists of text or of whole numbers"
_TIMES = "times"
_OTHERS = (
    (dict, "objects"),
    (tuple, "pairs"),
    ((datetime.date, datetime.time), _TIMES),
    (datetime.timedelta, "durations"),
)
"""What JSON and Parquet hold besides."""


def fields_of(events: Iterable[Mapping[str, Any]]) -> tuple[list[Field], dict[str, str]]:
    """How ingestion could read each field that raw events have.

    Returns:
        The fields, in the order in which they first appear, and those that it could not read,
        with the reason.
    """
    seen: dict[str, collections.Counter[str]] = {}
    for event in events:
        for name, value in event.items():
            kinds = seen.setdefault(name, collections.Counter())
            if isinstance(value, list):
                kinds.update(
                    f"list of {_kind(element)}" for element in value if element is not None
                )
            elif value not in (None, ""):
                kinds[_kind(value)] += 1
    fields, unread = [], {}
    for source, kinds in seen.items():
        if not FIELD_NAME.fullmatch(source) or _INDEX.fullmatch(source):
            unread[source] = "no name of a field, perhaps a table's own index: drop it or name it"
            continue
        most = {kind for kind, count in kinds.items() if count > _RARE * kinds.total()}
        if "whole numbers" in most:
            # A fraction is a number however rare it is: most of a measure may be 0.
            most |= kinds.keys() & {"numbers"}
        field = _readable(source, most)
        if kinds.keys() == {_TIMES}:
            unread[source] = TIME
        elif field is None:
            held = " and ".join(sorted(kinds))
            unread[source] = f"holds {held}; {_HOLDS}" if kinds else "always empty"
        else:
            fields.append(field)
    return fields, unread


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "whole numbers beyond int64, which must be text"
    if isinstance(value, int | float | decimal.Decimal):
        return "whole numbers" if value % 1 == 0 else "numbers"
    if isinstance(value, str | bytes):
        return "text"
    return next((what for kind, what in _OTHERS if isinstance(value, kind)), type(value).__name__)


def _readable(source: str, kinds: set[str]) -> Field | None:
    elements = {kind.removeprefix("list of ") for kind in kinds}
    # A list of one value is not yet a list in a CSV cell, nor is a number a number beside text.
    multivalued = any(kind.startswith("list of ") for kind in kinds)
    allowed: list[tuple[set[str], Kind]] = [
        ({"whole numbers"}, "int"),
        ({"numbers", "whole numbers"}, "number"),
        ({"true or false"}, "binary"),
        ({"text", "numbers", "whole numbers"}, "string"),
    ]
    for wanted, kind in allowed:
        # Lists hold ids; an embedding does not.
        vector = "numbers" in elements and "text" not in elements
        if multivalued and (kind not in ("int", "string") or vector):
            continue
        if elements and elements <= wanted:
            return Field(source, kind, multivalued=multivalued, path=_path(source))
    return None


def _path(source: str) -> tuple[str, ...]:
    keys = tuple(source.split("."))
    return keys if len(keys) > 1 and all(keys) else ()
