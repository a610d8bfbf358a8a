"""The rates that a model must beat, against counting by hand."""

import collections
import math

import numpy as np
import pytest
import tensorflow as tf
from planted_model import write_examples

from components.smoothed_rates import PRIOR_EVENTS, Counter, Rates, event_buckets, save_counts
from schemas.errors import BadDataError
from schemas.loading import parse_spec
from trainer_module.preprocessing import raw_feature_spec

SPEC = parse_spec(
    """
name: rated
features:
  user: {type: categorical, buckets: 100000, embedding: 2}
  hour: {type: categorical, dtype: int, buckets: 100000, embedding: 2}
  recent: {type: categorical, multivalued: true, table: user}
  age: {type: dense}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: 0.6}}
  save: {kind: binary, label: saved, optional: true, gate: {min_auc: 0.6}}
  rate: {kind: regression, label: rating, gate: {}}
model: {preset: tiny}
serving: {score: click}
""",
    "spec",
)
EVENTS = 300


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    rng = np.random.default_rng(0)
    columns = {
        "user": [f"u{n}" for n in rng.zipf(1.5, EVENTS) % 20],
        "hour": rng.integers(0, 5, EVENTS),
        "age": np.round(rng.normal(2.0, 3.0, EVENTS), 2).astype(np.float32),
        "clicked": (rng.random(EVENTS) < 0.3).astype(float),
        "saved": (rng.random(EVENTS) < 0.1).astype(float),
        "rating": rng.random(EVENTS) + 0.2 * (np.arange(EVENTS) % 2),
    }
    absent = {name: rng.random(EVENTS) < 0.2 for name in ("hour", "saved", "age")}
    folder = tmp_path_factory.mktemp("examples") / "day"
    write_examples(str(folder), columns, absent, files=3)
    return [str(path) for path in sorted(folder.iterdir())], columns, absent


def log_odds(rate):
    return math.log(rate / (1 - rate))


def expected(columns, absent, label, row, values_of):
    """The probability of an event, from counts by value, of [events] by feature."""
    labelled = ~absent.get(label, np.zeros(EVENTS, bool))
    positive = labelled & (columns[label] == 1)
    base = (positive.sum() + 1) / (labelled.sum() + 2)
    answer = log_odds(base)
    for values in values_of.values():
        seen = collections.Counter(value for i, value in enumerate(values) if labelled[i])
        hits = collections.Counter(value for i, value in enumerate(values) if positive[i])
        rate = (hits[values[row]] + PRIOR_EVENTS * base) / (seen[values[row]] + PRIOR_EVENTS)
        answer += log_odds(rate) - log_odds(base)
    return 1 / (1 + math.exp(-answer))


def ids(columns, absent):
    """A missing hour is a value, too."""
    return {
        "user": columns["user"],
        "hour": np.where(absent["hour"], None, columns["hour"]),
    }


def eighths(columns, absent):
    """The part of a number's doubling that it lies in; a missing one is the default of 0."""
    ages = np.where(absent["age"], 0.0, columns["age"])
    return {"age": [(n < 0, e, int(abs(m) * 16)) for n in ages for m, e in [math.frexp(n)]]}


def test_rates_are_the_smoothed_counts_of_each_value_saved_and_loaded(day, tmp_path):
    files, columns, absent = day
    fit(files).save(str(tmp_path / "rates"))
    loaded = Rates.load(str(tmp_path / "rates"), SPEC)
    records = list(tf.data.TFRecordDataset(files[1], "GZIP").as_numpy_iterator())
    buckets = event_buckets(tf.io.parse_example(records, raw_feature_spec(SPEC)), SPEC)
    assert buckets.keys() == {"user", "hour"}
    answer = loaded.predict({n: v.numpy() for n, v in buckets.items()}, len(records))
    for task, label in (("click", "clicked"), ("save", "saved")):
        np.testing.assert_allclose(
            answer[task],
            [expected(columns, absent, label, n, ids(*day[1:])) for n in range(1, EVENTS, 3)],
            rtol=1e-4,
        )
    np.testing.assert_allclose(answer["rate"], smoothed_means(columns, absent)[1::3], rtol=1e-4)


def smoothed_means(columns, absent):
    """Of the feature that tells most of the ratings that it does not know, by leaving each out."""
    rating = columns["rating"]
    base = rating.mean()
    found = []
    for name in ("user", "hour"):
        missing = absent.get(name, np.zeros(EVENTS, bool))
        values = [None if missing[i] else columns[name][i] for i in range(EVENTS)]
        means, errors = [], []
        for row, value in enumerate(values):
            same = np.array([other == value for other in values])
            total = rating[same].sum() + PRIOR_EVENTS * base
            size = same.sum() + PRIOR_EVENTS
            means.append(total / size)
            errors.append((rating[row] - (total - rating[row]) / (size - 1)) ** 2)
        found.append((sum(errors), np.array(means)))
    return min(found, key=lambda pair: pair[0])[1]


def fit(files, spec=SPEC, most=EVENTS):
    return Rates.of(Counter(spec).count(files, most), spec)


def test_no_more_events_than_the_limit_are_counted_of_each_file_the_same(day):
    files, columns, _ = day
    few = fit(files, most=30).predict({}, 1)["click"]
    counted = [row for row in range(EVENTS) if row // 3 < 10]
    assert few[0] == pytest.approx((columns["clicked"][counted].sum() + 1) / 32, rel=1e-5)


def test_spec_of_numbers_alone_has_rates_of_near_ones(day):
    files, columns, absent = day
    spec = parse_spec(SPEC.to_yaml(), "spec", ["features={age: {type: dense}}"])
    records = list(tf.data.TFRecordDataset(files[1], "GZIP").as_numpy_iterator())
    buckets = event_buckets(tf.io.parse_example(records, raw_feature_spec(spec)), spec)
    values = eighths(columns, absent)
    assert len(set(values["age"])) > 20
    np.testing.assert_allclose(
        fit(files, spec).predict({n: v.numpy() for n, v in buckets.items()}, 100)["click"],
        [expected(columns, absent, "clicked", row, values) for row in range(1, EVENTS, 3)],
        rtol=1e-4,
    )


def test_spec_of_lists_alone_has_base_rates(day):
    files, columns, _ = day
    lists = "features={recent: {type: categorical, multivalued: true, buckets: 9, embedding: 2}}"
    spec = parse_spec(SPEC.to_yaml(), "spec", [lists])
    answer = fit(files, spec).predict({}, 4)["click"]
    np.testing.assert_allclose(
        answer, np.full(4, (columns["clicked"].sum() + 1) / (EVENTS + 2)), rtol=1e-5
    )


def test_counts_of_days_that_were_kept_add_up_to_those_of_all(day, tmp_path):
    files, _, _ = day
    counter = Counter(SPEC)
    for number, file in enumerate(files):
        save_counts(str(tmp_path / f"{number}.npz"), counter.count([file], EVENTS))
    kept = [Counter(SPEC).load(str(tmp_path / f"{number}.npz")) for number in range(len(files))]
    together = counter.count(files, EVENTS)
    for name, counts in together.items():
        np.testing.assert_allclose(sum(of_day[name] for of_day in kept), counts)
        assert counts.any()


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-9], lambda b: b[:40] + b"x" * 60])
def test_damaged_counts_are_named(tmp_path, damage):
    counter, path = Counter(SPEC), tmp_path / "counts.npz"
    save_counts(str(path), counter.nothing())
    counter.load(str(path))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadDataError, match=r"counts.npz: damaged .*remove it"):
        counter.load(str(path))
