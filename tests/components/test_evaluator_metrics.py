"""The sums that metrics follow from, against float64 NumPy and pairwise counting."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluator import metrics
from components.evaluator.metrics import (
    TaskSums,
    merge_rankings,
    merge_tasks,
    moments_by_group,
    rankings_by_group,
)


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
        "groups": rng.integers(0, 3, number),
    }


def task_sums(columns, groups=3):
    arguments = (*(columns[name] for name in ("labels", "scores", "weights", "groups")), groups)
    return [
        TaskSums(*pair)
        for pair in zip(moments_by_group(*arguments), rankings_by_group(*arguments), strict=True)
    ]


def pairwise_auc(labels, scores, weights):
    positive, negative = (weights > 0) & (labels == 1), (weights > 0) & (labels == 0)
    if not positive.any() or not negative.any():
        return math.nan
    differences = scores[positive][:, None].astype(float) - scores[negative][None, :]
    return float(np.mean((differences > 0) + 0.5 * (differences == 0)))


def same(value, expected):
    return value == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)


@given(events())
def test_metrics_are_those_of_float64_and_of_counted_pairs(columns):
    for group, sums in enumerate(task_sums(columns)):
        inside = columns["groups"] == group
        labels, scores, weights = (
            columns[name][inside].astype(float) for name in ("labels", "scores", "weights")
        )
        found = sums.metrics()
        assert found["weighted_example_count"] == weights.sum()
        assert same(found["auc"], pairwise_auc(labels, scores, weights))
        if weights.sum():
            assert same(found["mean_label"], np.average(labels, weights=weights))
            assert same(found["mean_prediction"], np.average(scores, weights=weights))
            squared = np.average((scores - labels) ** 2, weights=weights)
            rmse = TaskSums(sums.moments).metrics()["root_mean_squared_error"]
            assert same(rmse, math.sqrt(squared))
        if (weights * labels).sum():
            assert same(found["calibration"], (weights * scores).sum() / (weights * labels).sum())
        else:
            assert math.isnan(found["calibration"])


@given(events(), st.integers(1, 5), st.randoms())
def test_merged_parts_are_the_whole(columns, parts, random):
    number = len(columns["labels"])
    part_of = np.array([random.randrange(parts) for _ in range(number)], int)
    whole = task_sums(columns)
    pieces = [
        task_sums({name: values[part_of == part] for name, values in columns.items()})
        for part in range(parts)
    ]
    for group in range(3):
        merged = merge_tasks([{"click": piece[group]} for piece in pieces])["click"].metrics()
        expected = whole[group].metrics()
        assert merged == {n: pytest.approx(v, nan_ok=True) for n, v in expected.items()}


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_crowded_ranking_is_off_by_half_the_tied_pairs_at_most_however_it_is_merged(seed, parts):
    rng = np.random.default_rng(seed)
    number = 3000
    labels = (rng.random(number) < 0.2).astype("f4")
    scores = (rng.beta(1, 20, number) + 0.01 * labels).astype(np.float32)
    zeros, ones = np.zeros(number, int), np.ones(number, "f4")
    exact = rankings_by_group(labels, scores, ones, zeros, 1)[0].auc()
    assert exact == pytest.approx(pairwise_auc(labels, scores, ones), abs=1e-12)
    limit, metrics.MAX_SCORES = metrics.MAX_SCORES, 500
    try:
        crowded = merge_rankings(
            [
                rankings_by_group(
                    labels[i::parts], scores[i::parts], ones[i::parts], zeros[i::parts], 1
                )[0]
                for i in range(parts)
            ]
        )
    finally:
        metrics.MAX_SCORES = limit
    assert len(crowded.scores) <= 500
    assert crowded.dropped > 0
    negatives, positives = crowded.weights
    tied = (negatives * positives).sum() / (negatives.sum() * positives.sum())
    assert abs(crowded.auc() - exact) <= 0.5 * tied
    assert crowded.auc() == pytest.approx(exact, abs=1e-3)
    assert crowded.weights.sum() == number


def test_ranking_of_a_million_events_is_within_a_hundred_thousandth():
    rng = np.random.default_rng(0)
    number = 1_000_000
    labels = (rng.random(number) < 0.02).astype("f4")
    scores = (1 / (1 + np.exp(3 - rng.normal(labels, 1.0)))).astype(np.float32)
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(number)
    ranks[order] = np.arange(1, number + 1)
    positives = labels.sum(dtype=float)
    expected = (ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (
        positives * (number - positives)
    )
    ranking = merge_rankings(
        [
            rankings_by_group(
                part_labels,
                part_scores,
                np.ones_like(part_labels),
                np.zeros(len(part_labels), int),
                1,
            )[0]
            for part_labels, part_scores in zip(
                np.array_split(labels, 100), np.array_split(scores, 100), strict=True
            )
        ]
    )
    assert len(ranking.scores) <= metrics.MAX_SCORES
    assert ranking.auc() == pytest.approx(expected, abs=1e-5)
