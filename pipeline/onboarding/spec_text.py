"""The YAML document of a drafted spec, each guess with its reason in a comment."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import yaml

from components.daily_example_gen.sampling import Sample
from pipeline.onboarding import sizes
from pipeline.onboarding.columns import Column
from pipeline.onboarding.guesses import Guess, Role, of_roles
from pipeline.onboarding.histories import worth_a_cross, worth_a_history
from pipeline.onboarding.names import is_unwanted, words
from pipeline.onboarding.roles import surfaces
from schemas.features import RESERVED_FEATURES
from schemas.tasks import RESERVED_TASKS
from schemas.values import MAX_NAME

_CROSSED_DAY = 1_000_000
"""Events a day up to which the pairs of two ids, over 30 days, take about 2 GB to count."""
_LIFT_SLACK = 0.01
_SMALL_DAY, _ANEW_DAYS = 20_000, 14
"""Events a day below which a training on so many days takes some two minutes of CPU at most."""


class _Names:
    """Valid and different names for fields of any name."""

    def __init__(self) -> None:
        self._taken = {*RESERVED_FEATURES, *RESERVED_TASKS}

    def of(self, text: str) -> str:
        ascii_words = [
            "".join(c for c in word if c.isascii() and c.isalnum()) for word in words(text)
        ]
        # `user.userId` is user_id.
        once = [word for word, _ in itertools.groupby(word for word in ascii_words if word)]
        name = "_".join(once)
        name = name if name[:1].isalpha() else f"field_{name}".strip("_")
        name = name[: MAX_NAME - 4].strip("_")
        number, free = 2, name
        while free in self._taken:
            free, number = f"{name}_{number}", number + 1
        self._taken.add(free)
        return free


class SpecWriter:
    """Writes the document.

    Args:
        name: a valid one, of the ranker.
        guesses: what each field was taken for.
        unread: fields that ingestion could not read, and why.
        samples: what was read, newest day first; one of them has events.
    """

    def __init__(
        self,
        name: str,
        guesses: Sequence[Guess],
        unread: Mapping[str, str],
        samples: Sequence[Sample],
    ) -> None:
        self._guesses, self._unread, self._samples = guesses, unread, samples
        self._days = [sample.events for sample in samples if sample.events.num_rows]
        self._table = pa.concat_tables(self._days)
        self._name = name
        names, tasks = _Names(), _Names()
        self._new = names
        self._labels = self._of(Role.BINARY, Role.REGRESSION)
        self._names = {guess.field.source: names.of(guess.field.source) for guess in guesses}
        self._tasks = {
            guess.field.source: tasks.of(_task_name(guess.field.source)) for guess in self._labels
        }

    def lines(self) -> Iterator[str]:
        """Its lines, without line ends."""
        read = sum(sample.events.num_rows for sample in self._samples)
        newest = self._samples[0].date
        yield f"# Drafted by `steadyrank init` from {read:,} events of {len(self._samples)} days,"
        yield f"# the newest {newest}. Look through the guesses before you trust them; docs/spec.md"
        yield "# explains each field. Then: steadyrank check, steadyrank run."
        yield f"name: {self._name}"
        yield ""
        (event_id,) = self._of(Role.EVENT_ID)
        yield "events:"
        yield f"  id: {_quoted(event_id.field.source)}    # unique to each event of a day"
        yield ""
        yield from self._features()
        yield ""
        yield from self._task_lines()
        yield ""
        yield from self._rest()

    def _of(self, *roles: Role) -> list[Guess]:
        return of_roles(self._guesses, *roles)

    def _features(self) -> Iterator[str]:
        yield "# Only what is known before the impression is shown may be a feature: a field that"
        yield "# tells what came of it makes a model that is perfect here and blind when it serves."
        yield "features:"
        shared = _shared_tables(self._table, self._guesses)
        for guess in self._of(Role.CATEGORICAL):
            yield self._feature(guess, _categorical(guess, shared, self._names, self._usual_day))
        for guess in self._of(Role.DENSE):
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
        ids = worth_a_history(self._table, self._guesses)
        if not ids:
            return
        yield "  # How often an id came up on the days before, and how it did at each task. The"
        yield "  # model looks it up: no log and no request has these."
        for guess in ids:
            name = self._names[guess.field.source]
            yield f"  {self._history_of(name)}: {{type: history, of: {name}}}"
        for pair in worth_a_cross(self._days, self._guesses, ids):
            both = [self._names[guess.field.source] for guess in pair]
            line = f"{self._history_of(*both)}: {{type: history, of: [{', '.join(both)}]}}"
            if self._usual_day > _CROSSED_DAY:
                line = f"# {line}    # it takes much memory to count so many pairs"
            yield f"  {line}"

    def _history_of(self, *names: str) -> str:
        return self._new.of("_".join([*(name.removesuffix("_id") for name in names), "history"]))

    def _left_out(self) -> Iterator[str]:
        unused = [(guess.field.source, guess.why) for guess in self._of(Role.UNUSED)]
        if unused or self._unread:
            yield "  # Left out:"
        for source, why in [*unused, *self._unread.items()]:
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
        sliced = [self._names[name] for name in surfaces(self._guesses)]
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
        samples = self._samples
        read = sum(sample.events.num_rows for sample in samples)
        scale = sum(sample.day_events for sample in samples) / read * _ANEW_DAYS / len(samples)
        known = [
            telling * guess.column.values * scale / guess.column.all_distinct
            for guess in self._of(Role.CATEGORICAL)
            if guess.column is not None and guess.column.all_distinct >= sizes.ID_VALUES
        ]
        return len(known) > 1 and min(known) >= sizes.KNOWN_FROM

    @property
    def _least_day(self) -> int:
        return min(sample.day_events for sample in self._samples)

    @property
    def _usual_day(self) -> float:
        return statistics.median(sample.day_events for sample in self._samples)

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
    usable = of_roles(guesses, Role.CATEGORICAL)
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
