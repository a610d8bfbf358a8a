"""The interval of a lead, against resampling whole users."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.daily import metric
from benchmarks.leads import lead
from schemas.loading import parse_spec

SPEC = parse_spec(
    """
name: leads
events: {id: event_id}
features: {user_id: {type: categorical, buckets: 16, embedding: 2}}
tasks:
  click: {kind: binary, label: click, gate: {min_auc: 0.6}}
  seconds: {kind: regression, label: seconds, gate: {min_r2: 0.1}}
model: {preset: tiny}
serving: {score: click}
""",
    "spec.yaml",
)
DAYS = [pd.Timestamp("2026-01-01"), pd.Timestamp("2026-01-02")]


@pytest.fixture(scope="module")
def days():
    """Events of 300 users, five a day of each, and predictions that err by user and by event."""
    rng = np.random.default_rng(7)
    rows = 300 * 5
    user = np.repeat(np.arange(300), 5)
    parts, ours, theirs = [], {}, {}
    for day in DAYS:
        taste = rng.normal(size=rows)
        parts.append(
            pd.DataFrame(
                {
                    "date": day,
                    "user_id": user,
                    "click": (taste + rng.logistic(size=rows) > 1.0).astype(float),
                    "seconds": taste + rng.normal(size=rows),
                }
            )
        )
        for found, size in ((ours, 0.6), (theirs, 0.8)):
            errors = size * (rng.normal(size=300)[user] + rng.normal(size=rows))
            found[day] = {"click": taste + errors, "seconds": taste + errors}
    return pd.concat(parts, ignore_index=True), ours, theirs


def test_a_lead_and_its_interval_over_users(days):
    events, ours, theirs = days
    leads = lead(events, SPEC, [ours], theirs)
    rng = np.random.default_rng(1)
    for name, sign in (("click", 1.0), ("seconds", -1.0)):
        columns = [
            (today[name].to_numpy(), ours[day][name], theirs[day][name])
            for day in DAYS
            for today in [events[events["date"] == day]]
        ]

        def difference(rows, columns=columns, name=name, sign=sign):
            task = SPEC.tasks[name]
            return sign * np.mean(
                [
                    metric(task, y[rows], a[rows]) - metric(task, y[rows], b[rows])
                    for y, a, b in columns
                ]
            )

        drawn = [
            difference((rng.integers(0, 300, 300)[:, None] * 5 + np.arange(5)).ravel())
            for _ in range(300)
        ]
        ahead, half = leads[name]
        assert ahead == pytest.approx(difference(slice(None)), abs=1e-12)
        assert half == pytest.approx(1.96 * np.std(drawn), rel=0.25)


def test_equal_predictions_have_no_lead(days):
    events, ours, _ = days
    assert set(lead(events, SPEC, [ours, ours], ours).values()) == {(0.0, 0.0)}
