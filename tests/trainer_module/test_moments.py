import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_module.moments import quantile_edges, robust_moments


def _sample(name, count=3000):
    rng = np.random.default_rng(0)
    return {
        "normal": rng.normal(100.0, 30.0, count),
        "shifted": rng.normal(1e6, 1.0, count),
        "uniform": rng.uniform(-1.0, 1.0, count),
        "exponential": rng.exponential(5.0, count),
        "indicator": (rng.random(count) < 0.2).astype(float),
        "rare": (rng.random(count) < 0.02) * rng.normal(50.0, 5.0, count),
        "constant": np.full(count, 3.0),
    }[name]


@pytest.mark.parametrize(
    "name", ["normal", "shifted", "uniform", "exponential", "indicator", "rare", "constant"]
)
def test_data_without_outliers_keeps_its_moments(name):
    values = _sample(name)
    mean, variance = robust_moments(values)
    assert mean == pytest.approx(values.mean(), rel=1e-2)
    assert variance == pytest.approx(values.var(), rel=2e-2)


@pytest.mark.parametrize("size", [1e6, -1e6, 3e38, -3e38])
@pytest.mark.parametrize("share", [1 / 3000, 0.01])
@pytest.mark.parametrize("name", ["normal", "shifted", "uniform", "exponential"])
def test_outliers_however_large_move_them_little(name, share, size):
    values = _sample(name)
    clean = values.std()
    dirty = values.copy()
    dirty[: int(len(values) * share)] = size
    mean, variance = robust_moments(dirty)
    assert abs(mean - values.mean()) < 0.15 * clean
    assert 0.9 < np.sqrt(variance) / clean < 1.6


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50),
    st.floats(0.1, 1e3),
    st.floats(-1e3, 1e3),
)
def test_moments_follow_a_change_of_unit(values, factor, offset):
    values = np.array(values)
    mean, variance = robust_moments(values)
    moved = robust_moments(values * factor + offset)
    scale = factor * (np.ptp(values) + 1.0) + abs(offset)
    assert moved[0] == pytest.approx(factor * mean + offset, abs=1e-6 * scale)
    assert moved[1] == pytest.approx(factor**2 * variance, abs=1e-6 * scale**2)


def test_a_constant_feature_with_one_outlier_still_varies_finitely():
    values = np.append(np.zeros(4999), 1e6)
    assert robust_moments(values) == pytest.approx((values.mean(), values.var()))


@pytest.mark.parametrize("name", ["normal", "uniform", "exponential"])
def test_bins_hold_alike_many_values_whatever_lies_far_outside(name):
    values = _sample(name)
    edges = quantile_edges(np.concatenate([values, [1e30] * 10, [-1e30] * 10]), 8)
    counts, _ = np.histogram(values, edges.astype(np.float64))
    np.testing.assert_allclose(counts / len(values), 0.998 / 8, atol=0.005)


@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=50), st.integers(1, 20)
)
def test_edges_rise_and_lie_among_the_values(values, bins):
    edges = quantile_edges(np.array(values), bins)
    assert 1 <= len(edges) <= bins + 1
    assert (np.diff(edges) > 0).all()
    assert min(values) <= edges[0]
    assert edges[-1] <= max(values)
