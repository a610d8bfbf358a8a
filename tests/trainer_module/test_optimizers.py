"""Whole optimizer steps: against NumPy, Keras's and TensorFlow Recommenders' optimizers."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from stepping import PAPER, RULES, accumulator, array, built, slices, variable

from trainer_module.optimizers import (
    ClippedAdagrad,
    ClippedAdam,
    Clippy,
    ClippyAdagrad,
    GlobalClippy,
    GradientClipping,
    NoClipping,
)

TFRS = json.loads((Path(__file__).parent / "data/tfrs_clippy_adagrad.json").read_text())


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
