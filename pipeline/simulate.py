"""Simulated event logs for `schemas/demo.yaml`: a feed of short videos that drifts.

Every impression has a ground truth: users and items have latent factors and biases, topics
have a popularity and an appeal that wander from day to day, weekends and holidays differ.
Users and items are heavy-tailed, and some of them are new each day. One affinity per
impression drives all six labels, so they are correlated and can be learned.

    clicked        Bernoulli(sigmoid(affinity))
    watch_seconds  log-normal around the affinity, at most the item's length
    viewed_long    watched 18 seconds, or 80 % of a shorter item
    liked, shared  Bernoulli, of clicked impressions only
    rating         1 to 5 in halves, rises with the affinity; most events carry none
"""

from __future__ import annotations

import dataclasses
import datetime
import gzip
import json
import math
import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

TOPICS = (
    "animals", "beauty", "books", "cars", "comedy", "crafts", "dance", "fashion", "film", "fitness",
    "food", "games", "gardens", "music", "nature", "news", "parents", "science", "sports", "travel",
)  # fmt: skip
DEVICES = ("android", "ios", "web", "tv")
HOLIDAYS = ((1, 1), (2, 14), (5, 1), (10, 31), (12, 24), (12, 25), (12, 26), (12, 31))
HISTORY = 10
"""Items that a user's `recent_items` holds at most, the newest first."""

BURN_IN = 3
"""Days simulated before the first, so that it too finds histories and activity."""

_FACTORS = 8
_LONG_VIEW_SECONDS = 18.0


@dataclasses.dataclass(frozen=True)
class Shape:
    """What kind of feed is simulated; the defaults are the demo's.

    Attributes:
        users: users at the start, as a share of a day's impressions.
        items: items at the start, likewise.
        drift: factor of what topics wander in a day.
        rarity: taken off the log odds of likes and shares.
    """

    users: float = 0.25
    items: float = 0.1
    drift: float = 1.0
    rarity: float = 0.0


@dataclasses.dataclass(frozen=True)
class Day:
    """One day's impressions, in the order of time.

    Attributes:
        date: the day.
        columns: one per event field; `recent_items` holds lists, `rating` null where there
            is none.
        best: by event field of a label, shape (n,): the best prediction there is, made from
            what the labels were drawn from. Of 0 and 1 the probability; of seconds and of
            the rating the mean, of seconds that of `log1p`.
    """

    date: datetime.date
    columns: pa.Table
    best: dict[str, np.ndarray]


def is_holiday(date: datetime.date) -> bool:
    """Whether the simulated world has a holiday on `date`."""
    return (date.month, date.day) in HOLIDAYS


def simulate_days(
    start: datetime.date,
    days: int,
    rows: int,
    seed: int = 0,
    shape: Shape = Shape(),
) -> Iterator[Day]:
    """Simulates consecutive days.

    Args:
        start: the first day. The world begins here: another start is another world.
        days: how many.
        rows: impressions on an ordinary weekday; weekends and holidays have more.
        seed: non-negative; seed of the world.
        shape: what kind of feed it is.

    Yields:
        The days in order. Each depends on (seed, rows, start, shape) and its date alone.
    """
    world = _World(rows, seed, shape)
    for index in range(-BURN_IN, days):
        day = world.next_day(start + datetime.timedelta(days=index))
        if index >= 0:
            yield day


