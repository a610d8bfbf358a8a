"""What the experiments share: its metric, its order of the data, its rules, its choice."""

import dataclasses
import types

import numpy as np
import pytest
from keras import ops

from experiments import bench, rules
from experiments.replicas import Log
from trainer_module.optimizers import Step

RULES = [
    rules.LayerClippy(),
    rules.CoordinateClippy(),
    rules.RelativeMove(),
    rules.FanInMove(),
    rules.UnitMove(),
]


def step(w, r, eta):
    w, r = (ops.convert_to_tensor(np.asarray(x, "float32")) for x in (w, r))
    fan_in = float(w.shape[-2]) if len(w.shape) > 1 else 1.0
    eta = ops.convert_to_tensor(np.float32(eta))
    return Step(w=w, g=r, r=r, p=ops.ones_like(r), eta=eta, fan_in=fan_in)


def moved(rule, w, r, eta):
    return np.abs(eta * np.asarray(rule.factor(step(w, r, eta)), "float64") * r)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("shape", [(64, 32), (64,), (1, 1)])
def test_a_rule_holds_large_moves_to_its_bound_whatever_the_rate(rule, shape):
    rng = np.random.default_rng(0)
    w, r = rng.normal(size=shape) * 0.02, rng.uniform(0.1, 1.0, shape)
    small, large = moved(rule, w, r, 10.0), moved(rule, w, r, 1000.0)
    np.testing.assert_allclose(small, large, rtol=1e-4)
    assert 0 < large.max() < 0.1


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_small_move_passes(rule):
    w = np.full((8, 4), 0.5)
    r = np.full((8, 4), 1e-3)
    np.testing.assert_allclose(np.asarray(rule.factor(step(w, r, 1e-3))), 1.0)


def test_bounds_are_those_of_float64():
    rng = np.random.default_rng(1)
    w, r = rng.normal(size=(64, 32)) * 0.02, rng.normal(size=(64, 32))
    rms = np.sqrt(np.mean(w**2))

    def most(bound):
        return np.min(bound / np.abs(r)) * np.abs(r)

    expected = {
        rules.LayerClippy(0.1, 1e-4): most(0.5 * np.abs(w) + 0.1 * rms),
        rules.LayerClippy(0.1, 0.05): most(0.5 * np.abs(w) + 0.05),
        rules.CoordinateClippy(): 0.5 * np.abs(w) + 1e-3,
        rules.RelativeMove(0.1): 0.1 * rms * np.abs(r) / np.sqrt(np.mean(r**2)),
        rules.FanInMove(0.32): 0.005 * np.abs(r) / np.sqrt(np.mean(r**2)),
        rules.UnitMove(): 0.02 * np.linalg.norm(w, axis=0) * np.abs(r) / np.linalg.norm(r, axis=0),
    }
    for rule, move in expected.items():
        np.testing.assert_allclose(moved(rule, w, r, 100.0), move, rtol=1e-4, err_msg=str(rule))


def test_batches_are_of_the_window_and_the_same_for_a_seed():
    log = types.SimpleNamespace(day=np.repeat(np.arange(5), 20))
    order = Log.order(log, days=5, steps=3, batch=8, window=2, seed=7)
    assert order.shape == (15, 8)
    for day, rows in enumerate(order.reshape(5, -1)):
        assert set(log.day[rows]) <= {day, day - 1}
        assert len(set(rows[:20])) == 20
    np.testing.assert_array_equal(order, Log.order(log, 5, 3, 8, 2, 7))


def test_rivals_get_their_best_for_each_model_and_candidates_one_for_all():
    def row(model, name, rule, click):
        described = dataclasses.asdict(rule)
        head = {"stage": "search", "model": model, "name": name}
        return {**head, "rule": described, "metrics": {"click": click}}

    first, second = bench.GRIDS["gc"][:2]
    low, high = bench.GRIDS["fan_in_move"][:2]
    rows = [
        row("large", "gc", first, 0.7),
        row("large", "gc", second, 0.6),
        row("small", "gc", first, 0.6),
        row("small", "gc", second, 0.7),
        row("large", "fan_in_move", low, 0.74),
        row("small", "fan_in_move", low, float("nan")),
        row("large", "fan_in_move", high, 0.7),
        row("small", "fan_in_move", high, 0.7),
    ]
    assert bench.chosen(rows, "large")["gc"] == first
    assert bench.chosen(rows, "small")["gc"] == second
    assert {bench.chosen(rows, m)["fan_in_move"] for m in ("small", "large")} == {high}
