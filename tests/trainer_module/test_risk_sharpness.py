"""The largest eigenvalue, and the operator it is taken of, against exact matrices."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_module.risk.sharpness import (
    largest_eigenvalue,
    preconditioned_hessian,
    random_vector,
)


def symmetric(eigenvalues, seed=0):
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    return basis @ np.diag(eigenvalues) @ basis.T


def operator_of(matrix, sizes):
    """The map of a matrix, on vectors cut into pieces."""

    def apply(vector):
        flat = matrix @ np.concatenate([np.asarray(part) for part in vector])
        return [tf.constant(part) for part in np.split(flat, np.cumsum(sizes)[:-1])]

    return apply


def pieces(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [tf.constant(rng.normal(size=size)) for size in sizes]


@pytest.mark.parametrize(
    ("eigenvalues", "largest"),
    [
        ([20.0, 1.0], 20.0),
        ([-50.0, 3.0, 1.0], 3.0),
        ([-3.0, -1.0, -2.0], -1.0),
        ([7.0, 7.0, 7.0], 7.0),
        ([0.0, 0.0, 0.0], 0.0),
        (list(range(1, 41)), 40.0),
    ],
    ids=["paper's figure 3", "larger negative", "all negative", "multiple", "zero", "spread"],
)
def test_known_eigenvalues_are_found(eigenvalues, largest):
    sizes = [1, len(eigenvalues) - 1]
    found = largest_eigenvalue(
        operator_of(symmetric(eigenvalues), sizes), pieces(sizes), tolerance=1e-9
    )
    assert found.value == pytest.approx(largest, rel=1e-8, abs=1e-10)
    assert found.residual <= 1e-7


@settings(max_examples=60)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30),
    st.integers(0, 2**16),
    st.sampled_from([0.3, 0.05, 1e-3]),
)
def test_residual_bounds_the_error_and_the_value_is_never_too_large(eigenvalues, seed, tolerance):
    matrix = symmetric(eigenvalues, seed)
    exact = np.linalg.eigvalsh(matrix)
    sizes = [len(eigenvalues)]
    found = largest_eigenvalue(
        operator_of(matrix, sizes), pieces(sizes, seed + 1), tolerance=tolerance
    )
    rounding = 1e-9 * max(1.0, np.abs(exact).max())
    assert found.value <= exact[-1] + rounding
    assert np.abs(exact - found.value).min() <= found.residual + rounding
    if found.converged:
        assert found.residual <= tolerance * abs(found.value)


def test_many_more_iterations_than_dimensions_add_nothing():
    matrix = symmetric([5.0, 4.0, 3.0])
    found = largest_eigenvalue(
        operator_of(matrix, [3]), pieces([3]), tolerance=0.0, max_iterations=30
    )
    assert found.value == pytest.approx(5.0, rel=1e-12)


def test_too_few_iterations_are_reported():
    eigenvalues = np.linspace(1.0, 2.0, 200)
    found = largest_eigenvalue(
        operator_of(symmetric(eigenvalues), [200]), pieces([200]), tolerance=1e-6, max_iterations=4
    )
    assert not found.converged
    assert found.iterations == 4
    assert found.value <= 2.0
    assert np.abs(eigenvalues - found.value).min() <= found.residual


def test_an_operator_that_is_not_finite_gives_nan():
    found = largest_eigenvalue(lambda v: [part * math.inf for part in v], pieces([4]))
    assert math.isnan(found.value)
    assert not found.converged


def network(activation, dtype="float64"):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((3,), dtype=dtype),
            keras.layers.Dense(5, activation, dtype=dtype),
            keras.layers.Dense(4, activation, dtype=dtype),
            keras.layers.Dense(1, dtype=dtype),
        ]
    )


def accumulators_like(variables):
    rng = np.random.default_rng(2)
    return [keras.Variable(rng.uniform(0.1, 9.0, v.shape), dtype=v.dtype) for v in variables]


def exact_matrix(loss, variables, accumulators, epsilon):
    """The whole preconditioned Hessian, by reverse over reverse mode, in NumPy."""
    values = [v.value for v in variables]
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            value = loss()
        gradients = inner.gradient(value, values)
        flat = tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0)
    blocks = outer.jacobian(flat, values, unconnected_gradients="zero")
    hessian = np.concatenate([np.reshape(b, (flat.shape[0], -1)) for b in blocks], axis=1)
    g = np.concatenate([np.ravel(a) for a in accumulators])
    scale = (g + epsilon) ** -0.25
    return scale[:, None] * hessian * scale[None, :]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("kind", ["squared error", "log loss"])
def test_sharpness_is_the_largest_eigenvalue_of_the_exact_matrix(activation, kind):
    model = network(activation)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    y = rng.integers(0, 2, size=(40, 1)).astype("float64")

    def loss():
        out = model(x)
        if kind == "squared error":
            return tf.reduce_mean(tf.square(out - 3.0 * y))
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=out))

    variables = model.trainable_variables
    accumulators = accumulators_like(variables)
    operator = preconditioned_hessian(loss, variables, accumulators, 1e-7)
    matrix = exact_matrix(loss, variables, accumulators, 1e-7)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    vector = random_vector(variables, 7)
    flat = np.concatenate([np.ravel(part) for part in vector])
    product = np.concatenate([np.ravel(part) for part in operator(vector)])
    np.testing.assert_allclose(product, matrix @ flat, rtol=1e-9, atol=1e-10)

    found = largest_eigenvalue(operator, vector, tolerance=1e-8)
    assert found.converged
    assert found.value == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=1e-10)


def test_sharpness_follows_weights_and_accumulators():
    model = network("tanh")
    x = np.random.default_rng(0).normal(size=(8, 3))
    variables = model.trainable_variables
    accumulators = accumulators_like(variables)

    def loss():
        return tf.reduce_mean(tf.square(model(x) - 1.0))

    operator = preconditioned_hessian(loss, variables, accumulators, 0.0)
    start = random_vector(variables, 0)
    before = largest_eigenvalue(operator, start, tolerance=1e-8).value
    for accumulator in accumulators:
        accumulator.assign(accumulator * 16.0)
    assert largest_eigenvalue(operator, start, tolerance=1e-8).value == pytest.approx(before / 4)
    variables[0].assign(variables[0] * 1.5)
    exact = np.linalg.eigvalsh(exact_matrix(loss, variables, accumulators, 0.0))[-1]
    assert largest_eigenvalue(operator, start, tolerance=1e-8).value == pytest.approx(exact)


def test_variables_left_out_count_as_constants():
    model = network("tanh")
    x = np.random.default_rng(0).normal(size=(8, 3))
    kernel = model.trainable_variables[:1]

    def loss():
        return tf.reduce_mean(tf.square(model(x) - 1.0))

    ones = [keras.Variable(np.ones(kernel[0].shape), dtype="float64")]
    found = largest_eigenvalue(
        preconditioned_hessian(loss, kernel, ones, 0.0), random_vector(kernel, 0), tolerance=1e-8
    )
    block = exact_matrix(loss, kernel, ones, 0.0)
    assert found.value == pytest.approx(np.linalg.eigvalsh(block)[-1])


@pytest.mark.parametrize(("ratio", "contracts"), [(0.9, True), (1.1, False)])
def test_steps_along_a_quadratic_contract_just_where_the_ratio_is_under_1(ratio, contracts):
    """The meaning of the limit 2 / eta, by descent itself (arXiv 2302.09178, Fig. 3)."""
    hessian = symmetric([20.0, 1.0])
    g = np.array([4.0, 0.25])
    scale = g**-0.25
    found = largest_eigenvalue(
        operator_of(scale[:, None] * hessian * scale, [2]), pieces([2]), tolerance=1e-10
    )
    eta = 2.0 * ratio / found.value
    w = np.array([1.0, 1.0])
    for _ in range(500):
        w = w - eta * g**-0.5 * (hessian @ w)
    assert (np.abs(w).max() < 1.0) == contracts
