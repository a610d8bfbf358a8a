"""The metrics from mergeable sums, against float64 NumPy, counted pairs and simulated days."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluator import ranking
from components.evaluator.estimates import BLOCKS, estimate
from components.evaluator.metrics import COMPARISONS, METRICS
from components.evaluator.ranking import merge_rankings, rankings_by_group
from components.evaluator.sums import merge, sums_by_group
from schemas.tasks import WITHIN_GROUPS

GROUPS = 3
BY_NAME = {metric.name: metric for metric in METRICS}


@st.composite
def events(draw, max_size=60):
    """Labels, scores with ties, and weights of a few groups; weights may be 0."""
    number = draw(st.integers(0, max_size))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    distinct = draw(st.integers(1, 40))
    scores = rng.choice(rng.random(distinct) ** draw(st.sampled_from([1, 8])), number)
    return {
        "labels": (rng.random(number) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))).astype("f4"),
        "scores": scores.astype(np.float32),
        "weights": (rng.random(number) < draw(st.sampled_from([0.5, 1.0]))).astype("f4"),
        "blocks": rng.integers(0, draw(st.sampled_from([1, 4, BLOCKS])), number),
        "groups": rng.integers(0, GROUPS, number),
    }


NAMES = ("labels", "scores", "weights", "blocks", "groups")


def sums(columns, kind="binary"):
    return sums_by_group(kind, *(columns[name] for name in NAMES), GROUPS)


def where(columns, mask):
    return {name: values[mask] for name, values in columns.items()}


def metrics_of(of_group, kind):
    return {
        m.name: m.estimate(of_group)
        for m in METRICS
        if kind in m.kinds and m.name not in WITHIN_GROUPS
    }


def pairwise_auc(labels, scores, weights):
    positive, negative = (weights > 0) & (labels == 1), (weights > 0) & (labels == 0)
    if not positive.any() or not negative.any():
        return math.nan
    differences = scores[positive][:, None].astype(float) - scores[negative][None, :]
    return float(np.mean((differences > 0) + 0.5 * (differences == 0)))


def integrated_pr_auc(labels, scores, weights):
    """Precision over recall, each score's events being found one small part after the other."""
    labels, scores = labels[weights > 0], scores[weights > 0]
    positives = labels.sum()
    if not positives or positives == len(labels):
        return math.nan
    area = hits = found = 0.0
    for score in np.unique(scores)[::-1]:
        new_hits, new = labels[scores == score].sum(), (scores == score).sum()
        parts = (np.arange(20_000) + 0.5) / 20_000
        precision = (hits + parts * new_hits) / (found + parts * new)
        area += precision.mean() * new_hits / positives
        hits, found = hits + new_hits, found + new
    return area


def average(values, weights):
    return float(np.average(values, weights=weights)) if weights.sum() else math.nan


def expected_metrics(kind, columns):
    """Every metric of a kind by another way, in float64."""
    labels, scores, weights = (
        columns[name].astype(float) for name in ("labels", "scores", "weights")
    )
    rate = average(labels, weights)
    has_label = (weights * labels).sum() > 0
    expected = {
        "weighted_example_count": weights.sum(),
        "mean_label": rate,
        "mean_prediction": average(scores, weights),
        "calibration": (
            (weights * scores).sum() / (weights * labels).sum() if has_label else math.nan
        ),
    }
    if kind == "binary":
        clipped = np.clip(scores, 1e-7, 1 - 1e-7)
        losses = -np.log(np.where(labels == 1, clipped, 1 - clipped))
        of_rate = -np.log(np.where(labels == 1, rate, 1 - rate))
        both = 0 < rate < 1
        return expected | {
            "auc": pairwise_auc(labels, scores, weights),
            "pr_auc": integrated_pr_auc(labels, scores, weights),
            "log_loss": average(losses, weights),
            "normalised_entropy": (
                average(losses, weights) / average(of_rate, weights) if both else math.nan
            ),
        }
    squared, spread = average((scores - labels) ** 2, weights), average(labels**2, weights)
    deviation = math.sqrt(max(spread - rate**2, 0.0)) if weights.sum() else math.nan
    return expected | {
        "rmse": math.sqrt(squared),
        "mae": average(np.abs(scores - labels), weights),
        "label_standard_deviation": deviation,
        "r2": 1 - squared / deviation**2 if deviation > 1e-6 else math.nan,
    }