class _World:
    """Users, items and topics as of one day; every array is indexed by user, item or topic."""

    def __init__(self, rows: int, seed: int, shape: Shape) -> None:
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        self._rows = rows
        self._shape = shape
        self._seed = seed
        self._day = 0
        rng = np.random.default_rng([seed, 0])
        topics = len(TOPICS)
        self._topic_factors = rng.normal(size=(topics, _FACTORS))
        self._topic_appeal = rng.normal(0.0, 0.7, topics)
        self._topic_popularity = rng.normal(0.0, 0.7, topics)
        self._topic_length = rng.normal(3.4, 0.4, topics)
        # Empty, and filled by `_add_users` and `_add_items`.
        self._user_factors = np.zeros((0, _FACTORS))
        self._user_bias = np.zeros(0)
        self._user_weight = np.zeros(0)
        self._user_device = np.zeros(0, int)
        self._user_activity = np.zeros(0)
        self._history = np.zeros((0, HISTORY), int)
        self._item_topic = np.zeros(0, int)
        self._item_factors = np.zeros((0, _FACTORS))
        self._item_bias = np.zeros(0)
        self._item_weight = np.zeros(0)
        self._item_length = np.zeros(0)
        self._item_birth = np.zeros(0)
        users, items = max(50, int(rows * shape.users)), max(100, int(rows * shape.items))
        self._new_users, self._new_items = max(2, users // 30), max(6, items // 15)
        self._add_users(rng, users)
        self._add_items(rng, items, oldest=30.0)

    def next_day(self, date: datetime.date) -> Day:
        rng = np.random.default_rng([self._seed, 1, self._day])
        weekend, holiday = date.weekday() >= 5, is_holiday(date)
        self._drift(rng)
        self._add_users(rng, self._new_users)
        self._add_items(rng, self._new_items, oldest=1.0)

        volume = (1.15 if weekend else 1.0) * (1.25 if holiday else 1.0)
        n = max(1, int(self._rows * volume * rng.uniform(0.97, 1.03)))
        time = self._times(rng, n, late=weekend or holiday)
        hour = time.astype(int)
        user = _draw(rng, self._user_weight, n)
        item = self._recommend(rng, user)
        device = self._devices(rng, user, more_tv=weekend or holiday)
        age = self._day + time / 24.0 - self._item_birth[item]
        length = self._item_length[item]

        topic = self._item_topic[item]
        affinity = (
            self._user_bias[user]
            + self._item_bias[item]
            + self._topic_appeal[topic]
            + 1.0 * _dot(self._user_factors[user], self._item_factors[item])
            + np.array([0.0, 0.15, -0.6, 0.7])[device]
            + 0.3 * np.cos((hour - 21) * (2 * np.pi / 24))
            - 0.45 * (np.log1p(age) - 1.4)
            - 0.35 * (np.log1p(length) - 3.5)
            + (0.1 if weekend else 0.0)
            + (0.2 if holiday else 0.0)
        )
        click_probability = _sigmoid(affinity - 1.3)
        clicked = rng.random(n) < click_probability
        watch = np.exp(1.0 + 0.7 * affinity + 1.0 * clicked + rng.normal(0.0, 0.6, n))
        watch = np.minimum(watch, length)
        viewed_long = watch >= np.minimum(_LONG_VIEW_SECONDS, 0.8 * length)
        fondness = 1.1 * affinity - self._shape.rarity
        liked = clicked & (rng.random(n) < _sigmoid(fondness - 3.2 + 0.5 * viewed_long))
        shared = clicked & (rng.random(n) < _sigmoid(fondness - 4.2 + 1.0 * liked))
        opinion = 2.8 + 0.8 * affinity + 0.4 * liked + rng.normal(0.0, 0.4, n)
        rating = np.clip(np.round(2.0 * opinion) / 2.0, 1.0, 5.0)
        rated = rng.random(n) < np.where(clicked, 0.2, 0.02)

        items = pa.array(np.char.mod("i%06d", np.arange(len(self._item_bias))))
        past = self._history[user]
        ends = np.cumsum(np.count_nonzero(past >= 0, axis=1))
        columns = {
            "event_id": np.char.mod(f"{date:%Y%m%d}-%07d", np.arange(n)),
            "user_id": np.char.mod("u%07d", user),
            "item_id": items.take(pa.array(item)),
            "recent_items": pa.ListArray.from_arrays(
                np.append(0, ends).astype(np.int32), items.take(pa.array(past[past >= 0]))
            ),
            "topic": pa.array(TOPICS).take(pa.array(topic)),
            "device": pa.array(DEVICES).take(pa.array(device)),
            "hour": hour,
            "item_age_days": np.round(age, 3),
            "item_length": length,
            "user_activity": np.round(self._user_activity[user], 2),
            "clicked": clicked.astype(int),
            "viewed_long": viewed_long.astype(int),
            "liked": liked.astype(int),
            "shared": shared.astype(int),
            "watch_seconds": np.round(watch, 2),
            "rating": pa.array(rating, mask=~rated),
        }
        self._remember(user, item, clicked)
        self._day += 1
        return Day(date, pa.table(columns), _best(affinity, length, self._shape.rarity))

    def _drift(self, rng: np.random.Generator) -> None:
        """Moves the topics; what they mean, how they appeal and how much of them is shown."""
        drift = self._shape.drift

        def wandered(values: np.ndarray, forgotten: float, noise: float) -> np.ndarray:
            # Both as they are, so that their spread stays what it is.
            kept = 1.0 - forgotten * drift**2
            return kept * values + rng.normal(0.0, noise * drift, values.shape)

        self._topic_factors = wandered(self._topic_factors, 0.01, 0.14)
        self._topic_appeal = wandered(self._topic_appeal, 0.04, 0.18)
        self._topic_popularity = wandered(self._topic_popularity, 0.03, 0.17)

    def _add_users(self, rng: np.random.Generator, n: int) -> None:
        bias = rng.normal(0.0, 0.6, n)
        self._user_bias = np.append(self._user_bias, bias)
        self._user_factors = np.append(self._user_factors, rng.normal(size=(n, _FACTORS)), axis=0)
        self._user_weight = np.append(self._user_weight, _heavy_tail(rng, n) * np.exp(0.8 * bias))
        self._user_device = np.append(
            self._user_device, rng.choice(len(DEVICES), n, p=[0.5, 0.3, 0.15, 0.05])
        )
        self._user_activity = np.append(self._user_activity, np.zeros(n))
        self._history = np.append(self._history, np.full((n, HISTORY), -1), axis=0)

    def _add_items(self, rng: np.random.Generator, n: int, oldest: float) -> None:
        """Adds items published up to `oldest` days ago; at least one of every topic at first."""
        topic = rng.choice(len(TOPICS), n, p=_softmax(self._topic_popularity))
        if len(self._item_topic) == 0:
            topic[: len(TOPICS)] = np.arange(len(TOPICS))
        bias = rng.normal(0.0, 0.8, n)
        factors = self._topic_factors[topic] + rng.normal(0.0, 0.5, (n, _FACTORS))
        length = np.exp(self._topic_length[topic] + rng.normal(0.0, 0.5, n))
        self._item_topic = np.append(self._item_topic, topic)
        self._item_bias = np.append(self._item_bias, bias)
        self._item_factors = np.append(self._item_factors, factors, axis=0)
        self._item_weight = np.append(self._item_weight, _heavy_tail(rng, n) * np.exp(0.3 * bias))
        self._item_length = np.append(self._item_length, np.round(np.clip(length, 4.0, 600.0), 1))
        self._item_birth = np.append(self._item_birth, self._day - rng.uniform(0.0, oldest, n))

    def _times(self, rng: np.random.Generator, n: int, late: bool) -> np.ndarray:
        """Times of day in hours, sorted; people are up later on days off."""
        hours = np.arange(24)
        peak = 21.0 if not late else 22.0
        weight = 0.15 + np.exp(1.2 * np.cos((hours - peak) * (2 * np.pi / 24)))
        return np.sort(_draw(rng, weight, n) + rng.random(n))

    def _devices(self, rng: np.random.Generator, user: np.ndarray, more_tv: bool) -> np.ndarray:
        """The user's own device, now and then another one."""
        other = rng.choice(len(DEVICES), len(user), p=[0.35, 0.25, 0.2, 0.2])
        return np.where(
            rng.random(len(user)) < (0.14 if more_tv else 0.1), other, self._user_device[user]
        )

    def _recommend(self, rng: np.random.Generator, user: np.ndarray) -> np.ndarray:
        """One item per impression: a topic near the user's taste, then a popular, fresh item."""
        taste = self._user_factors[user] @ self._topic_factors.T / np.sqrt(_FACTORS)
        score = 0.7 * taste + self._topic_popularity
        topic = np.argmax(score + rng.gumbel(size=score.shape), axis=1)
        weight = self._item_weight * np.exp((self._item_birth - self._day) / 6.0)
        item = np.empty(len(user), int)
        for t in range(len(TOPICS)):
            chosen, items = np.flatnonzero(topic == t), np.flatnonzero(self._item_topic == t)
            item[chosen] = items[_draw(rng, weight[items], len(chosen))]
        return item

    def _remember(self, user: np.ndarray, item: np.ndarray, clicked: np.ndarray) -> None:
        """Updates histories and activity by a day's events, which are in the order of time."""
        counts = np.bincount(user, minlength=len(self._user_activity))
        self._user_activity = 0.5 * self._user_activity + counts
        # Newest first per user: today's clicks backwards, then the history so far.
        known = np.flatnonzero(self._history.ravel() >= 0)
        owner = np.append(user[clicked][::-1], known // HISTORY)
        items = np.append(item[clicked][::-1], self._history.ravel()[known])
        order = np.argsort(owner, kind="stable")
        owner, items = owner[order], items[order]
        place = np.arange(len(owner)) - np.searchsorted(owner, owner)
        kept = place < HISTORY
        self._history.fill(-1)
        self._history[owner[kept], place[kept]] = items[kept]


def write_logs(
    root: str,
    start: datetime.date,
    days: int,
    rows_per_day: int,
    seed: int = 0,
    *,
    shape: Shape = Shape(),
    skip_days: int = 0,
    parts: int = 4,
    malformed: float = 0.001,
    duplicates: float = 0.001,
) -> dict[datetime.date, int]:
    """Writes simulated logs as `ROOT/YYYY-MM-DD/part-N.jsonl.gz`.

    The bytes of a day depend on (seed, rows_per_day, start), its date and the options below
    alone. Files appear whole; parts left by an earlier call are replaced or removed.

    Args:
        root: local folder, made where it is missing.
        start: first day of the simulated world.
        days: days simulated.
        rows_per_day: impressions on an ordinary weekday.
        seed: non-negative; seed of the world.
        shape: what kind of feed it is.
        skip_days: first days that are simulated but not written, to add days to logs.
        parts: files a day.
        malformed: share of additional lines that are broken in one of several ways.
        duplicates: share of events that are logged once more, later the same day.

    Returns:
        Distinct well-formed events written, by day.
    """
    written = {}
    for index, day in enumerate(simulate_days(start, days, rows_per_day, seed, shape)):
        if index < skip_days:
            continue
        rng = np.random.default_rng([seed, 2, index])
        lines = _spoil(rng, _to_lines(day.columns), malformed, duplicates)
        folder = os.path.join(root, day.date.isoformat())
        os.makedirs(folder, exist_ok=True)
        names = [f"part-{part}.jsonl.gz" for part in range(parts)]
        for name in os.listdir(folder):
            if name.startswith("part-") and name not in names:
                os.remove(os.path.join(folder, name))
        bounds = np.linspace(0, len(lines), parts + 1).astype(int)
        for name, begin, end in zip(names, bounds[:-1], bounds[1:], strict=True):
            _write_gzip(os.path.join(folder, name), lines[begin:end])
        written[day.date] = day.columns.num_rows
    return written


def _to_lines(columns: pa.Table) -> list[str]:
    encode = json.JSONEncoder(separators=(",", ":")).encode
    values = zip(*(column.to_pylist() for column in columns.columns), strict=True)
    return [encode(dict(zip(columns.column_names, event, strict=True))) for event in values]


def _spoil(
    rng: np.random.Generator, lines: list[str], malformed: float, duplicates: float
) -> list[str]:
    """Adds broken lines anywhere, and copies of lines somewhere behind the original."""
    inserts: list[tuple[int, str]] = []
    n = len(lines)
    for row in rng.integers(0, n, rng.binomial(n, duplicates)):
        inserts.append((int(rng.integers(row + 1, n + 1)), lines[row]))
    for row in rng.integers(0, n, rng.binomial(n, malformed)):
        event = json.loads(lines[row])
        event["event_id"] += "-broken"
        fault = rng.integers(3)
        if fault == 0:
            broken = json.dumps(event)[: int(rng.integers(1, 200))]
        elif fault == 1:
            broken = json.dumps({**event, "item_length": "n/a"})
        else:
            del event["user_id"]
            broken = json.dumps(event)
        inserts.append((int(row), broken))
    result = []
    position = 0
    for row, line in sorted(inserts):
        result += [*lines[position:row], line]
        position = row
    return result + lines[position:]


def _write_gzip(path: str, lines: Sequence[str]) -> None:
    temporary = f"{os.path.dirname(path)}/.{os.path.basename(path)}.tmp"
    # No name and no time in the header: the same events are the same bytes.
    with (
        open(temporary, "wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=4, fileobj=raw, mtime=0) as file,
    ):
        file.write("".join(f"{line}\n" for line in lines).encode())
    os.replace(temporary, path)


def _best(affinity: np.ndarray, length: np.ndarray, rarity: float) -> dict[str, np.ndarray]:
    """The best predictions of one impression each; see `Day`."""
    # A normal number is what is left to chance; these stand for it (Gauss-Hermite).
    nodes, weights = np.polynomial.hermite_e.hermegauss(16)
    noise = list(zip(nodes, weights / weights.sum(), strict=True))
    fondness = 1.1 * affinity - rarity
    click = _sigmoid(affinity - 1.3)

    def watch(clicked: float) -> np.ndarray:
        return 1.0 + 0.7 * affinity + clicked

    def long_view(clicked: float) -> np.ndarray:
        needed = np.log(np.minimum(_LONG_VIEW_SECONDS, 0.8 * length))
        return _normal_below((watch(clicked) - needed) / 0.6)

    def seconds(clicked: float) -> np.ndarray:
        exact = ((w, np.exp(watch(clicked) + 0.6 * x)) for x, w in noise)
        return sum(w * np.log1p(np.minimum(value, length)) for w, value in exact)

    def rating(liked: float) -> np.ndarray:
        exact = ((w, 2.8 + 0.8 * affinity + 0.4 * liked + 0.4 * x) for x, w in noise)
        return sum(w * np.clip(np.round(2.0 * value) / 2.0, 1.0, 5.0) for w, value in exact)

    def mean(chance: np.ndarray, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
        return chance * yes + (1.0 - chance) * no

    # Of clicked ones; others are neither.
    like = mean(long_view(1.0), _sigmoid(fondness - 2.7), _sigmoid(fondness - 3.2))
    share = mean(like, _sigmoid(fondness - 3.2), _sigmoid(fondness - 4.2))
    clicked_if_rated = 0.2 * click / (0.2 * click + 0.02 * (1.0 - click))
    return {
        "clicked": click,
        "viewed_long": mean(click, long_view(1.0), long_view(0.0)),
        "liked": click * like,
        "shared": click * share,
        "watch_seconds": mean(click, seconds(1.0), seconds(0.0)),
        "rating": mean(clicked_if_rated * like, rating(1.0), rating(0.0)),
    }


def _normal_below(x: np.ndarray) -> np.ndarray:
    """The standard normal's distribution function."""
    return 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def _heavy_tail(rng: np.random.Generator, n: int) -> np.ndarray:
    """Popularity weights with a Zipf-like tail, none so large that it is the whole feed."""
    return np.minimum(1.0 + rng.pareto(1.2, n), 300.0)


def _draw(rng: np.random.Generator, weight: np.ndarray, n: int) -> np.ndarray:
    """Draws `n` indices with probabilities in proportion to `weight`."""
    cumulative = np.cumsum(weight)
    return np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("nk,nk->n", a, b) / np.sqrt(a.shape[1])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _softmax(x: np.ndarray) -> np.ndarray:
    exponential = np.exp(x - np.max(x))
    return exponential / np.sum(exponential)
