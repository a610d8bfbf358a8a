"""Metrics within groups, against counting group by group and TFMA's own NDCG."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluator import groups
from components.evaluator.estimates import BLOCKS
from components.evaluator.groups import GroupedEvents, deal, sum_groups
from components.evaluator.metrics import METRICS
from components.evaluator.sums import merge
from schemas.tasks import WITHIN_GROUPS

KINDS = {"click": "binary", "rate": "regression"}
FIRST = 3


def grouped(seed, number, users, distinct=12):
    """Events with ties in labels and scores, some without a label or a value of the slice."""
    rng = np.random.default_rng(seed)
    click = (rng.random(number) < 0.4).astype("f4")
    click[rng.random(number) < 0.1] = math.nan
    rate = rng.integers(-1, 4, number).astype("f4")
    rate[rng.random(number) < 0.2] = math.nan
    values = np.array(["phone", "tv", None], object)

    def scores():
        return rng.choice(rng.random(distinct), number).astype("f4")

    return GroupedEvents(
        groups=rng.integers(0, users, number) * 1_000_003,
        events=rng.permutation(number),
        slices={"device": values[rng.integers(0, 3, number)]},
        labels={"click": click, "rate": rate},
        predictions={
            "candidate": {"click": scores(), "rate": scores()},
            "baseline": {"click": scores(), "rate": scores()},
        },
    )


def part(events, rows):
    return groups._mapped(lambda values: values[rows], events)


def metrics_of(events, batches=1, seed=0):
    """Every metric by slice, model and output, by way of batches in any order."""
    order = np.random.default_rng(seed).permutation(len(events.groups))
    dealt = {}
    for rows in np.array_split(order, batches):
        for block, piece in deal(part(events, rows)):
            dealt.setdefault(block, []).append(piece)
    found = {}
    for block, pieces in dealt.items():
        for key, models in sum_groups(block, pieces, KINDS, FIRST):
            for model, outputs in models.items():
                for output, sums in outputs.items():
                    found.setdefault((key, model, output), []).append(sums)
    return {
        (key, model, output, metric.name): metric.estimate(merge(several))
        for (key, model, output), several in found.items()
        for metric in METRICS
        if metric.name in WITHIN_GROUPS and KINDS[output] in metric.kinds
    }


def in_order(labels, scores):
    """Share of the pairs with unequal labels whose scores are in their order, and their number."""
    right = pairs = 0.0
    for i in range(len(labels)):
        for j in range(i):
            if labels[i] != labels[j]:
                pairs += 1
                sign = (labels[i] - labels[j]) * (float(scores[i]) - float(scores[j]))
                right += 1.0 if sign > 0 else 0.5 if sign == 0 else 0.0
    return (right / pairs if pairs else math.nan), pairs


def discounted(gains):
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains[:FIRST]))


def counted(events, mask, model, output):
    """The same metrics, group by group."""
    labels, scores = events.labels[output], events.predictions[model][output]
    ordered, ndcg = [], []
    for group in np.unique(events.groups[mask]):
        rows = np.flatnonzero(mask & (events.groups == group) & ~np.isnan(labels))
        rows = rows[np.argsort(events.events[rows])]
        share, pairs = in_order(labels[rows], scores[rows])
        if pairs:
            ordered.append((share, len(rows)))
        gains = np.maximum(labels[rows].astype(float), 0.0)
        best = discounted(sorted(gains, reverse=True))
        if best > 0:
            by_score = sorted(range(len(rows)), key=lambda row: -float(scores[rows[row]]))
            ndcg.append((discounted([gains[row] for row in by_score]) / best, 1))

    def mean(pairs):
        weight = sum(weight for _, weight in pairs)
        return sum(value * weight for value, weight in pairs) / weight if pairs else math.nan

    name = "gauc" if KINDS[output] == "binary" else "pairwise_accuracy"
    return {name: mean(ordered), "ndcg": mean(ndcg)}


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 12), st.integers(1, 4))
def test_metrics_are_those_counted_group_by_group_whatever_the_batches(
    seed, number, users, batches
):
    events = grouped(seed, number, users)
    lags, groups.LAGS = groups.LAGS, 100
    try:
        found = metrics_of(events, batches, seed)
    finally:
        groups.LAGS = lags
    device = events.slices["device"]
    masks = {(): np.ones(number, bool)} | {
        (("device", name),): device == name for name in ("phone", "tv") if (device == name).any()
    }
    assert {key for key, *_ in found} == set(masks)
    for key, mask in masks.items():
        for model in ("candidate", "baseline"):
            for output in KINDS:
                for name, value in counted(events, mask, model, output).items():
                    values = found[key, model, output, name]
                    assert values[0] == pytest.approx(value, nan_ok=True, rel=1e-6), (key, name)


def test_ndcg_is_that_of_tfma():
    tfma = pytest.importorskip("tensorflow_model_analysis")
    events = grouped(3, 400, 40, distinct=400)
    scores = np.random.default_rng(0).permutation(400).astype("f4")
    events.predictions["candidate"]["rate"] = scores
    computation = tfma.metrics.NDCG(gain_key="gain", top_k_list=[FIRST]).computations(
        sub_keys=[], query_key="query"
    )[0]
    combiner = computation.combiner
    accumulator = combiner.create_accumulator()
    labels = events.labels["rate"]
    for group in np.unique(events.groups):
        rows = np.flatnonzero((events.groups == group) & ~np.isnan(labels))
        inputs = tfma.metrics.StandardMetricInputs(
            labels=labels[rows],
            predictions=scores[rows],
            example_weights=np.ones(1),
            features={"query": np.full(len(rows), group), "gain": np.maximum(labels[rows], 0.0)},
        )
        accumulator = combiner.add_input(accumulator, inputs)
    (expected,) = combiner.extract_output(accumulator).values()
    found = metrics_of(events)[(), "candidate", "rate", "ndcg"]
    assert found[0] == pytest.approx(expected, rel=1e-6)


def test_pairs_of_large_groups_are_a_fair_sample():
    rng = np.random.default_rng(0)
    number = 4000
    labels = rng.normal(0, 1, number).astype("f4")
    scores = (labels + rng.normal(0, 1, number)).astype("f4")
    # The logs' order is that of the labels.
    order = np.argsort(labels)
    events = GroupedEvents(
        np.full(number, 7),
        rng.permutation(number),
        {},
        {"rate": labels[order]},
        {"candidate": {"rate": scores[order]}},
    )
    found = metrics_of(events)[(), "candidate", "rate", "pairwise_accuracy"][0]
    # Both are normal, with a correlation of sqrt(1 / 2).
    assert found == pytest.approx(0.5 + math.asin(math.sqrt(0.5)) / math.pi, abs=0.01)


def test_a_model_that_answers_always_the_same_orders_half_of_the_pairs():
    events = grouped(5, 600, 60)
    for outputs in events.predictions.values():
        for scores in outputs.values():
            scores[:] = 0.3
    for (_, _, _, name), values in metrics_of(events).items():
        if name != "ndcg":
            assert values[0] == pytest.approx(0.5)


def test_each_group_is_in_one_block_and_the_rest_is_known_without_it():
    events = grouped(11, 2000, 300)
    found = metrics_of(events)
    block = int(events.groups[0] % BLOCKS)
    others = metrics_of(part(events, events.groups % BLOCKS != block))
    for place, values in others.items():
        assert found[place][1 + block] == pytest.approx(values[0])


def test_the_spec_knows_which_metrics_need_groups():
    assert {m.name for m in METRICS if m.weight != "weight"} == set(WITHIN_GROUPS)
