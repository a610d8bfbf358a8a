"""What the fields of a log are for, guessed by their names and values, each with the reason."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.daily_example_gen.fields import Field, Kind
from pipeline.onboarding import columns, sizes
from pipeline.onboarding.columns import Column
from schemas.values import FIELD_NAME

_INDEX = re.compile(r"__index_level_\d+__|Unnamed: \d+")
"""Names that pandas gives to the numbers of rows."""
_CASES = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")

_WORDS = {
    # What users do once an impression is shown.
    "acts": "add added applied apply booked bookmark bookmarked bought buy cart checkout "
    "churn churned click clicked comment commented complete completed conversion convert "
    "converted dislike disliked dismiss dismissed donate donated downvote downvoted engaged "
    "engagement enter expand expanded favorite favorited finish finished follow followed "
    "forward forwarded hate hide hover hovered install installed label like liked mute muted "
    "opened order ordered purchase purchased react reacted register registered replied reply "
    "report reported repost reposted retweet retweeted returned save saved share shared "
    "signup skip skipped subscribe subscribed target unfollow unfollowed unsubscribe "
    "unsubscribed upvote upvoted view viewed vote voted watched wishlist",
    # What of it is measured.
    "measures": "dwell label listen listened play played rated rating read reward revenue spend "
    "spent stars stay view viewed viewing watch watched",
    # What makes a summary of the past, or a property, of it.
    "summaries": "author avg average count counts degree fans history item last mean num number "
    "past range rate rates recent size total type user",
    "codes": "app brand bucket category channel city class code country device dow gender genre "
    "hour id ids kind lang language level month onehot os page placement platform region segment "
    "slot surface tab tier topic type weekday zip",
    # Who and what: numbers of them are names, where the word stands at the end.
    "entities": "account ad advertiser adset album article artist asin author campaign collection "
    "community company course creative creator customer document driver episode flight game gender "
    "genre hotel item job lesson listener listing member merchant movie offer partner playlist "
    "podcast post posting product profile property publisher query question reader recipe "
    "restaurant rider route seller session shop show sku song store student subscriber thread "
    "track user vehicle video viewer visitor",
    "surfaces": "app channel country device os page placement platform surface tab",
    "times": "at date datetime day dt time timestamp ts",
}
_OF = {what: frozenset(text.split()) for what, text in _WORDS.items()}
_RARE = 0.01
"""Share of the values up to which those of another kind are taken for malformed ones."""

_TIME = "a time: it only grows, a model never sees its values again; log the hour"
_STAND_IN = "{:g} is the only value below 0: if it says that there is none, leave it empty"
_PASSING = "no value comes back on the next day: an id of a request or session, no use to a model"
_AFTER = "'{}' sounds like what is known only after the impression"
_FRESH = (
    "two values, and no id keeps one from day to day: if it tells what came of the impression, "
    "name it by --label or leave it out"
)
REPEATS = 1.5
"""Events of a value from which on an id comes back."""
FEW = 32
"""Values up to which whole numbers are taken for a category, whatever their name."""
_HOLDS = "a field holds numbers, text, true and false, or lists of text or of whole numbers"
_OTHERS = (
    (dict, "objects"),
    (tuple, "pairs"),
    ((datetime.date, datetime.time), "times"),
    (datetime.timedelta, "durations"),
)
"""What JSON and Parquet hold besides."""
_EVENT_IDS = ("event", "impression", "request", "record", "log", "row", "uuid", "guid", "key")
NO_EVENT_ID = len(_EVENT_IDS) + 1


class Role(enum.Enum):
    """What a field is to the ranker."""

    EVENT_ID = "id of the event"
    BINARY = "label of a binary task"
    REGRESSION = "label of a regression task"
    CATEGORICAL = "categorical feature"
    DENSE = "dense feature"
    UNUSED = "left out"


@dataclasses.dataclass(frozen=True)
class Guess:
    """What a field is taken for.

    Attributes:
        field: the field, as ingestion read it for the guess.
        role: what it is to the ranker.
        why: the reason, in words.
        column: what its values are; None where it could not be read.
        remark: what a person should look at; empty if nothing.
    """

    field: Field
    role: Role
    why: str
    column: Column | None = None
    remark: str = ""


def words(name: str) -> list[str]:
    """The lower-case words of a name: `isClicked`, `is_clicked` and `Is-Clicked` have the same."""
    return [word.lower() for word in _CASES.split(name) if word]


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
        if field is None:
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
    # A list of one value is no list yet in a CSV cell, nor is a number a number beside text.
    multivalued = any(kind.startswith("list of ") for kind in kinds)
    allowed: list[tuple[set[str], Kind]] = [
        ({"whole numbers"}, "int"),
        ({"numbers", "whole numbers"}, "number"),
        ({"true or false"}, "binary"),
        ({"text", "numbers", "whole numbers"}, "string"),
    ]
    for wanted, kind in allowed:
        # Lists hold ids; an embedding is none.
        vector = "numbers" in elements and "text" not in elements
        if multivalued and (kind not in ("int", "string") or vector):
            continue
        if elements and elements <= wanted:
            return Field(source, kind, multivalued=multivalued, path=_path(source))
    return None


def _path(source: str) -> tuple[str, ...]:
    keys = tuple(source.split("."))
    return keys if len(keys) > 1 and all(keys) else ()


def guess_roles(
    events: Sequence[pa.Table],
    fields: Sequence[Field],
    event_id: str | None,
    labels: Sequence[str],
) -> list[Guess]:
    """Guesses what fields are for.

    Args:
        events: checked events, a table a day.
        fields: its columns.
        event_id: the field with the event's id, if it is known.
        labels: the fields that are labels, if they are known.

    Returns:
        A guess a field, in the order of `fields`.
    """
    table = pa.concat_tables(events)
    described = {field.name: columns.describe(table[field.name]) for field in fields}
    texts = {field.name: columns.numbers_as_text(table[field.name]) for field in fields}
    owners = [f.name for f in fields if not texts[f.name] and _is_owner(f, described[f.name])]
    event_id = event_id or _event_id(events, fields)
    guesses = []
    for field in fields:
        column, text = described[field.name], texts[field.name]
        if field.name == event_id:
            guesses.append(Guess(field, Role.EVENT_ID, "unique to each event", column))
            continue

        def is_kept(name: str = field.name) -> bool:
            return any(columns.kept_by(owner, name, events) for owner in owners if owner != name)

        role, why = _label_role(field, column, labels, text, is_kept)
        remark = ""
        if role is None:
            role, why, remark = *_feature_role(field, column), why
            if _is_time_of_event(events, field.name):
                role, why = Role.UNUSED, _TIME
            elif column.present and not columns.describe(events[0][field.name]).present:
                role, why = Role.UNUSED, "no event of the newest day has a value"
            elif role is Role.DENSE and column.stand_in is not None:
                remark = remark or _STAND_IN.format(column.stand_in)
            elif role is Role.CATEGORICAL:
                remark = remark or _remark(field, column, table[field.name], text)
                flag = column.distinct == 2 and not field.multivalued and len(events) > 1
                if not remark and flag and not is_kept():
                    remark = _FRESH
        guesses.append(Guess(field, role, why, column, remark))
    return _without_twins(table, _without_traces(table, guesses))


def _is_owner(field: Field, column: Column) -> bool:
    """Whether it is an id of something that has properties."""
    return (
        _feature_role(field, column)[0] is Role.CATEGORICAL
        and not field.multivalued
        and column.distinct > FEW
        and column.repeats >= REPEATS
        and not _sound(field.name)
    )


def _event_id(events: Sequence[pa.Table], fields: Sequence[Field]) -> str | None:
    """The field with a value of its own for each event of a day, by the likeliest name.

    A few events may repeat; a name that is not that of an id must be without.
    """

    def unique(name: str) -> float:
        days = [table[name] for table in events]
        return min(0.0 if day.null_count else len(day.unique()) / len(day) for day in days)

    candidates = [f.name for f in fields if f.kind in ("string", "int") and not f.multivalued]
    for name in sorted(candidates, key=event_id_rank):
        if unique(name) >= (0.9 if event_id_rank(name) < len(_EVENT_IDS) else 1.0):
            return name
    return None


def event_id_rank(name: str) -> int:
    """How much a name sounds like that of an event's id: 0 most, `NO_EVENT_ID` not at all."""
    said = words(name)
    ranks = [rank for rank, word in enumerate(_EVENT_IDS) if word in said]
    return min(ranks, default=NO_EVENT_ID - ("id" in said))


