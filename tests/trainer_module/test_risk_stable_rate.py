"""The bracketing search, on planted thresholds and on trainings that diverge."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_module.risk.stable_rate import (
    RateOutcome,
    StableRate,
    Trial,
    search,
    why_diverged,
    wilson_interval,
)


def outcome(rate, diverged, trials=3):
    return RateOutcome(
        rate,
        tuple(
            Trial(seed, 1.0, 2.0, 0.5, "planted" if seed < diverged else "")
            for seed in range(trials)
        ),
    )


def planted(threshold):
    """Every training diverges above the threshold, none at or below it."""
    tried = []

    def attempt(rate):
        tried.append(rate)
        return outcome(rate, 3 if rate > threshold else 0)

    return attempt, tried


@settings(max_examples=100)
@given(st.floats(-6, 6), st.floats(-2, 2))
def test_the_bracket_holds_the_threshold(threshold, start):
    attempt, _ = planted(10**threshold)
    found = search(attempt, 10**start, attempts=60, resolution=1.2)
    assert found.complete
    assert found.highest_stable <= 10**threshold < found.lowest_unstable
    assert found.lowest_unstable <= 1.2 * found.highest_stable


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_no_more_rates_are_tried_than_allowed(attempts):
    attempt, tried = planted(1e9)
    found = search(attempt, 0.1, attempts=attempts)
    assert len(tried) == attempts
    assert not found.complete
    assert found.highest_stable == max(tried)
    assert found.lowest_unstable is None


def test_nothing_stable_within_the_budget_is_said():
    attempt, _ = planted(0.0)
    found = search(attempt, 0.1, attempts=3)
    assert found.highest_stable is None
    assert found.lowest_unstable == pytest.approx(0.1 / 16)
    assert not found.complete


def test_one_diverged_training_makes_a_rate_unstable():
    assert not outcome(0.1, diverged=1).stable
    assert outcome(0.1, diverged=0).stable


def test_a_stable_rate_above_an_unstable_one_does_not_count():
    found = StableRate((outcome(0.1, 0), outcome(0.2, 1), outcome(0.4, 0)), False)
    assert found.highest_stable == 0.1
    assert found.lowest_unstable == 0.2


@pytest.mark.parametrize(
    ("begin", "jump", "end", "jumps", "reason"),
    [
        (2.9, 150.0, 2.4, False, ""),
        (2.9, 150.0, 2.4, True, "the loss jumped from 3 to 150"),
        (2.9, 150.0, 2.6, False, "after a jump the loss ends at 2.6, above the 2.5 of base rates"),
        (2.9, 5.9, 2.6, False, ""),
        (2.9, 5.9, 2.6, True, ""),
        (2.9, 2.9, 3.1, False, "the loss ends at 3.1, above the 3 of the start"),
        (2.9, 150.0, 150.0, False, "the loss ends at 150, above the 3 of the start"),
        (2.9, math.nan, 2.4, False, "the loss of step 12 is not finite"),
        (2.9, math.inf, 2.4, True, "the loss of step 12 is not finite"),
    ],
)
def test_divergence_follows_from_jump_and_end(begin, jump, end, jumps, reason):
    losses = np.array([begin] * 12 + [jump] * 3 + [end] * 5)
    assert why_diverged(losses, 3.0, 2.5, jumps=jumps) == reason


def test_one_hard_batch_in_the_last_quarter_is_no_divergence():
    losses = np.array([2.9] * 18 + [4.0, 2.8])
    assert why_diverged(losses, 3.0, 2.5) == ""


# By the closed form, in steps: p = 0.3, n = 10: centre 0.3556, half width 0.2481.
@pytest.mark.parametrize(
    ("events", "trials", "lower", "upper"),
    [(0, 3, 0.0, 0.5615), (3, 3, 0.4385, 1.0), (3, 10, 0.1078, 0.6032), (0, 10, 0.0, 0.2775)],
)
def test_wilson_interval(events, trials, lower, upper):
    assert wilson_interval(events, trials) == pytest.approx((lower, upper), abs=1e-4)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_are_where_the_score_test_just_rejects(counts):
    events, trials = counts
    for bound in wilson_interval(events, trials):
        if 0.0 < bound < 1.0:
            score = (events / trials - bound) / math.sqrt(bound * (1 - bound) / trials)
            assert abs(score) == pytest.approx(1.95996, abs=1e-4)
    lower, upper = wilson_interval(events, trials)
    assert np.all([0.0 <= lower <= events / trials <= upper <= 1.0])
