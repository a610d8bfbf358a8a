"""What a step leaves alone: layers it must skip, rows without a gradient, excluded variables."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from stepping import PAPER, RULES, accumulator, array, built, slices, variable

from trainer_module.optimizers import (
    AdaGC,
    ClippedAdagrad,
    ClippedAdam,
    Clippy,
    ClippyAdagrad,
    GlobalClippy,
    GlobalNormClipping,
    GradientClipping,
    NoClipping,
    UpdateRMSClipping,
)


def test_global_clippy_is_not_held_back_by_a_layer_that_is_skipped():
    layers = [variable(np.ones((2, 2))), variable(np.ones(3))]
    optimizer = built(ClippedAdagrad(1e-3, GlobalClippy()), *layers)
    optimizer.apply([np.full((2, 2), np.nan, "float32"), np.ones(3, "float32")], layers)
    np.testing.assert_array_equal(array(layers[0]), 1.0)
    np.testing.assert_allclose(array(layers[1]), 1 - 1e-3 / np.sqrt(1.1), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_non_finite_gradient_changes_nothing_of_its_layer(bad, rule):
    hurt, sound = variable(np.ones((2, 3))), variable(np.ones((2, 3)), name="sound")
    optimizer = ClippedAdagrad(
        0.1, rule, jit_compile=False, weight_decay=0.1, export_clipping_factors=True
    )
    built(optimizer, hurt, sound)
    good = tf.constant(np.full((2, 3), 0.5), "float32")
    optimizer.apply([good, good], [hurt, sound])
    before = array(hurt), accumulator(optimizer), array(sound)
    state = {k: float(v[0]) for k, v in optimizer._rule_state.items()}
    poison = np.full((2, 3), 0.5, "float32")
    poison[1, 1] = bad
    optimizer.apply([tf.constant(poison), good], [hurt, sound])
    np.testing.assert_array_equal(array(hurt), before[0])
    np.testing.assert_array_equal(accumulator(optimizer), before[1])
    assert {k: float(v[0]) for k, v in optimizer._rule_state.items()} == state
    assert float(optimizer.clipping_factors[0]) == 0
    assert np.all(array(sound) != before[2])
    assert array(optimizer.skipped_steps_per_variable).tolist() == [1, 0]
    assert optimizer.skipped_steps == 1
    optimizer.apply([good, good], [hurt, sound])
    assert np.all(np.isfinite(array(hurt)))
    assert np.all(array(hurt) != before[0])


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_gradient_is_caught_in_each_mode(bad, jit_compile):
    g = tf.constant([[1.0, bad], [0.0, 1.0]])
    for make in (
        lambda: ClippyAdagrad(jit_compile=jit_compile),
        lambda: ClippyAdagrad(jit_compile=jit_compile, clip_accumulator_update=True),
        lambda: ClippyAdagrad(jit_compile=jit_compile, **PAPER),
        lambda: ClippedAdam(jit_compile=jit_compile),
    ):
        w = variable(np.ones((2, 2)))
        optimizer = built(make(), w)
        optimizer.apply([g], [w])
        np.testing.assert_array_equal(array(w), np.ones((2, 2)))
        assert optimizer.skipped_steps == 1
        assert all(np.all(np.isfinite(array(slot[0]))) for slot in optimizer._slots)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_zero_gradients_and_zero_weights_are_defined(rule, dtype):
    for weights, gradient in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        w, empty = variable(np.full((3, 2), weights), dtype), variable(np.zeros((0, 2)), dtype)
        optimizer = ClippedAdagrad(0.1, rule, jit_compile=False)
        built(optimizer, w, empty)
        g = keras.ops.full((3, 2), gradient, dtype)
        optimizer.apply([g, keras.ops.zeros((0, 2), dtype)], [w, empty])
        assert np.all(np.isfinite(array(w)))
        assert optimizer.skipped_steps == 0
        assert keras.backend.standardize_dtype(w.dtype) == dtype
        if gradient == 0:
            np.testing.assert_array_equal(array(w), np.full((3, 2), weights))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_square_that_overflows_the_slot_is_skipped(jit_compile):
    for dtype, gradient in (("float16", 300.0), ("bfloat16", 1.9e19), ("float32", 1.9e19)):
        for make in (ClippyAdagrad, ClippedAdagrad):
            w = variable(np.ones((2, 2)), dtype)
            optimizer = built(make(0.1, jit_compile=jit_compile), w)
            optimizer.apply([keras.ops.full((2, 2), gradient, dtype)], [w])
            assert optimizer.skipped_steps == 1
            assert np.all(np.isfinite(array(optimizer._slots[0][0])))
            np.testing.assert_array_equal(array(w), np.ones((2, 2)))


def test_zero_threshold_stops_a_layer_with_an_update():
    w = variable([0.0, 1.0])
    optimizer = ClippyAdagrad(
        0.1, variable_relative_threshold=0.5, absolute_threshold=0.0, export_clipping_factors=True
    )
    built(optimizer, w)
    optimizer.apply([tf.constant([1.0, 1.0])], [w])
    np.testing.assert_array_equal(array(w), [0.0, 1.0])
    assert float(optimizer.clipping_factors[0]) == 0
    assert optimizer.skipped_steps == 0
    optimizer.apply([tf.constant([0.0, 1.0])], [w])
    assert array(w)[1] < 1


def test_adagrad_without_start_and_epsilon_does_not_divide_by_zero():
    for mode in ("standard", "delayed", "delayed_clipped"):
        w = variable([1.0, 1.0])
        optimizer = ClippedAdagrad(
            0.1, initial_accumulator_value=0.0, epsilon=0.0, accumulator_update=mode
        )
        built(optimizer, w)
        for _ in range(2):
            optimizer.apply([tf.constant([0.0, 2.0])], [w])
        assert array(w)[0] == 1
        assert array(w)[1] < 1


@pytest.mark.parametrize("rule", [NoClipping(), Clippy(), UpdateRMSClipping(), AdaGC()], ids=str)
@pytest.mark.parametrize("make", [ClippedAdagrad, ClippedAdam])
def test_sparse_step_is_the_dense_step_of_the_touched_rows(rule, make):
    rng = np.random.default_rng(6)
    start = rng.normal(size=(6, 3)).astype("float32")
    values = rng.normal(size=(4, 3)).astype("float32")
    table, rows = variable(start), variable(start[[4, 1]])
    ours = built(make(0.1, rule, weight_decay=0.1), table)
    dense = built(make(0.1, rule, weight_decay=0.1), rows)
    summed = np.stack([values[0] + values[2] + values[3], values[1]])
    for _ in range(3):
        ours.apply([slices(values, [4, 1, 4, 4], 6)], [table])
        dense.apply([tf.constant(summed)], [rows])
    np.testing.assert_allclose(array(table)[[4, 1]], array(rows), rtol=1e-5, atol=1e-6)
    untouched = [0, 2, 3, 5]
    np.testing.assert_array_equal(array(table)[untouched], start[untouched])
    for slot, initial in zip(ours._slots, dense.slot_initializers(), strict=True):
        fresh = keras.initializers.get(initial)((4, 3))
        np.testing.assert_array_equal(array(slot[0])[untouched], array(fresh))


def test_sparse_gradient_without_rows_changes_nothing():
    w = variable(np.ones((4, 2)))
    optimizer = built(ClippyAdagrad(0.1), w)
    optimizer.apply([slices(np.zeros((0, 2), "float32"), np.zeros(0, "int64"), 4)], [w])
    np.testing.assert_array_equal(array(w), np.ones((4, 2)))


def test_non_finite_sparse_gradient_is_skipped():
    w = variable(np.ones((4, 2)))
    optimizer = built(ClippyAdagrad(0.1, **PAPER), w)
    optimizer.apply([slices(np.array([[1.0, np.nan]], "float32"), [2], 4)], [w])
    np.testing.assert_array_equal(array(w), np.ones((4, 2)))
    assert optimizer.skipped_steps == 1


def test_rule_leaves_embeddings_alone_by_default():
    table, kernel = variable(np.ones((3, 2)), name="embeddings"), variable(np.ones((3, 2)))
    optimizer = ClippedAdagrad(0.1, GradientClipping(1e-3), export_clipping_factors=True)
    built(optimizer, table, kernel)
    g = tf.ones((3, 2))
    optimizer.apply([g, g], [table, kernel])
    plain = variable(np.ones((3, 2)))
    built(keras.optimizers.Adagrad(0.1), plain).apply([g], [plain])
    np.testing.assert_allclose(array(table), array(plain), rtol=1e-6)
    assert float(optimizer.clipping_factors[0]) == 1
    assert float(optimizer.clipping_factors[1]) == pytest.approx(1e-3 / np.sqrt(6), rel=1e-4)


@pytest.mark.parametrize(
    ("path", "excluded"),
    [
        ("user_id/embeddings", True),
        ("item_embedding", True),
        ("embedding_projection/kernel", False),
        ("dense/bias", False),
    ],
)
def test_embeddings_are_recognised_by_the_last_part_of_their_path(path, excluded):
    named = tf.Variable([1.0], name=path)
    assert ClippedAdagrad().is_excluded(named) is excluded


def test_exclude_takes_patterns_or_a_callable():
    kernel, bias = variable(np.ones((2, 2))), variable(np.ones(2), name="bias")
    assert not ClippyAdagrad().is_excluded(variable([1.0], name="embeddings"))
    by_name = ClippedAdagrad(exclude=["bias$"])
    by_one_name = ClippedAdagrad(exclude="bias$")
    by_rank = ClippedAdagrad(exclude=lambda v: len(v.shape) == 1)
    for optimizer in (by_name, by_one_name, by_rank):
        assert optimizer.is_excluded(bias)
        assert not optimizer.is_excluded(kernel)


def test_excluded_variables_can_have_a_learning_rate_of_their_own():
    table, kernel = variable(np.ones((2, 2)), name="embeddings"), variable(np.ones((2, 2)))
    optimizer = built(ClippedAdagrad(0.0, excluded_learning_rate=0.1), table, kernel)
    optimizer.apply([tf.ones((2, 2))] * 2, [table, kernel])
    np.testing.assert_array_equal(array(kernel), np.ones((2, 2)))
    moved = 1 - array(table)
    optimizer.excluded_learning_rate = 0.0
    optimizer.apply([tf.ones((2, 2))] * 2, [table, kernel])
    np.testing.assert_array_equal(1 - array(table), moved)
    assert np.all(moved > 0)
    assert optimizer.get_config()["excluded_learning_rate"] == 0.0


def test_global_norm_is_over_the_clipped_and_finite_layers():
    kernel, bias = variable(np.ones((2, 2))), variable(np.ones(2), name="bias")
    table = variable(np.ones((2, 2)), name="embeddings")
    optimizer = ClippedAdagrad(0.1, GlobalNormClipping(1.0), export_clipping_factors=True)
    built(optimizer, kernel, bias, table)
    ones = tf.ones((2, 2))
    optimizer.apply([3 * ones, 4 * tf.ones(2), 1e9 * ones], [kernel, bias, table])
    sigma = 1 / np.sqrt(4 * 9 + 2 * 16)
    factors = [float(f) for f in optimizer.clipping_factors]
    assert factors == pytest.approx([sigma, sigma, 1.0], rel=1e-5)
    optimizer.apply([3 * ones, np.nan * tf.ones(2), ones], [kernel, bias, table])
    factors = [float(f) for f in optimizer.clipping_factors]
    assert factors == pytest.approx([1 / 6, 0.0, 1.0], rel=1e-5)