def _sound(name: str) -> str:
    """The word of a name that sounds like what came of an impression; empty if none does."""
    said = words(name)
    if _OF["summaries"].union(["id"]).intersection(said):
        return ""
    said += [word.removesuffix("s") for word in said]
    return min((_OF["acts"] | _OF["measures"]).intersection(said), default="")


def _label_role(
    field: Field, column: Column, labels: Sequence[str], text: str, is_kept: Callable[[], bool]
) -> tuple[Role | None, str]:
    """The role of what is a label or sounds like one, and why; none for a feature.

    Args:
        field: the field.
        column: its values.
        labels: the fields that are labels, if they are known.
        text: what `columns.numbers_as_text` says of it.
        is_kept: whether an id keeps the field's value from day to day.
    """
    told, sound = field.name in labels, _sound(field.name)
    is_flag = field.kind == "binary" or (
        field.kind == "int" and not field.multivalued and _flags(column)
    )
    is_number = field.kind in ("int", "number") and not field.multivalued
    if not told:
        if not sound or not (is_flag or is_number or column.distinct <= 2 or text):
            after = _AFTER.format(sound) + ": leave it out, unless it tells of those before"
            return None, after if sound and field.multivalued else ""
        if not field.multivalued and is_kept():
            return None, f"'{sound}' sounds like a label, but ids keep its value from day to day"
        after = _AFTER.format(sound)
        if labels:
            return Role.UNUSED, f"{after}, and it is no label of --label"
    because = "by --label" if told else f"guessed by '{sound}' in its name"
    if not is_flag and not is_number:
        what = "a list: log an event for each impression"
        if not field.multivalued:
            what = f"text such as {column.top!r}"
        return Role.UNUSED, f"{because}, but a label is 0, 1 or a number, not {what}"
    if column.distinct < 2:
        what = f"{because}, but each label is {column.quantile(0):g}"
        return Role.UNUSED, what + ("; log 0 for the other events" if column.top else "")
    if _is_time(words(field.name), column):
        return Role.UNUSED, f"{because}, but it holds times: log 0 or 1, or how long it took"
    if is_flag:
        because += f", {column.numbers.mean():.2%} of the events are 1"
        if column.rarer * column.rows < sizes.MIN_POSITIVES:
            return Role.UNUSED, f"{because}: too few to learn and to judge"
        return Role.BINARY, because
    if column.distinct == 2:
        low, high = column.quantile(0), column.quantile(1)
        return Role.UNUSED, f"{because}, but it is {low:g} or {high:g}: log 0 or 1"
    if not told and sound not in _OF["measures"]:
        return Role.UNUSED, f"{after}: is it a label, for --label, or a feature, to be added?"
    most = column.top_count / column.values
    if not told and column.stand_in is not None:
        return Role.UNUSED, f"{because}, but {_STAND_IN.format(column.stand_in)}"
    if not told and most > 0.5:
        what = f"{most:.0%} of the values are {column.top:g}: an act of its own?"
        return Role.UNUSED, f"{because}, but {what}"
    return Role.REGRESSION, because


