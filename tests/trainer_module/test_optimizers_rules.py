"""Each rule against its formula in float64 NumPy, and the properties that rules promise."""

import dataclasses

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_module import optimizers
from trainer_module.optimizers import Step

SHAPES = [(), (1,), (7,), (4, 3), (1, 5), (5, 1), (2, 3, 4), (3, 2, 2, 4)]
EXAMPLES = 60
if keras.backend.backend() == "jax":  # It compiles each operation for each shape.
    SHAPES = [(), (4, 3), (3, 2, 2, 4)]
    EXAMPLES = 20


def norm(x, axis=None):
    return np.sqrt(np.sum(np.square(x), axis=axis, keepdims=axis is not None))


def ratio(bound, value):
    value, bound = np.broadcast_arrays(np.asarray(value, "float64"), bound)
    quotient = np.divide(bound, value, out=np.ones_like(value), where=value > 0)
    return np.minimum(quotient, 1.0)


def units(x):
    if sum(size != 1 for size in x.shape) <= 1:
        return None
    return tuple(range(x.ndim - 1)) if x.ndim == 4 else (0,)


def clippy(s, relative=0.5, absolute=1e-2, accumulator=0.0, unit=np.inf):
    absolute = np.minimum(absolute, unit / s.fan_in)
    bound = relative * np.abs(s.w) + absolute + accumulator * s.p
    move = s.eta * np.abs(s.r)
    return np.min(ratio(bound, move), initial=1.0)


def lamb(s):
    w, r = norm(s.w), norm(s.r)
    return 0.01 * w / r if w > 0 and r > 0 else 1.0


REFERENCES = {
    "none": (optimizers.NoClipping(), lambda s: 1.0),
    "gc": (optimizers.GradientClipping(0.1), lambda s: ratio(0.1, norm(s.g))),
    "global": (optimizers.GlobalNormClipping(2.0), lambda s: ratio(2.0, s.model_norm)),
    "agc": (
        optimizers.AdaptiveGradientClipping(0.01),
        lambda s: ratio(0.01 * max(norm(s.w), 1e-3), norm(s.g)),
    ),
    "agc unit-wise": (
        optimizers.AdaptiveGradientClipping(0.01, unit_wise=True),
        lambda s: ratio(0.01 * np.maximum(norm(s.w, units(s.w)), 1e-3), norm(s.g, units(s.g))),
    ),
    "lamb": (optimizers.Lamb(0.01), lamb),
    "update rms": (
        optimizers.UpdateRMSClipping(1.0),
        lambda s: 1 / max(1.0, np.sqrt(np.mean(np.square(s.g * s.p)))),
    ),
    "clippy": (optimizers.Clippy(), clippy),
    "clippy zero threshold": (optimizers.Clippy(0.0, 0.0), lambda s: clippy(s, 0.0, 0.0)),
    "clippy by unit": (optimizers.Clippy(unit_threshold=1.0), lambda s: clippy(s, unit=1.0)),
    "clippy of tfrs": (optimizers.Clippy(0.1, 1e-7, 1e-3), lambda s: clippy(s, 0.1, 1e-7, 1e-3)),
}


@st.composite
def steps(draw):
    """Steps of one layer in float32 or float64, with zeros, at scales from 1e-30 to 1e30."""
    dtype = draw(st.sampled_from(["float32", "float64"]))
    shape = draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def tensor(limit):
        scale = 10.0 ** draw(st.integers(-limit, limit))
        values = rng.normal(size=shape) * scale * (rng.random(size=shape) > draw(zeros))
        return values.astype(dtype)

    zeros = st.sampled_from([0.0, 0.3, 1.0])
    w, g, r = tensor(30), tensor(30), tensor(30)
    p = np.abs(tensor(3)) + np.asarray(1e-3, dtype)
    eta = np.asarray(10.0 ** draw(st.integers(-6, 1)), dtype)
    fan_in = np.asarray(draw(st.sampled_from([1, 100, 4096])), dtype)
    return Step(w, g, r, p, eta, np.abs(g).max() * np.asarray(2.0, dtype), fan_in)


@pytest.mark.parametrize("name", REFERENCES)
# Run on JAX too, where conftest.py is not read.
@settings(max_examples=EXAMPLES, deadline=None)
@given(step=steps())
def test_rule_follows_its_formula(name, step):
    rule, reference = REFERENCES[name]
    sigma = keras.ops.convert_to_numpy(rule.factor(Step(*map(keras.ops.convert_to_tensor, step))))
    expected = reference(Step(*(np.asarray(x, "float64") for x in step)))
    tolerance = 1e-5 if step.g.dtype == "float32" else 1e-11
    largest = np.finfo(step.g.dtype).max
    assert sigma.dtype == step.g.dtype
    np.testing.assert_allclose(
        np.minimum(sigma, largest), np.minimum(expected, largest), rtol=tolerance, atol=1e-36
    )


