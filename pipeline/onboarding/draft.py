"""A first spec, drafted from logs: every guess with its reason in a comment."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import yaml

from components.daily_example_gen.day_store import DayLogs, list_logs
from components.daily_example_gen.fields import Field
from components.daily_example_gen.sampling import Sample, list_days, read_raw_sample, read_sample
from pipeline.onboarding import reading, sizes
from pipeline.onboarding.columns import Column
from pipeline.onboarding.guesses import Guess, Role
from pipeline.onboarding.histories import (
    with_numbered_ids,
    without_untold,
    worth_a_cross,
    worth_a_history,
)
from pipeline.onboarding.kinds import fields_of
from pipeline.onboarding.left_out import without_passing_ids
from pipeline.onboarding.names import NO_EVENT_ID, event_id_rank, is_unwanted, words
from pipeline.onboarding.roles import guess_roles, surfaces
from schemas.errors import BadDataError
from schemas.features import RESERVED_FEATURES
from schemas.tasks import RESERVED_TASKS
from schemas.values import MAX_NAME, MAX_SPEC_NAME

DAY_BYTES = 32 << 20
"""What is read of a day."""

_DAYS_READ = 3
_RAW_EVENTS = 5000
_MALFORMED = 0.005
_CROSSED_DAY = 1_000_000
"""Events a day up to which the pairs of two ids, over 30 days, take about 2 GB to count."""
_SHOWN = 3
_LIFT_SLACK = 0.01
_SMALL_DAY, _ANEW_DAYS = 20_000, 14
"""Events a day below which a training on so many days takes some two minutes of CPU at most."""


@dataclasses.dataclass(frozen=True)
class Draft:
    """A drafted spec.

    Attributes:
        text: the YAML document.
        guesses: what each field was taken for.
        unread: fields that ingestion could not read, and why.
        days: days that have logs.
        samples: what was read, newest day first.
    """

    text: str
    guesses: tuple[Guess, ...]
    unread: dict[str, str]
    days: int
    samples: tuple[Sample, ...]

    def of(self, *roles: Role) -> list[Guess]:
        """The guesses of some roles."""
        return [guess for guess in self.guesses if guess.role in roles]


def draft_spec(
    logs_root: str, name: str, event_id: str | None = None, labels: Sequence[str] = ()
) -> Draft:
    """Drafts a spec from a part of the newest days of a log.

    Args:
        logs_root: folder with a folder of logs a day; may be remote.
        name: name of the ranker; made a valid one.
        event_id: the field with an id of the event; guessed if None.
        labels: the fields that are labels; guessed by their names if empty.

    Raises:
        BadDataError: the logs cannot be read, no field is unique to an event, no field is a
            label, or a field given is not there.
    """
    days = list_days(logs_root)
    listed = [list_logs(logs_root, date) for date in reversed(days[-_DAYS_READ:])]
    raw = [event for logs in listed for event in read_raw_sample(logs, _RAW_EVENTS)]
    if not raw:
        raise _nothing_read(logs_root, listed, [Field("event", "string")])
    found, unread = fields_of(raw)
    names = [field.source for field in found] + list(unread)
    _refuse_other_separators(names)
    given = [*([event_id] if event_id else []), *labels]
    absent = [field for field in given if field not in names]
    if absent:
        raise BadDataError(f"no event has a field {absent[0]!r}; there are {', '.join(names)}")
    listed = [logs for logs in listed if logs.files]
    read = reading.readable(listed[0], found, _MALFORMED)
    for field, why in read.refused.items():
        unread[field.source] = why + ("; log it as text" if field.kind == "string" else "")
    samples = [read_sample(logs, read.fields, DAY_BYTES) for logs in listed]
    tables = [sample.events for sample in samples if sample.events.num_rows]
    if not tables:
        raise _nothing_read(logs_root, listed, read.fields)
    guesses = with_numbered_ids(tables, guess_roles(tables, read.fields, event_id, labels))
    if all(sample.share == 1 for sample in samples):
        guesses = without_passing_ids(tables, guesses)
    guesses = without_untold(pa.concat_tables(tables), guesses, labels)
    _refuse_what_cannot_run(guesses, unread, labels)
    draft = Draft("", tuple(guesses), unread, len(days), tuple(samples))
    text = "\n".join(_Writer(draft, _spec_name(name), tables).lines()) + "\n"
    return dataclasses.replace(draft, text=text)


def _nothing_read(
    logs_root: str, listed: Sequence[DayLogs], fields: Sequence[Field]
) -> BadDataError:
    """What is wrong with the files of the newest day that has any, and what was passed over."""
    whys: list[str] = []
    for logs in listed:
        sample = read_sample(logs, tuple(fields), DAY_BYTES)
        if sample.malformed:
            (path, _), lines = sample.malformed[0], [line for _, line in sample.malformed]
            whys.append(f"{path}: {reading.told(lines)}")
        whys += [f"{path}: {why}" for path, why in sample.unreadable] + list(logs.notes)
        if whys:
            break
    return BadDataError(
        f"{logs_root}: no event of the newest days can be read: "
        f"{'; '.join(whys[:_SHOWN]) or 'the folders are empty'} (docs/event-logs.md says what logs "
        "look like, and how to bring others into this shape)"
    )


def _refuse_other_separators(names: Sequence[str]) -> None:
    if len(names) == 1 and (signs := [sign for sign in ";\t|" if sign in names[0]]):
        raise BadDataError(
            f"the only field is {names[0][:60]!r}; are its cells separated by "
            f"{signs[0]!r}? They must be by commas"
        )


def _refuse_what_cannot_run(
    guesses: Sequence[Guess], unread: Mapping[str, str], labels: Sequence[str]
) -> None:
    roles = collections.defaultdict(list)
    for guess in guesses:
        roles[guess.role].append(guess)
    if not roles[Role.EVENT_ID]:
        raise BadDataError(
            "no field is unique to each event of a day. Log an id with the impression, or make one "
            f"of what tells impressions apart, such as user, item and time.{_nearest_id(guesses)} "
            f"There are {'; '.join([*map(_told, guesses), *_untold(unread)])}"
        )
    for label in labels:
        why = unread.get(label)
        for guess in guesses:
            if guess.field.source == label and guess.role not in (Role.BINARY, Role.REGRESSION):
                why = guess.why
        if why is not None:
            raise BadDataError(f"{label}: cannot be a label: {why}")
    if not roles[Role.BINARY] + roles[Role.REGRESSION]:
        raise BadDataError(
            "no field sounds like a label (clicked, liked, watch_time, ...) and can be one; name "
            "those that are by --label. There are "
            f"{'; '.join([*map(_told, guesses), *_untold(unread)])}"
        )
    if not roles[Role.CATEGORICAL] + roles[Role.DENSE]:
        raise BadDataError("no field is left that could be a feature")


def _nearest_id(guesses: Sequence[Guess]) -> str:
    shares = {
        guess.field.source: guess.column.distinct / guess.column.rows
        for guess in guesses
        if guess.column and event_id_rank(guess.field.source) < NO_EVENT_ID
    }
    nearest = max(shares, key=lambda source: shares[source], default="")
    if shares.get(nearest, 0.0) < 0.5:
        return ""
    return (
        f" The nearest is {nearest}, with {shares[nearest]:.1%} different values; --id takes it, "
        "and of events with one id the last counts."
    )


def _told(guess: Guess) -> str:
    """A field by name, and what is to be said of it if it is not a label."""
    said = guess.why if guess.role is Role.UNUSED else guess.remark
    return f"{guess.field.source} ({said})" if said else guess.field.source


def _untold(unread: Mapping[str, str]) -> list[str]:
    return [f"{source} ({why})" for source, why in unread.items()]


def _spec_name(text: str) -> str:
    name = "-".join(words(text))[:MAX_SPEC_NAME].strip("-")
    return name if name[:1].isalpha() and name.isascii() else f"ranker-{name}".strip("-")


class _Names:
    """Valid and different names for fields of any name."""

    def __init__(self) -> None:
        self._taken = {*RESERVED_FEATURES, *RESERVED_TASKS}

    def of(self, text: str) -> str:
        ascii_words = [
            "".join(c for c in word if c.isascii() and c.isalnum()) for word in words(text)
        ]
        name = "_".join(word for word in ascii_words if word)
        name = name if name[:1].isalpha() else f"field_{name}".strip("_")
        name = name[: MAX_NAME - 4].strip("_")
        number, free = 2, name
        while free in self._taken:
            free, number = f"{name}_{number}", number + 1
        self._taken.add(free)
        return free


class _Writer:
    """Writes the document."""

    def __init__(self, draft: Draft, name: str, days: Sequence[pa.Table]):
        self._draft = draft
        self._days = days
        self._table = pa.concat_tables(days)
        self._name = name
        names, tasks = _Names(), _Names()
        self._new = names
        self._labels = draft.of(Role.BINARY, Role.REGRESSION)
        self._names = {guess.field.source: names.of(guess.field.source) for guess in draft.guesses}
        self._tasks = {
            guess.field.source: tasks.of(_task_name(guess.field.source)) for guess in self._labels
        }

    def lines(self) -> Iterator[str]:
        draft = self._draft
        read = sum(sample.events.num_rows for sample in draft.samples)
        newest = draft.samples[0].date
        yield f"# Drafted by `steadyrank init` from {read:,} events of {len(draft.samples)} days,"
        yield f"# the newest {newest}. Look through the guesses before you trust them; docs/spec.md"
        yield "# explains each field. Then: steadyrank check, steadyrank run."
        yield f"name: {self._name}"
        yield ""
        (event_id,) = draft.of(Role.EVENT_ID)
        yield "events:"
        yield f"  id: {_quoted(event_id.field.source)}    # unique to each event of a day"
        yield ""
        yield from self._features()
        yield ""
        yield from self._task_lines()
        yield ""
        yield from self._rest()

    def _features(self) -> Iterator[str]:
        yield "# Only what is known before the impression is shown may be a feature: a field that"
        yield "# tells what came of it makes a model that is perfect here and blind when it serves."
        yield "features:"
        shared = _shared_tables(self._table, self._draft.guesses)
        for guess in self._draft.of(Role.CATEGORICAL):
            yield self._feature(guess, _categorical(guess, shared, self._names, self._usual_day))
        for guess in self._draft.of(Role.DENSE):
            yield self._feature(guess, _dense(guess))
        yield from self._histories()
        yield from self._left_out()

    def _feature(self, guess: Guess, content: dict[str, object]) -> str:
        name = self._names[guess.field.source]
        if name != guess.field.source:
            content = {"type": content["type"], "field": guess.field.source, **content}
        comment = "; ".join(filter(None, (guess.why, guess.remark)))
        comment = f"    # {comment}" if comment else ""
        return f"  {name}: {_flow(content)}{comment}"

    def _histories(self) -> Iterator[str]:
        ids = worth_a_history(self._table, self._draft.guesses)
        if not ids:
            return
        yield "  # How often an id came up on the days before, and how it did at each task. The"
        yield "  # model looks it up: no log and no request has these."
        for guess in ids:
            name = self._names[guess.field.source]
            yield f"  {self._history_of(name)}: {{type: history, of: {name}}}"
        for pair in worth_a_cross(self._days, self._draft.guesses, ids):
            both = [self._names[guess.field.source] for guess in pair]
            line = f"{self._history_of(*both)}: {{type: history, of: [{', '.join(both)}]}}"
            if self._usual_day > _CROSSED_DAY:
                line = f"# {line}    # it takes much memory to count so many pairs"
            yield f"  {line}"

    def _history_of(self, *names: str) -> str:
        return self._new.of("_".join([*(name.removesuffix("_id") for name in names), "history"]))

    def _left_out(self) -> Iterator[str]:
        unused = [(guess.field.source, guess.why) for guess in self._draft.of(Role.UNUSED)]
        if unused or self._draft.unread:
            yield "  # Left out:"
        for source, why in [*unused, *self._draft.unread.items()]:
            yield f"  #   {_quoted(source)}: {why}"

    def _task_lines(self) -> Iterator[str]:
        yield "tasks:"
        for guess in self._labels:
            source, column = guess.field.source, guess.column
            assert column is not None
            label = self._names[source]
            yield f"  {self._tasks[source]}:    # {guess.why}"
            yield f"    kind: {'binary' if guess.role is Role.BINARY else 'regression'}"
            yield f"    label: {label}"
            if label != source:
                yield f"    field: {_quoted(source)}"
            if column.present < column.rows:
                share = 1 - column.present / column.rows
                yield f"    optional: true    # {share:.1%} of the events have none"
            yield from _gate(guess, column, self._least_day)

    def _rest(self) -> Iterator[str]:
        sliced = [self._names[name] for name in surfaces(self._draft.guesses)]
        if sliced:
            yield "# Evaluated apart, value by value."
            yield f"slices: [{', '.join(sliced)}]"
            yield ""
        if self._ids_are_known():
            yield "# Each id has labels enough to learn what two of them have in common."
            yield "model: {preset: laptop, interactions: 16}"
        else:
            yield "model: {preset: laptop}"
        yield ""
        if self._usual_day < _SMALL_DAY:
            yield "# Days are small: each run trains anew on two weeks of them. That takes longer"
            yield "# than to go on from yesterday's model, which would be no better. Keep their"
            yield "# logs: a day whose logs are gone is not trained on."
            yield f"training: {{warm_start: false, window_days: {_ANEW_DAYS}}}"
            yield ""
        yield "validation:"
        least = _rounded(self._least_day / 2)
        yield f"  min_events: {least}    # half of the smallest day that was read"
        yield ""
        yield "# What candidates are sorted by. Other tasks weigh in by arithmetic on their names:"
        main = self._main_task()
        others = [g for g in self._labels if g.role is Role.BINARY and g is not main]
        name = self._tasks[main.field.source]
        score = f"1 - {name}" if is_unwanted(main.field.source) else name
        signs = ["-" if is_unwanted(guess.field.source) else "+" for guess in others]
        weighed = [
            f" {sign} 2 * {self._tasks[guess.field.source]}"
            for sign, guess in zip(signs, others, strict=True)
        ]
        yield f"# {score}{''.join(weighed[:2])}"
        yield f"serving: {{score: {score}}}"

    def _ids_are_known(self) -> bool:
        """Whether two weeks have enough labels of an id, on average, to learn it beside others.

        Of a binary task the rarer label counts: one click in 109 events tells little of a user.
        docs/results/defaults.md, "Interactions", has the logs that this was seen on.
        """
        task = self._main_task()
        if task.column is None:
            return False
        labelled = task.column.present / task.column.rows
        telling = task.column.rarer if task.role is Role.BINARY else labelled
        samples = self._draft.samples
        read = sum(sample.events.num_rows for sample in samples)
        scale = sum(sample.day_events for sample in samples) / read * _ANEW_DAYS / len(samples)
        known = [
            telling * guess.column.values * scale / guess.column.all_distinct
            for guess in self._draft.of(Role.CATEGORICAL)
            if guess.column is not None and guess.column.all_distinct >= sizes.ID_VALUES
        ]
        return len(known) > 1 and min(known) >= sizes.KNOWN_FROM

    @property
    def _least_day(self) -> int:
        return min(sample.day_events for sample in self._draft.samples)

    @property
    def _usual_day(self) -> float:
        return statistics.median(sample.day_events for sample in self._draft.samples)

    def _main_task(self) -> Guess:
        """The task with the most of both labels; it is learnt best."""

        def balance(guess: Guess) -> float:
            return guess.column.rarer if guess.column and guess.role is Role.BINARY else -1.0

        return max(self._labels, key=balance)


def _task_name(source: str) -> str:
    said = words(source)
    kept = [word for word in said if word not in ("is", "has", "label")]
    return "_".join(kept or said)


def _categorical(
    guess: Guess, shared: dict[str, str], names: dict[str, str], day_events: float
) -> dict[str, object]:
    column = guess.column
    assert column is not None
    content: dict[str, object] = {"type": "categorical"}
    if guess.field.kind in ("int", "binary"):
        content["dtype"] = "int"
    if guess.field.multivalued:
        content["multivalued"] = True
    owner = shared.get(guess.field.source)
    if owner is not None:
        return {**content, "table": names[owner]}
    values = column.all_distinct
    width = sizes.width(values, day_events)
    return {**content, "buckets": sizes.buckets(values), "embedding": width}


def _dense(guess: Guess) -> dict[str, object]:
    column = guess.column
    assert column is not None
    content: dict[str, object] = {"type": "dense"}
    if _heavy_tailed(column):
        content["scale"] = "log1p"
    if column.present < column.rows:
        content["default"] = float(f"{column.quantile(0.5):.3g}")
    return content


def _heavy_tailed(column: Column) -> bool:
    low, middle = column.quantile(0.0), column.quantile(0.5)
    # Of what is nearly always 0, the largest number tells.
    high = column.quantile(0.99) or column.quantile(1.0)
    return low >= 0 and high > 4 * max(middle, 1e-9)


def _shared_tables(table: pa.Table, guesses: Sequence[Guess]) -> dict[str, str]:
    """Lists whose elements are values of a single id: they share its table."""
    usable = [guess for guess in guesses if guess.role is Role.CATEGORICAL]
    ids = [g for g in usable if not g.field.multivalued and g.column and g.column.distinct > 32]
    shared = {}
    for guess in usable:
        if not guess.field.multivalued:
            continue
        elements = set(table[guess.field.name].combine_chunks().flatten().unique().to_pylist())
        overlaps = {
            other.field.source: len(elements & set(table[other.field.name].unique().to_pylist()))
            for other in ids
            if other.field.kind == guess.field.kind
        }
        best = max(overlaps, key=lambda source: overlaps[source], default=None)
        if best is not None and overlaps[best] > 0.5 * len(elements):
            shared[guess.field.source] = best
    return shared


def _gate(guess: Guess, column: Column, day_events: int) -> Iterator[str]:
    if guess.role is Role.BINARY:
        rarer = column.rarer * day_events
        slack = _visible_lift(rarer)
        yield "    # A coin has an AUC of 0.5. The lift is over smoothed rates (docs/gates.md)."
        if slack > _LIFT_SLACK:
            yield f"    # A day with {rarer:.0f} labels of the rarer kind tells no more of it."
        yield f"    gate: {{min_auc: 0.55, min_auc_lift: -{slack:g}}}"
        return
    if _heavy_tailed(column):
        yield "    transform: log1p    # a heavy tail"
    elif _heavy_tailed(dataclasses.replace(column, numbers=np.abs(column.numbers))):
        yield "    # A heavy tail, and values below 0: few events decide the squared error. Gains"
        yield "    # and losses as two labels, each from 0 on, could have transform: log1p."
    yield "    gate: {min_r2: 0.01}    # of the labels' variance; a constant explains none"


def _visible_lift(rarer: float) -> float:
    """How far below zero the lift of a model that is as good may fall on a day, at most.

    Two standard errors of an AUC of 0.7, about 0.3 / sqrt(labels of the rarer kind): Hanley and
    McNeil 1982, Radiology.
    """
    return max(_LIFT_SLACK, math.ceil(60 / math.sqrt(max(rarer, 4.0))) / 100)


def _rounded(number: float) -> int:
    """Down to two digits."""
    if number < 10:
        return max(1, int(number))
    unit = 10 ** (int(math.log10(number)) - 1)
    return int(number // unit * unit)


def _quoted(text: str) -> str:
    plain = text.isascii() and text.replace("_", "a").isalnum() and not text[0].isdigit()
    return (
        text
        if plain
        else yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf).strip()
    )


def _flow(content: dict[str, object]) -> str:
    shown = [
        f"{key}: {_quoted(value) if isinstance(value, str) else json.dumps(value)}"
        for key, value in content.items()
    ]
    return "{" + ", ".join(shown) + "}"