@pytest.mark.parametrize("kind", ["binary", "regression"])
@settings(max_examples=60)
@given(columns=events())
def test_metrics_are_those_of_float64_and_of_counted_pairs(kind, columns):
    for group, of_group in enumerate(sums(columns, kind)):
        found = metrics_of(of_group, kind)
        expected = expected_metrics(kind, where(columns, columns["groups"] == group))
        assert found.keys() >= expected.keys()
        for name, value in expected.items():
            tolerance = 1e-6 if name == "pr_auc" else 1e-9
            wanted = pytest.approx(value, rel=tolerance, abs=1e-9, nan_ok=True)
            assert found[name][0] == wanted, name


FIRST_ORDER = {"auc", "pr_auc"}


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_value_without_a_block_is_that_of_the_other_events(kind):
    rng = np.random.default_rng(0)
    number = 6000
    labels = (rng.random(number) < 0.2).astype("f4")
    scores = 1 / (1 + np.exp(2 - labels - rng.normal(0, 1, number)))
    columns = {
        "labels": labels if kind == "binary" else labels + scores,
        "scores": scores.astype("f4"),
        "weights": (rng.random(number) < 0.9).astype("f4"),
        "blocks": rng.integers(0, BLOCKS, number),
        "groups": np.zeros(number, int),
    }
    found = metrics_of(sums(columns, kind)[0], kind)
    for block in (0, 17, BLOCKS - 1):
        others = where(columns, columns["blocks"] != block)
        expected = metrics_of(sums(others, kind)[0], kind)
        for name, values in found.items():
            if name == "weighted_example_count":
                assert (values == values[0]).all()  # a count has no error
                continue
            moved = expected[name][0] - values[0]
            # What a block moves is small; first-order values are off by a small part of that.
            wanted = pytest.approx(moved, rel=0.1 if name in FIRST_ORDER else 1e-6, abs=1e-9)
            assert values[1 + block] - values[0] == wanted, name