def _flags(column: Column) -> bool:
    return column.distinct <= 2 and bool(np.isin(column.numbers, (0.0, 1.0)).all())


def _feature_role(field: Field, column: Column) -> tuple[Role, str]:
    said = words(field.name)
    if column.present < 0.01 * column.rows:
        return Role.UNUSED, f"only {column.present / column.rows:.2%} of the events have a value"
    if column.constant:
        return Role.UNUSED, f"{column.top!r} in every event that has a value"
    if field.kind == "binary":
        return Role.CATEGORICAL, "true or false, which are 1 and 0"
    if field.kind in ("int", "number") and not field.multivalued and _is_time(said, column):
        return Role.UNUSED, _TIME
    if field.kind == "number":
        return Role.DENSE, ""
    values = f"about {column.all_distinct:,} values"
    if field.kind == "string" or field.multivalued:
        unique = column.distinct > 0.9 * column.values and column.values > 100
        # Of a part of a large log each user may be there once, but not each request.
        if unique and event_id_rank(field.name) != NO_EVENT_ID - 1:
            return Role.UNUSED, f"{values} for {column.values:,}: text, or an id of each event"
        return Role.CATEGORICAL, values
    if _is_code(field.name) or column.distinct <= FEW:
        return Role.CATEGORICAL, values
    return Role.DENSE, f"{values}; if these are names, categorical with dtype int"


def _is_code(name: str) -> bool:
    said = words(name)
    return bool(_OF["codes"].intersection(said) or _OF["entities"].intersection(said[-1:]))


def _remark(field: Field, column: Column, values: pa.ChunkedArray, text: str) -> str:
    """What a person should look at in a category."""
    if text and column.distinct > FEW and not _is_code(field.name):
        return text
    if not pa.types.is_string(values.type):
        return ""

    def share(pattern: str) -> float:
        return pc.mean(pc.match_substring_regex(values, pattern)).as_py() or 0.0

    if share(r'^\s*\{\s*"') > 0.5:
        return "objects as text: log what they hold as fields of their own"
    if share(r"^[\[{(]?[^,;\s]+([,;] ?[^,;\s]+)+$") > 0.1:
        return "many of them lists by the look of it: log them as lists, in CSV joined by |"
    return ""


def _is_time(said: Sequence[str], column: Column) -> bool:
    """Seconds since 1970, or thousandths and so on of them, or dates written as 20260131."""
    middle = column.quantile(0.5)
    since_1970 = any(1e9 * unit < middle < 4e9 * unit for unit in (1, 1e3, 1e6, 1e9))
    as_date = column.quantile(0) >= 19_000_101 and column.quantile(1) <= 21_001_231
    return bool(set(said) & _OF["times"]) and (since_1970 or as_date)


