"""Whole optimizer steps: against NumPy, Keras's and TensorFlow Recommenders' optimizers."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_module.optimizers import (
    AdaGC,
    AdaptiveGradientClipping,
    ClippedAdagrad,
    ClippedAdam,
    Clippy,
    ClippyAdagrad,
    GlobalClippy,
    GlobalNormClipping,
    GradientClipping,
    Lamb,
    NoClipping,
    UpdateRMSClipping,
    ZClip,
)

TFRS = json.loads((Path(__file__).parent / "data/tfrs_clippy_adagrad.json").read_text())
RULES = [
    NoClipping(),
    GradientClipping(),
    GlobalNormClipping(),
    AdaptiveGradientClipping(),
    AdaptiveGradientClipping(unit_wise=True),
    Lamb(),
    UpdateRMSClipping(0.5),
    Clippy(),
    GlobalClippy(),
    AdaGC(warmup_steps=2),
    ZClip(warmup_steps=2),
]
PAPER = {
    "use_standard_accumulator_update": True,
    "variable_relative_threshold": 0.5,
    "absolute_threshold": 1e-2,
}


def variable(value, dtype="float32", name="kernel"):
    value = np.asarray(value, "float64")
    made = keras.Variable(np.zeros(value.shape), dtype=dtype, name=name)
    made.assign(keras.ops.cast(value, dtype))
    return made


def built(optimizer, *variables):
    optimizer.build(list(variables))
    return optimizer


def accumulator(optimizer, index=0):
    return keras.ops.convert_to_numpy(optimizer._slots[0][index])


def array(x):
    return keras.ops.convert_to_numpy(keras.ops.cast(x, "float64"))


def slices(values, indices, rows):
    values = tf.convert_to_tensor(values)
    return tf.IndexedSlices(values, tf.constant(indices), tf.constant([rows, *values.shape[1:]]))


@pytest.mark.parametrize("case", TFRS["cases"], ids=lambda case: json.dumps(case["config"])[22:])
def test_clippy_adagrad_takes_the_steps_of_tensorflow_recommenders(case):
    w = variable(TFRS["w"])
    optimizer = built(
        ClippyAdagrad(export_clipping_factors=True, jit_compile=False, **case["config"]), w
    )
    runs = zip(case["steps"], TFRS["gradients"], TFRS["indices"], strict=True)
    for expected, gradient, indices in runs:
        gradient = np.array(gradient, "float32")
        sparse = case["sparse"]
        optimizer.apply([slices(gradient[:3], indices, 4) if sparse else gradient], [w])
        np.testing.assert_allclose(array(w), expected["w"], rtol=2e-6, atol=1e-7)
        np.testing.assert_allclose(accumulator(optimizer), expected["accumulator"], rtol=2e-6)
        assert float(optimizer.clipping_factors[0]) == pytest.approx(expected["sigma"], rel=2e-6)


def numpy_clippy_adagrad(w, gradients, eta, mode):
    """Algorithm 1 in float64; `mode` as `ClippedAdagrad.accumulator_update`."""
    total = np.full(w.shape, 0.1)
    for g in gradients:
        if mode == "standard":
            total = total + g**2
        r = g / np.sqrt(total + 1e-7)
        nonzero = r != 0
        limits = (0.5 * np.abs(w) + 1e-2)[nonzero] / (eta * np.abs(r[nonzero]))
        sigma = min(1.0, np.min(limits, initial=1.0))
        if mode != "standard":
            total = total + (g * (sigma if mode == "delayed_clipped" else 1.0)) ** 2
        w = w - eta * sigma * r
        yield w, total, sigma


@pytest.mark.parametrize("sizes", [(4, 5), (4, 600)], ids=["small", "one with its own program"])
def test_global_clippy_steps_all_layers_by_the_smallest_of_their_factors(sizes):
    rng = np.random.default_rng(5)
    starts = [rng.normal(size=(n, n)) for n in sizes]
    layers = [variable(w) for w in starts]
    table = variable(rng.normal(size=(8, 2)), name="embedding")
    rule = GlobalClippy()
    optimizer = built(
        ClippedAdagrad(0.5, rule, accumulator_update="delayed", export_clipping_factors=True),
        *layers,
        table,
    )
    totals = [np.full(w.shape, 0.1) for w in starts]
    for scale in (1e-3, 1.0, 30.0):
        gradients = [rng.normal(size=w.shape) * scale * (1 + n) for n, w in enumerate(starts)]
        moves = [0.5 * g / np.sqrt(t + 1e-7) for g, t in zip(gradients, totals, strict=True)]
        sigma = min(
            1.0,
            *(
                float(np.min((0.5 * np.abs(w) + 1e-2) / np.abs(move)))
                for w, move in zip(starts, moves, strict=True)
            ),
        )
        of_table = slices(np.ones((1, 2), "float32") * 1e3, [3], 8)
        optimizer.apply([*(g.astype("float32") for g in gradients), of_table], [*layers, table])
        starts = [w - sigma * move for w, move in zip(starts, moves, strict=True)]
        totals = [t + g**2 for t, g in zip(totals, gradients, strict=True)]
        for layer, w in zip(layers, starts, strict=True):
            np.testing.assert_allclose(array(layer), w, rtol=1e-4, atol=1e-5)
        factors = [float(f) for f in optimizer.clipping_factors]
        assert factors == pytest.approx([sigma, sigma, 1.0], rel=1e-3)
    assert sigma < 0.1


def test_global_clippy_is_not_held_back_by_a_layer_that_is_skipped():
    layers = [variable(np.ones((2, 2))), variable(np.ones(3))]
    optimizer = built(ClippedAdagrad(1e-3, GlobalClippy()), *layers)
    optimizer.apply([np.full((2, 2), np.nan, "float32"), np.ones(3, "float32")], layers)
    np.testing.assert_array_equal(array(layers[0]), 1.0)
    np.testing.assert_allclose(array(layers[1]), 1 - 1e-3 / np.sqrt(1.1), rtol=1e-6)


@pytest.mark.parametrize("mode", ["standard", "delayed", "delayed_clipped"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clippy_follows_algorithm_1_over_many_steps(mode, dtype):
    rng = np.random.default_rng(1)
    start = rng.normal(size=(6, 5)).astype(dtype)
    gradients = (rng.normal(size=(60, 6, 5)) * 10 ** rng.uniform(-3, 3, size=(60, 1, 1))).astype(
        dtype
    )
    w = variable(start, dtype)
    optimizer = ClippedAdagrad(0.5, Clippy(), accumulator_update=mode, export_clipping_factors=True)
    built(optimizer, w)
    tolerance = 1e-4 if dtype == "float32" else 1e-6
    reference = numpy_clippy_adagrad(
        start.astype("float64"), gradients.astype("float64"), 0.5, mode
    )
    clipped = 0
    for g, (expected_w, expected_total, sigma) in zip(gradients, reference, strict=True):
        optimizer.apply([keras.ops.convert_to_tensor(g)], [w])
        np.testing.assert_allclose(array(w), expected_w, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(accumulator(optimizer), expected_total, rtol=tolerance)
        assert float(optimizer.clipping_factors[0]) == pytest.approx(sigma, rel=1e-3)
        clipped += sigma < 1
    assert clipped > 5


@pytest.mark.parametrize("rule", [NoClipping(), Clippy(1e6, 1e6), GradientClipping(1e6)], ids=str)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_clipped_adagrad_is_keras_adagrad_when_nothing_clips(rule, jit_compile):
    rng = np.random.default_rng(2)
    ours, theirs = variable(rng.normal(size=(8, 4))), variable(np.zeros((8, 4)))
    theirs.assign(ours)
    optimizer = built(ClippedAdagrad(0.1, rule, jit_compile=jit_compile), ours)
    reference = built(keras.optimizers.Adagrad(0.1), theirs)
    for _ in range(20):
        g = tf.constant(rng.normal(size=(8, 4)), "float32")
        optimizer.apply([g], [ours])
        reference.apply([g], [theirs])
    np.testing.assert_allclose(array(ours), array(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [None, 0.1])
def test_clipped_adam_is_keras_adam_when_nothing_clips(decay):
    rng = np.random.default_rng(2)
    ours, theirs = variable(rng.normal(size=(8, 4))), variable(np.zeros((8, 4)))
    theirs.assign(ours)
    optimizer = built(ClippedAdam(0.1, weight_decay=decay), ours)
    reference = built(keras.optimizers.Adam(0.1, weight_decay=decay), theirs)
    for _ in range(20):
        g = tf.constant(rng.normal(size=(8, 4)), "float32")
        optimizer.apply([g], [ours])
        reference.apply([g], [theirs])
    np.testing.assert_allclose(array(ours), array(theirs), rtol=1e-5, atol=1e-6)


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    scales=st.tuples(st.integers(-30, 18), st.integers(-30, 30)),
    eta=st.sampled_from([1e-3, 0.1, 10.0]),
    mode=st.sampled_from(["standard", "delayed", "delayed_clipped"]),
    adam=st.booleans(),
    dtype=st.sampled_from(["float32", "float64", "bfloat16", "float16"]),
)
def test_no_coordinate_moves_more_than_its_threshold(seed, scales, eta, mode, adam, dtype):
    rng = np.random.default_rng(seed)
    sparse_zeros = rng.random(size=(5, 4)) > 0.3
    narrow = dtype == "float16"
    g_scale, w_scale = (max(-3, min(2, s)) if narrow else s for s in scales)
    w = variable(rng.normal(size=(5, 4)) * 10.0**w_scale * sparse_zeros, dtype)
    rule = Clippy(0.5, 1e-2)
    kwargs = {"rule": rule, "jit_compile": False}
    optimizer = (
        ClippedAdam(eta, **kwargs)
        if adam
        else ClippedAdagrad(eta, accumulator_update=mode, **kwargs)
    )
    built(optimizer, w)
    for _ in range(3):
        before = array(w)
        g = rng.normal(size=(5, 4)) * 10.0**g_scale * (rng.random(size=(5, 4)) > 0.3)
        optimizer.apply([keras.ops.cast(g, dtype)], [w])
        moved = np.abs(array(w) - before)
        bound = 0.5 * np.abs(before) + 1e-2
        precision = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
        assert np.all(moved <= bound * (1 + precision) + precision * np.abs(before))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("make", [ClippedAdagrad, ClippedAdam])
def test_compiled_step_equals_uncompiled_step(rule, make):
    rng = np.random.default_rng(5)
    start = rng.normal(size=(6, 3))
    ends = []
    gradients = rng.normal(size=(5, 6, 3)).astype("float32")
    for jit_compile in (False, True):
        w = variable(start)
        optimizer = built(make(0.1, rule, jit_compile=jit_compile, weight_decay=0.01), w)
        for g in gradients:
            optimizer.apply([tf.constant(g)], [w])
        ends.append(array(w))
    np.testing.assert_allclose(*ends, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
def test_statistics_tell_norms_factors_and_skips_of_each_layer(sparse):
    big = variable(np.full((600, 500), 0.5), name="big")  # stepped by a program of its own
    small = variable([0.02, 1.0], name="small")
    table = variable(np.ones((4, 2)), name="embeddings")
    idle = variable([1.0], name="idle")
    rule = Clippy(0.5, 0.01)
    optimizer = ClippedAdagrad(
        0.5, rule, initial_accumulator_value=0.0, epsilon=0.0, export_statistics=True
    )
    layers = [big, small, table, idle]
    built(optimizer, *layers)
    g_big = np.full((600, 500), 1e-3, "float32")
    g_small = np.array([3.0, 4.0], "float32")
    g_table = np.zeros((4, 2), "float32")
    g_table[1] = [3.0, 4.0]
    sent = tf.constant(g_table)
    if sparse:
        sent = tf.IndexedSlices(tf.constant(g_table[[1]]), tf.constant([1]), tf.constant([4, 2]))
    before = [array(v) for v in layers]
    optimizer.apply([tf.constant(g_big), tf.constant(g_small), sent, None], layers)
    norm, moved, smallest, mean, skipped = array(optimizer.statistics)[:3].T
    gradients = (g_big, g_small, g_table)
    np.testing.assert_allclose(norm, [np.linalg.norm(g) for g in gradients], rtol=1e-4)
    steps = [np.linalg.norm(b - array(v)) for b, v in zip(before, layers, strict=True)][:3]
    np.testing.assert_allclose(moved, steps, rtol=1e-4)
    # r = 1 where nothing is accumulated yet: 0.26 of 0.5 and 0.02 of 0.5 may be moved.
    np.testing.assert_allclose(smallest, [0.52, 0.04, 1.0], rtol=1e-3)
    np.testing.assert_allclose(mean, smallest)
    assert skipped.tolist() == [0, 0, 0]
    assert array(optimizer.statistics)[3].tolist() == [0] * 5
    optimizer.apply([tf.constant(g_big), tf.constant([np.nan, 1.0])], [big, small])
    assert array(optimizer.statistics)[:, 4].tolist() == [0, 1, 0, 0]
    assert array(optimizer.skipped_steps_per_variable).tolist() == [0, 1, 0, 0]


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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_clippy_takes_other_dtypes_as_it_takes_float32(dtype):
    rng = np.random.default_rng(4)
    start, gradients = rng.normal(size=(6, 5)), rng.normal(size=(10, 6, 5))
    ends = []
    for kind in (dtype, "float32"):
        w = variable(start, kind)
        optimizer = built(ClippyAdagrad(0.5, **PAPER), w)
        for g in gradients:
            optimizer.apply([keras.ops.cast(g, kind)], [w])
        ends.append(array(w))
    tolerance = {"float16": 1e-2, "bfloat16": 0.2, "float64": 1e-5}[dtype]
    np.testing.assert_allclose(*ends, atol=tolerance)


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


@pytest.mark.parametrize("bad", [-0.1, float("nan")])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match="cannot both"):
        ClippyAdagrad(clip_accumulator_update=True, use_standard_accumulator_update=True)
    with pytest.raises(ValueError, match="absolute_threshold"):
        ClippyAdagrad(absolute_threshold=bad)
    with pytest.raises(ValueError, match="accumulator_update"):
        ClippedAdagrad(accumulator_update="sometimes")
    with pytest.raises(ValueError, match="non-negative"):
        ClippedAdagrad(epsilon=-1.0)


@pytest.mark.parametrize(("shape", "fan_in"), [((200, 4), 200), ((3, 50, 2), 50), ((400,), 1)])
def test_the_unit_threshold_is_shared_by_the_inputs_of_a_unit(shape, fan_in):
    rule = Clippy(0.0, absolute_threshold=0.5, unit_threshold=2.0)
    gradient = np.random.default_rng(0).normal(size=shape).astype("float32")
    layer = keras.Variable(np.zeros(shape, "float32"), name="kernel")
    table = keras.Variable(np.zeros((200, 4), "float32"), name="embeddings")
    optimizer = ClippedAdagrad(10.0, rule=rule, exclude=())
    optimizer.build([layer, table])
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in (gradient, np.ones((200, 4)))])
    assert np.abs(layer.numpy()).max() == pytest.approx(min(0.5, 2.0 / fan_in), rel=1e-5)
    # Of an embedding one row is read at a time.
    assert np.abs(table.numpy()).max() == pytest.approx(0.5, rel=1e-5)