@pytest.mark.parametrize("name", REFERENCES)
def test_empty_layer_has_a_finite_factor(name):
    empty = keras.ops.zeros((0, 3))
    scalar = keras.ops.convert_to_tensor(1.0)
    sigma = REFERENCES[name][0].factor(Step(empty, empty, empty, empty, scalar, scalar))
    assert np.all(np.isfinite(keras.ops.convert_to_numpy(sigma)))


@pytest.mark.parametrize("limit", [0.5, 10.0, 200.0])
def test_clipped_gradient_has_the_norm_asked_for_and_is_not_clipped_again(limit):
    rng = np.random.default_rng(0)
    g = keras.ops.convert_to_tensor(rng.normal(size=(50, 40)).astype("float32"))
    rule = optimizers.GradientClipping(limit)
    clipped = g * rule.factor(Step(g, g, g, g, g[0, 0]))
    size = float(keras.ops.norm(clipped))
    assert size == pytest.approx(min(limit, float(keras.ops.norm(g))), rel=1e-5)
    again = float(rule.factor(Step(g, clipped, g, g, g[0, 0])))
    assert again == pytest.approx(1.0, rel=1e-6)


def run_statistics(rule, norms):
    """Sigma at each step of a layer (and model) whose gradient has these norms."""
    state = {name: keras.ops.convert_to_tensor(value) for name, value in rule.state.items()}
    sigmas = []
    for value in norms:
        g = keras.ops.convert_to_tensor(np.array([0.6, 0.8], "float32") * value)
        norm = keras.ops.convert_to_tensor(np.float32(value))
        sigma, state = rule.factor_and_state(Step(g, g, g, g, norm, norm), state)
        sigmas.append(float(sigma))
    return np.array(sigmas), {name: float(value) for name, value in state.items()}


def spiky_norms(steps=80):
    rng = np.random.default_rng(3)
    norms = rng.uniform(0.5, 2.0, size=steps)
    norms[[30, 31, 60]] = [40.0, 1e4, 1e30]
    return norms


def test_adagc_follows_the_paper():
    rule = optimizers.AdaGC(warmup_steps=20)
    expected, mean = [], np.inf
    norms = spiky_norms()
    for t, size in enumerate(norms):
        warm = t < 20
        sigma = min(1.0 if warm else 1.05 * mean, size) / size
        clipped = sigma * size
        mean = min(mean, clipped) if warm else 0.98 * mean + 0.02 * clipped
        expected.append(sigma)
    sigmas, state = run_statistics(rule, norms)
    np.testing.assert_allclose(sigmas, expected, rtol=1e-4)
    assert state["norm_mean"] == pytest.approx(mean, rel=1e-4)


def test_adagc_ignores_zero_gradients():
    rule = optimizers.AdaGC(warmup_steps=2)
    _, state = run_statistics(rule, [0.0, 0.5, 0.0, 0.5, 0.0])
    assert state == {"norm_mean": 0.5, "steps": 2.0}


def test_zclip_follows_the_paper():
    rule = optimizers.ZClip()
    norms = spiky_norms()
    expected = [1.0] * 25
    mean, variance = np.mean(norms[:25]), np.var(norms[:25])
    for size in norms[25:]:
        std = np.sqrt(variance)
        z = (size - mean) / (std + 1e-6)
        clipped = mean + 2.5**2 / z * std if z > 2.5 else size
        expected.append(clipped / size)
        mean = 0.97 * mean + 0.03 * clipped
        variance = 0.97 * variance + 0.03 * (clipped - mean) ** 2
    sigmas, state = run_statistics(rule, norms)
    np.testing.assert_allclose(sigmas, expected, rtol=1e-3)
    assert state["norm_mean"] == pytest.approx(mean, rel=1e-3)
    assert state["norm_variance"] == pytest.approx(variance, rel=1e-3)


@pytest.mark.parametrize("name", REFERENCES)
def test_rule_survives_serialisation(name):
    rule = REFERENCES[name][0]
    config = keras.saving.serialize_keras_object(rule)
    assert keras.saving.deserialize_keras_object(config) == rule


@pytest.mark.parametrize(
    "rule", [v for v in vars(optimizers).values() if dataclasses.is_dataclass(v)]
)
def test_negative_threshold_is_refused(rule):
    for field in dataclasses.fields(rule):
        if field.type in (float, "float"):
            with pytest.raises(ValueError, match=field.name):
                rule(**{field.name: -1.0})


def test_unit_wise_norm_of_rank_five_is_refused():
    rule = optimizers.AdaptiveGradientClipping(unit_wise=True)
    x = keras.ops.ones((2,) * 5)
    with pytest.raises(ValueError, match="rank 4"):
        rule.factor(Step(x, x, x, x, x[0, 0, 0, 0, 0]))