def _is_time_of_event(events: Sequence[pa.Table], name: str) -> bool:
    """Text with date and clock, or a date of which a day has two at most."""
    if not pa.types.is_string(events[0][name].type):
        return False
    values = pa.concat_tables(events)[name].drop_null()
    if not len(values):
        return False

    def share(pattern: str) -> float:
        return float(pc.mean(pc.match_substring_regex(values, pattern)).as_py())

    date = r"^\d{4}-?\d{2}-?\d{2}"
    if share(date + r"[T ]\d{2}:?\d{2}") > 0.9:
        return True
    return share(date + "$") > 0.9 and all(len(day[name].unique()) <= 2 for day in events)


def _without_traces(table: pa.Table, guesses: Sequence[Guess]) -> list[Guess]:
    """Leaves out single-valued features that tell a label all alone."""
    flags = {}
    for label in guesses:
        values, name = table[label.field.name], label.field.name
        if label.role is Role.BINARY:
            flags[name, f"{name} is 1"] = values
        elif label.role is Role.REGRESSION:
            flags[name, f"{name} is above its median"] = columns.above_median(values)
    kept = []
    for guess in guesses:
        if guess.role in (Role.CATEGORICAL, Role.DENSE) and not guess.field.multivalued:
            for (name, where), labels in flags.items():
                area = _tells(guess, table[guess.field.name], labels)
                why = f"tells {name} on its own (AUC {area:.3f})"
                if columns.comes_with(table[guess.field.name], labels):
                    why = f"has a value of its own only where {where}"
                elif area <= sizes.TOO_GOOD:
                    continue
                why += ": known only after the impression?"
                guess = dataclasses.replace(guess, role=Role.UNUSED, why=why)
                break
        kept.append(guess)
    return kept


def without_passing_ids(days: Sequence[pa.Table], guesses: Sequence[Guess]) -> list[Guess]:
    """Leaves out ids of which no value comes back on the next day, as those of requests.

    Args:
        days: checked events of whole days, a table a day, neighbours next to each other.
        guesses: what the fields are for.
    """

    def passes(name: str) -> bool:
        values = [day[name].unique() for day in days]
        return not any(
            pc.any(pc.is_in(day, before.drop_null())).as_py()
            for day, before in itertools.pairwise(values)
        )

    left = []
    for guess in guesses:
        large = guess.column is not None and guess.column.distinct > FEW
        single = guess.role is Role.CATEGORICAL and not guess.field.multivalued
        if single and large and len(days) > 1 and passes(guess.field.name):
            guess = dataclasses.replace(guess, role=Role.UNUSED, why=_PASSING, remark="")
        left.append(guess)
    return left


def _without_twins(table: pa.Table, guesses: Sequence[Guess]) -> list[Guess]:
    """Leaves out ids that are another's under other names, as an item's title is."""
    kept: list[Guess] = []
    ids: list[Guess] = []
    for guess in guesses:
        field, column = guess.field.name, guess.column
        single = guess.role is Role.CATEGORICAL and not guess.field.multivalued
        if single and column is not None and column.distinct > FEW:
            for other in ids:
                assert other.column is not None
                same = column.distinct == other.column.distinct
                if same and columns.pairs(table, field, other.field.name) == column.distinct:
                    why = f"tells the same as {other.field.name}"
                    guess = dataclasses.replace(guess, role=Role.UNUSED, why=why)
                    break
            else:
                ids.append(guess)
        kept.append(guess)
    return kept


def _tells(guess: Guess, column: pa.ChunkedArray, flags: pa.ChunkedArray) -> float:
    """AUC of a feature for 0 or 1; a category by its rate in the other half of the events."""
    both = pa.table([column, flags], ["value", "label"]).drop_null()
    values, labels = both["value"].to_pandas().to_numpy(), both["label"].to_numpy()
    if guess.role is Role.DENSE:
        area = columns.auc(values.astype(np.float64), labels)
        return max(area, 1 - area) if area == area else 0.5
    if guess.column is None or guess.column.distinct > 1000:
        return 0.5
    _, codes = np.unique(values, return_inverse=True)
    half = columns.half(len(codes))
    seen = np.bincount(codes[half], minlength=codes.max() + 1)
    ones = np.bincount(codes[half], weights=labels[half], minlength=codes.max() + 1)
    rates = (ones + labels.mean()) / (seen + 1)
    area = columns.auc(rates[codes[~half]], labels[~half])
    return area if area == area else 0.5


def surfaces(guesses: Iterable[Guess]) -> list[str]:
    """Fields whose values are worth a look of their own: devices, countries, pages."""
    return [
        guess.field.name
        for guess in guesses
        if guess.role is Role.CATEGORICAL
        and not guess.field.multivalued
        and set(words(guess.field.name)) & _OF["surfaces"]
        and guess.column is not None
        and guess.column.distinct <= 12
    ]