@given(events(), st.integers(1, 5), st.randoms())
def test_merged_parts_are_the_whole(columns, parts, random):
    number = len(columns["labels"])
    part_of = np.array([random.randrange(parts) for _ in range(number)], int)
    whole = sums(columns)
    pieces = [sums(where(columns, part_of == part)) for part in range(parts)]
    for group in range(GROUPS):
        merged = metrics_of(merge([piece[group] for piece in pieces]), "binary")
        for name, values in metrics_of(whole[group], "binary").items():
            np.testing.assert_allclose(merged[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


def simulated_day(rng, users=400, of_user=5.0):
    """A task's events: users differ in what the model does not know of them, and how it errs."""
    counts = rng.poisson(of_user, users)
    user = np.repeat(np.arange(users), counts)
    number = len(user)
    known = rng.normal(0, 1, number) - 1.0
    labels = rng.random(number) < 1 / (1 + np.exp(-(known + rng.normal(0, 1.5, users)[user])))
    model = known + rng.normal(0, 0.6, users)[user]
    served = known + rng.normal(0, 0.6, number)
    chances = [1 / (1 + np.exp(-logit)) for logit in (model, served)]
    return labels.astype(float), chances, user, number


@pytest.mark.parametrize("name", ["auc", "pr_auc", "log_loss", "normalised_entropy", "calibration"])
def test_standard_error_is_how_far_a_value_and_a_change_scatter_from_day_to_day(name):
    rng = np.random.default_rng(1)
    values, changes, errors, errors_of_changes, naive = [], [], [], [], []
    for _ in range(150):
        labels, chances, user, number = simulated_day(rng)
        zeros, ones = np.zeros(number, int), np.ones(number)
        found = []
        for blocks in (user % BLOCKS, rng.integers(0, BLOCKS, number)):
            of_models = [
                sums_by_group("binary", labels, scores, ones, blocks, zeros, 1)[0]
                for scores in chances
            ]
            model, served = (BY_NAME[name].estimate(item) for item in of_models)
            weights = of_models[0].columns["weight"]
            found.append((estimate(model, weights), estimate(model - served, weights)))
        (value, change), (of_events, _) = found
        values.append(value.value)
        changes.append(change.value)
        errors.append(value.error)
        errors_of_changes.append(change.error)
        naive.append(of_events.error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)
    assert np.mean(errors_of_changes) == pytest.approx(np.std(changes), rel=0.15)
    # The same events as if they were independent.
    assert np.mean(naive) < 0.9 * np.mean(errors)


def test_error_of_a_value_that_hangs_on_one_block_cannot_be_told():
    weights = np.zeros(BLOCKS)
    weights[3] = 5.0
    assert math.isnan(estimate(np.ones(1 + BLOCKS), weights).error)
    without = np.ones(1 + BLOCKS)
    without[4] = math.nan
    weights[:] = 1.0
    assert math.isnan(estimate(without, weights).error)


@pytest.mark.parametrize("scale", [1.5, -0.5])
def test_score_is_compared_with_the_served_models_in_its_deviations(scale):
    rng = np.random.default_rng(0)
    served = rng.normal(3.0, 2.0, 1000)
    scores = scale * served + 1.0 + rng.normal(0.0, 1.0, 1000)
    ones, zeros = np.ones(1000), np.zeros(1000, int)
    blocks = rng.integers(0, BLOCKS, 1000)
    of_model, of_served = (
        sums_by_group("score", served, predictions, ones, blocks, zeros, 1)[0]
        for predictions in (scores, served)
    )
    found = {c.name: c.estimate(of_model, of_served)[0] for c in COMPARISONS if c.served}
    assert found == {
        "score_scale": pytest.approx(scores.std() / served.std()),
        "score_shift": pytest.approx((scores - served).mean() / served.std()),
        "score_correlation": pytest.approx(np.corrcoef(scores, served)[0, 1]),
    }


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_crowded_ranking_is_off_by_half_the_tied_pairs_at_most_however_it_is_merged(seed, parts):
    rng = np.random.default_rng(seed)
    number = 3000
    labels = (rng.random(number) < 0.2).astype("f4")
    scores = (rng.beta(1, 20, number) + 0.01 * labels).astype(np.float32)
    zeros, ones = np.zeros(number, int), np.ones(number, "f4")
    blocks = rng.integers(0, 2, number)
    (whole,) = rankings_by_group(labels, scores, ones, blocks, zeros, 1)
    exact = whole.auc()[0]
    assert exact == pytest.approx(pairwise_auc(labels, scores, ones), abs=1e-12)
    limit, ranking.MAX_CELLS = ranking.MAX_CELLS, 500
    try:
        crowded = merge_rankings(
            [
                rankings_by_group(
                    *(values[i::parts] for values in (labels, scores, ones, blocks, zeros)), 1
                )[0]
                for i in range(parts)
            ]
        )
    finally:
        ranking.MAX_CELLS = limit
    assert len(crowded.cells) <= 500
    assert crowded.dropped > 0
    bits = scores.view(np.uint32) >> crowded.dropped
    _, level = np.unique(bits, return_inverse=True)
    tied = np.bincount(level, labels) @ np.bincount(level, 1 - labels)
    tied /= labels.sum() * (1 - labels).sum()
    assert abs(crowded.auc()[0] - exact) <= 0.5 * tied
    assert crowded.auc()[0] == pytest.approx(exact, abs=1e-3)
    assert crowded.pr_auc()[0] == pytest.approx(whole.pr_auc()[0], abs=2e-3)
    assert crowded.weights.sum() == number


def test_ranking_of_a_million_events_is_within_a_hundred_thousandth():
    rng = np.random.default_rng(0)
    number = 1_000_000
    labels = (rng.random(number) < 0.02).astype("f4")
    scores = (1 / (1 + np.exp(3 - rng.normal(labels, 1.0)))).astype(np.float32)
    blocks = rng.integers(0, BLOCKS, number)
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(number)
    ranks[order] = np.arange(1, number + 1)
    positives = labels.sum(dtype=float)
    expected = (ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (
        positives * (number - positives)
    )
    merged = merge_rankings(
        [
            rankings_by_group(
                labels[part],
                scores[part],
                np.ones(len(part)),
                blocks[part],
                np.zeros(len(part), int),
                1,
            )[0]
            for part in np.array_split(np.arange(number), 100)
        ]
    )
    assert len(merged.cells) <= ranking.MAX_CELLS
    assert merged.auc()[0] == pytest.approx(expected, abs=1e-5)
