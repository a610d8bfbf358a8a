"""History features: counts and rates against plain float64 arithmetic."""

import math

import numpy as np
import pyarrow as pa
import pytest

from components import history
from schemas.loading import parse_spec

SPEC = """
name: test
features:
  user: {type: categorical, buckets: 10, embedding: 2}
  author: {type: categorical, dtype: int, buckets: 10, embedding: 2}
  user_history: {type: history, of: user, prior_strength: 5}
  pair_history: {type: history, of: [user, author], tasks: [click], prior_strength: 2}
  author_views: {type: history, of: author, tasks: []}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: 0.5}}
  watch: {kind: regression, label: seconds, transform: log1p, gate: {max_rmse: 9}}
  stars: {kind: regression, label: rating, optional: true, gate: {max_rmse: 9}}
model: {preset: tiny}
serving: {score: click}
"""


def spec_with(*overrides):
    return parse_spec(SPEC, "test", overrides)


def events(count, seed=0):
    rng = np.random.default_rng(seed)
    users = [f"u{n}" if n else None for n in rng.integers(6, size=count)]
    return pa.table(
        {
            "user": pa.array(users, pa.string()),
            "author": pa.array(rng.integers(4, size=count), mask=rng.random(count) < 0.1),
            "clicked": pa.array((rng.random(count) < 0.2).astype(np.float32)),
            "seconds": pa.array(rng.exponential(20, count).astype(np.float32)),
            "rating": pa.array(
                rng.integers(1, 6, count).astype(np.float32), mask=rng.random(count) < 0.5
            ),
        }
    )


def totals_of(table, name, spec):
    return history.count_events(table, spec.history[name], spec.history_tasks(name))


def table_of(totals, name, spec):
    return history.history_table(totals, name, spec.history[name], spec.history_tasks(name))


def reference(table, name, spec):
    """The inputs of each id, event by event."""
    feature = spec.history[name]
    rows = [row for row in table.to_pylist() if all(row[key] is not None for key in feature.of)]
    result = {}
    for key in {tuple(row[k] for k in feature.of) for row in rows}:
        own = [row for row in rows if tuple(row[k] for k in feature.of) == key]
        values = {f"{name}__count": len(own)}
        for task, declared in spec.history_tasks(name).items():

            def labels(rows, declared=declared):
                found = [r[declared.label] for r in rows if r[declared.label] is not None]
                if getattr(declared, "transform", "none") == "log1p":
                    return [math.log1p(max(value, 0)) for value in found]
                return found

            everyone, mine, strength = labels(rows), labels(own), feature.prior_strength
            if declared.kind == "binary":
                prior = (sum(everyone) + 0.5) / (len(everyone) + 1)
                strength /= math.sqrt(prior * (1 - prior))
                rate = (sum(mine) + strength * prior) / (len(mine) + strength)
                value = math.log(rate / (1 - rate)) - math.log(prior / (1 - prior))
            else:
                prior = sum(everyone) / len(everyone)
                value = (sum(mine) + strength * prior) / (len(mine) + strength) - prior
            values[f"{name}__{task}__rate"] = value
        result[key] = values
    return result


@pytest.mark.parametrize("name", spec_with().history)
def test_counts_and_rates_are_those_of_plain_arithmetic(name):
    spec, table = spec_with(), events(500)
    expected = reference(table, name, spec)
    found = table_of(totals_of(table, name, spec), name, spec).to_pylist()
    assert len(found) == len(expected)
    for row in found:
        values = expected[tuple(row.pop(key) for key in spec.history[name].of)]
        assert row == pytest.approx(values, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", spec_with().history)
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_totals_of_parts_add_up_to_those_of_the_whole(name, parts):
    spec, table = spec_with(), events(300)
    pieces = [table.take(list(range(part, 300, parts))) for part in range(parts)]
    merged = history.merge([totals_of(p, name, spec) for p in pieces], spec.history[name])
    assert table_of(merged, name, spec).to_pylist() == [
        pytest.approx(row) for row in table_of(totals_of(table, name, spec), name, spec).to_pylist()
    ]


def test_ids_without_history_have_zeros():
    spec, table = spec_with(), events(200)
    tables = {name: table_of(totals_of(table, name, spec), name, spec) for name in spec.history}
    asked = pa.table(
        {
            "user": pa.array(["u1", "unseen", None, "u2"]),
            "author": pa.array([99, 1, 1, None], pa.int64()),
        }
    )
    found = history.look_up(asked, tables, spec)
    assert set(found.column_names) == set(spec.inputs) - {"user", "author"}
    users = found["user_history__click__rate"].to_pylist()
    assert users[0] != 0.0
    assert users[1:3] == [0.0, 0.0]
    assert users[3] != 0.0
    assert found["pair_history__click__rate"].to_pylist() == [0.0] * 4
    assert [value > 0 for value in found["author_views__count"].to_pylist()] == [
        False,
        True,
        True,
        False,
    ]


def test_without_a_past_there_are_zeros_and_nothing_else():
    spec, nothing = spec_with(), events(0)
    tables = {name: table_of(totals_of(nothing, name, spec), name, spec) for name in spec.history}
    found = history.look_up(events(10), tables, spec)
    assert {value for column in found.columns for value in column.to_pylist()} == {0.0}


def test_the_most_frequent_ids_are_kept():
    spec = spec_with("features.user_history.max_ids=2")
    table = pa.concat_tables([events(200).slice(0, 0), *[events(50, seed) for seed in range(4)]])
    whole = table_of(totals_of(table, "user_history", spec_with()), "user_history", spec_with())
    kept = table_of(totals_of(table, "user_history", spec), "user_history", spec)
    assert kept.to_pylist() == whole.to_pylist()[:2]
    counts = whole["user_history__count"].to_pylist()
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("strength", [1e-9, 1e9])
def test_log_odds_are_finite_where_nobody_or_everybody_does_it(label, strength):
    spec = spec_with(f"features.user_history.prior_strength={strength}")
    table = events(50).set_column(2, "clicked", pa.array(np.full(50, label, np.float32)))
    rates = table_of(totals_of(table, "user_history", spec), "user_history", spec)
    assert np.isfinite(rates["user_history__click__rate"].to_numpy()).all()
