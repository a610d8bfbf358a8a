"""What a bound tells apart, against drawing days."""

from pathlib import Path

import numpy as np
import pytest

from components.evaluator.estimates import Estimate
from components.evaluator.power import powers
from schemas.loading import load_spec

DEMO = str(Path(__file__).parents[2] / "schemas" / "demo.yaml")
ERROR, EVENTS = 0.002, 10_000.0


def day(change=0.0, auc=0.7):
    counted = Estimate(EVENTS, 0.0, 63)
    return {
        "candidate": {
            "click": {"auc": Estimate(auc, 0.005, 63), "weighted_example_count": counted}
        },
        "change": {"click": {"auc": Estimate(change, ERROR, 63)}},
    }


def of_change(gate, events=None):
    spec = load_spec(DEMO, [f"tasks.click.gate={gate}"])
    (found,) = [p for p in powers([day(), day(0.001)], spec, events) if p.bound.is_change]
    return found


@pytest.mark.parametrize("undecided", ["block", "pass"])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_power_is_how_often_drawn_days_are_blocked(confidence, undecided):
    found = of_change(
        f"{{min_auc: 0.6, max_auc_drop: 0.004, confidence: {confidence}, undecided: {undecided}}}"
    )
    rng = np.random.default_rng(0)

    def blocked(true):
        drawn = rng.normal(true, ERROR, 20_000)
        judged = [found.bound.judged(Estimate(value, ERROR, 63)) for value in drawn]
        return np.mean([not found.bound.holds(value) for value in judged])

    assert found.error == pytest.approx(ERROR)
    assert blocked(0.0) == pytest.approx(found.false_blocks, abs=0.01)
    assert blocked(-found.smallest_seen) == pytest.approx(0.95, abs=0.01)


def test_more_events_have_smaller_errors():
    few, many = (of_change("{min_auc: 0.6, max_auc_drop: 0.004}", n) for n in (None, 100 * EVENTS))
    assert many.error == pytest.approx(few.error / 10)
    assert many.false_blocks < 1e-6 < few.false_blocks
    assert many.smallest_seen < few.smallest_seen


def test_absolute_bound_is_told_from_the_days_own_value():
    spec = load_spec(DEMO, ["tasks.click.gate={min_auc: 0.69, max_auc_drop: null}"])
    (found,) = [p for p in powers([day()], spec) if p.bound.metric == "auc"]
    # Two standard errors.
    assert found.false_blocks == pytest.approx(0.0228, abs=1e-3)
    assert found.smallest_seen == pytest.approx(0.01 + 1.645 * 0.005, rel=1e-3)


def test_what_has_no_error_has_no_power():
    spec = load_spec(DEMO, ["tasks.click.gate={min_auc: 0.69}"])
    assert not list(powers([{"candidate": {"click": {"auc": Estimate(0.7)}}}], spec))
