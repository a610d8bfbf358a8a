import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from events import SPEC, make_events, tiny_spec, transformed

from schemas.errors import BadDataError
from schemas.loading import parse_spec
from schemas.training import PRESETS
from trainer_module.inputs import model_inputs
from trainer_module.layers import (
    PADDING,
    ClippedNormalization,
    Cross,
    Curves,
    Interactions,
    PooledEmbedding,
)
from trainer_module.model import build_model, initialise_from_data, task_of_layer


def _batch(spec, count=64):
    values = transformed(make_events(count), spec)
    features = model_inputs(values, spec)
    labels = {task: values[f"{task}__label"] for task in spec.tasks}
    weights = {task: values[f"{task}__weight"] for task in spec.tasks}
    return features, labels, weights


def test_a_training_step_gathers_rows_and_reads_no_whole_table():
    """Or each step would copy the table, since a variable that is stepped by rows is copied."""
    layer = PooledEmbedding(10, 3)
    layer.build((None, 4))

    @tf.function
    def gradient(ids):
        with tf.GradientTape() as tape:
            pooled = layer(ids)
        return tape.gradient(pooled, layer.table.embeddings.value)

    graph = gradient.get_concrete_function(tf.TensorSpec([None, 4], tf.int64)).graph
    on_the_table = {
        operation.type
        for operation in graph.get_operations()
        if any(tensor.dtype == tf.resource for tensor in operation.inputs)
    }
    assert on_the_table == {"ResourceGather"}
    assert isinstance(gradient(tf.constant([[1, 4, 9, PADDING]], tf.int64)), tf.IndexedSlices)


@pytest.mark.parametrize(
    ("pooling", "reference"),
    [
        ("mean", lambda rows: rows.mean(axis=0)),
        ("sum", lambda rows: rows.sum(axis=0)),
        ("sqrtn", lambda rows: rows.sum(axis=0) / np.sqrt(len(rows))),
    ],
)
def test_pooling_matches_numpy(pooling, reference):
    layer = PooledEmbedding(10, 3)
    ids = np.array([[1, 4, PADDING], [9, PADDING, PADDING], [2, 2, 3]])
    out = np.asarray(layer(ids, pooling=pooling))
    table = np.asarray(layer.table.embeddings)
    for row, values in zip(ids, out, strict=True):
        np.testing.assert_allclose(values, reference(table[row[row != PADDING]]), rtol=1e-5)


def test_no_ids_pool_to_zeros():
    out = PooledEmbedding(10, 3)(np.full((2, 4), PADDING))
    np.testing.assert_array_equal(np.asarray(out), np.zeros((2, 3)))


def test_padding_never_gets_a_gradient():
    layer = PooledEmbedding(10, 3)
    layer.build((None, None))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(np.array([[4, PADDING, PADDING]])))
    gradient = tf.convert_to_tensor(tape.gradient(total, layer.table.embeddings.value))
    touched = np.flatnonzero(np.abs(gradient.numpy()).sum(axis=1))
    np.testing.assert_array_equal(touched, [4])


@pytest.mark.parametrize(
    "name", ["shared_0", "head_click", "embedding_user", "normalization", "concatenate", "dropout"]
)
def test_features_may_have_any_name(name):
    spec = tiny_spec(
        f"features.{name}={{type: dense}}", "model={shared: [4], cross_layers: 1, dropout: 0.1}"
    )
    assert name in build_model(spec).input


def test_activations_are_clipped_at_the_limit_alone():
    free = build_model(tiny_spec("model={shared: [8], tower: [4]}"))
    limited = build_model(tiny_spec("model={shared: [8], tower: [4], activation_limit: 0.5}"))
    # Positive kernels: with random ones a small layer may have no unit that answers at all.
    weights = [np.abs(weight) for weight in free.get_weights()]
    free.set_weights(weights)
    limited.set_weights(weights)
    x = np.linspace(1.0, 3.0, 8, dtype=np.float32)[None]
    for layer in free.layers:
        if not isinstance(layer, keras.layers.Dense) or layer.name.startswith("head-"):
            continue
        inputs = np.resize(x, (1, layer.kernel.shape[0]))
        unlimited = np.asarray(layer(inputs))
        assert unlimited.max() > 0.5
        ours = np.asarray(limited.get_layer(layer.name)(inputs))
        np.testing.assert_allclose(ours, np.minimum(unlimited, 0.5), rtol=1e-6)


def test_cross_layer_matches_its_equation():
    rng = np.random.default_rng(0)
    x0, x = rng.normal(size=(2, 5, 4)).astype(np.float32)
    layer = Cross()
    out = np.asarray(layer(x0, x))
    kernel, bias = map(np.asarray, (layer.dense.kernel, layer.dense.bias))
    np.testing.assert_allclose(out, x0 * (x @ kernel + bias) + x, rtol=1e-5, atol=1e-6)


def test_normalisation_is_clipped_and_survives_a_constant_feature():
    layer = ClippedNormalization()
    layer.build((None, 2))
    layer.mean.assign([1.0, 5.0])
    layer.variance.assign([4.0, 0.0])
    out = np.asarray(layer(np.array([[3.0, 5.0], [1e9, 6.0]], np.float32)))
    np.testing.assert_allclose(out, [[1.0, 0.0], [layer.limit, 1.0]])


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1e-6), (0.3, 1e-4), (0.0, 1e6), (1e6, 100.0)])
def test_features_of_any_scale_become_z_scores(mean, std):
    layer = ClippedNormalization()
    layer.build((None, 1))
    layer.mean.assign([mean])
    layer.variance.assign([std**2])
    out = np.asarray(layer(np.array([[mean + std], [mean - 2 * std]], np.float32)))
    np.testing.assert_allclose(out, [[1.0], [-2.0]], rtol=1e-2)


def test_table_computes_in_the_layers_own_precision():
    layer = PooledEmbedding(10, 3, dtype="mixed_float16")
    assert layer(np.array([[1, 4]])).dtype == "float16"
    assert layer.table.embeddings.dtype == "float32"


def test_outputs_follow_the_tasks():
    spec = tiny_spec()
    outputs = build_model(spec)(_batch(spec)[0])
    assert set(outputs) == set(spec.tasks)
    assert all(value.shape == (64, 1) for value in outputs.values())


def test_shared_table_is_one_variable():
    names = [w.path for w in build_model(tiny_spec()).trainable_weights if "embedding" in w.path]
    assert len(names) == 2


@pytest.mark.parametrize("preset", ["tiny", "laptop"])
@pytest.mark.parametrize("cross", [0, 2])
def test_presets_build_and_answer(preset, cross):
    spec = tiny_spec(f"model={{preset: {preset}, cross_layers: {cross}}}")
    assert PRESETS[preset].shared == spec.model.shared
    outputs = build_model(spec)(_batch(spec)[0])
    assert all(np.isfinite(np.asarray(value)).all() for value in outputs.values())


NUMBERS = ("z-scores", "number-curves")


@pytest.mark.parametrize(
    ("wide", "categories", "users", "parts"),
    [
        (True, False, 50, NUMBERS),
        (True, True, 50, (*NUMBERS, "user", "hour", "recent")),
        (True, True, 513, (*NUMBERS, "hour")),  # of ids it takes none
        (False, True, 512, ("user", "hour", "recent")),
        (False, True, 513, ("hour",)),
    ],
)
def test_wide_adds_a_linear_model_to_a_binary_logit(wide, categories, users, parts):
    common = ("model.curves=2", "model.cross_layers=1", f"features.user.buckets={users}")
    asked = (f"model.wide={wide}", f"tasks.click.wide_categories={categories}")
    spec = tiny_spec(*common, *asked)
    deep, model = build_model(tiny_spec(*common)), build_model(spec)
    batch = _batch(spec)[0]
    for layer in deep.layers:
        model.get_layer(layer.name).set_weights(layer.get_weights())
    for name, value in model(batch).items():
        np.testing.assert_array_equal(value, deep(batch)[name])
    known = {weight.path for weight in deep.weights}
    rng = np.random.default_rng(0)
    kernels = []
    for name in (["wide-click"] if wide else []) + (
        ["wide-click-categories"] if categories else []
    ):
        assert task_of_layer(name) == "click"
        linear = model.get_layer(name)
        kernels.append(rng.normal(size=linear.kernel.shape))
        linear.set_weights(kernels[-1:])
        known.add(f"{name}/kernel")
    assert {weight.path for weight in model.weights} == known

    def part(name):
        if name in NUMBERS:
            return np.asarray(keras.Model(model.inputs, model.get_layer(name).output)(batch))
        owner = spec.table_of(name)
        return np.asarray(model.get_layer(f"embedding-{owner}")(batch[name]))

    inputs = np.concatenate([part(name) for name in parts], axis=1)
    expected = np.asarray(deep(batch)["click"], np.float64) + inputs @ np.concatenate(kernels)
    np.testing.assert_allclose(model(batch)["click"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model(batch)["watch"], deep(batch)["watch"])


def test_interactions_sum_the_products_of_all_pairs():
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(7, width)).astype(np.float32) for width in (2, 3, 1, 4)]
    layer = Interactions(5)
    layer(inputs)
    matrices = np.split(np.asarray(layer.kernel, np.float64), np.cumsum([2, 3, 1]))
    vectors = [x @ matrix for x, matrix in zip(inputs, matrices, strict=True)]
    expected = sum(a * b for a, b in itertools.combinations(vectors, 2))
    np.testing.assert_allclose(layer(inputs), expected, rtol=1e-4, atol=1e-5)


def test_interactions_join_the_input_and_each_output():
    model = "model={{shared: [8], tower: [4], interactions: {}}}"
    plain, crossed = (build_model(tiny_spec(model.format(width))) for width in (0, 3))
    batch = _batch(tiny_spec())[0]
    for layer in plain.layers:
        if layer.name != "shared-0":
            crossed.get_layer(layer.name).set_weights(layer.get_weights())
    # What the pairs add to the shared bottom's input is taken away again.
    kernel, bias = plain.get_layer("shared-0").get_weights()
    (pairs,) = (x for x in crossed.get_layer("all-features").input if x.shape[-1] == 3)
    widths = [x.shape[-1] for x in crossed.get_layer("all-features").input]
    place = sum(widths[: next(n for n, w in enumerate(widths) if w == 3)])
    crossed.get_layer("shared-0").set_weights([np.insert(kernel, [place] * 3, 0.0, axis=0), bias])
    for name, value in crossed(batch).items():
        np.testing.assert_allclose(value, plain(batch)[name], rtol=1e-5, atol=1e-6)
    values = np.asarray(keras.Model(crossed.inputs, pairs)(batch), np.float64)
    for name, scale in {"click": 1.0, "watch": 3.0}.items():
        own = np.random.default_rng(0).normal(size=(3, 1))
        crossed.get_layer(f"pairs-{name}").set_weights([own])
        if name == "watch":
            crossed.get_layer("units-watch").deviation.assign(scale)
            plain.get_layer("units-watch").deviation.assign(scale)
        expected = np.asarray(plain(batch)[name], np.float64) + scale * values @ own
        np.testing.assert_allclose(crossed(batch)[name], expected, rtol=1e-4, atol=1e-5)
        assert task_of_layer(f"pairs-{name}") == name


def test_a_spec_with_one_categorical_feature_has_no_interactions():
    content = yaml.safe_load(SPEC)
    content["features"] = {"user": content["features"]["user"]}
    content["model"] |= {"interactions": 4}
    names = {layer.name for layer in build_model(parse_spec(yaml.safe_dump(content), "s")).layers}
    assert not {name for name in names if name.startswith("pair")}


def test_no_layer_has_a_name_that_a_feature_may_have():
    content = yaml.safe_load(SPEC)
    content["model"] |= {"curves": 2, "wide": True, "interactions": 2, "cross_layers": 1}
    content["model"] |= {"dropout": 0.1, "tower": [4]}
    content["tasks"]["click"]["wide_categories"] = True
    spec = parse_spec(yaml.safe_dump(content), "s")
    others = {layer.name for layer in build_model(spec).layers} - spec.inputs.keys()
    assert not {name for name in others if "-" not in name}


def test_a_spec_without_numbers_has_nothing_to_be_wide_of():
    content = yaml.safe_load(SPEC)
    content["features"] = {"user": content["features"]["user"]}
    content["model"] |= {"curves": 2, "wide": True}
    names = {layer.name for layer in build_model(parse_spec(yaml.safe_dump(content), "s")).layers}
    assert not {name for name in names if name.startswith(("wide", "number", "z-"))}


def _encoded(x: float, edges: np.ndarray) -> list[float]:
    """What a number passes of each bin: eq. 1 of arXiv 2203.05556, held within [0, 1]."""
    bins = itertools.pairwise(edges)
    return [min(max((x - low) / (high - low), 0.0), 1.0) for low, high in bins]


def test_curves_are_linear_in_what_a_number_passes_of_each_bin():
    rng = np.random.default_rng(0)
    edges = [np.array([0.0, 1.0, 10.0]), np.array([-5.0, -4.0, -1.0, 2.0]), np.array([3.0])]
    layer = Curves(2, bins=3)
    layer.build((None, 3))
    layer.set_edges(edges)
    layer.kernel.assign(rng.normal(size=(3, 3, 2)))
    layer.bias.assign(rng.normal(size=(3, 2)))
    x = np.concatenate([rng.normal(0, 5, (50, 3)), np.full((2, 3), [[1e30], [-1e30]])])
    expected = np.zeros((len(x), 3, 2))
    for row, numbers in enumerate(x):
        for number, (value, own) in enumerate(zip(numbers, edges, strict=True)):
            passed = np.zeros(3)
            passed[: len(own) - 1] = _encoded(value, own)
            kernel, bias = np.asarray(layer.kernel)[number], np.asarray(layer.bias)[number]
            expected[row, number] = np.maximum((passed - 0.5) @ kernel + bias, 0.0)
    out = np.asarray(layer(x.astype(np.float32)))
    np.testing.assert_allclose(out, expected.reshape(len(x), 6), rtol=1e-4, atol=1e-4)


def test_cold_start_cuts_numbers_into_bins_of_alike_many_events():
    spec = tiny_spec("model={shared: [8], curves: 2}")
    model = build_model(spec)
    batch = _batch(spec, 2000)
    initialise_from_data(model, [batch], spec)
    layer = model.get_layer("number-curves")
    for number, name in enumerate(spec.dense):
        values = batch[0][name][:, 0]
        starts = np.asarray(layer.starts)[number]
        ends = starts + np.asarray(layer.widths)[number]
        inside = [np.mean((values > a) & (values <= b)) for a, b in zip(starts, ends, strict=True)]
        np.testing.assert_allclose(inside, 0.998 / layer.bins, atol=0.002)


def test_cold_start_takes_statistics_and_base_rates_from_the_data():
    spec = tiny_spec()
    model = build_model(spec)
    features, labels, weights = _batch(spec, 500)
    initialise_from_data(model, [(features, labels, weights)], spec)
    dense = np.concatenate([features["age"], features["price"]], axis=1)
    layer = model.get_layer("z-scores")
    np.testing.assert_allclose(layer.mean, dense.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(layer.variance, dense.var(axis=0), rtol=1e-3)
    click = 1 / (1 + np.exp(-np.asarray(model.get_layer("head-click").bias)))
    np.testing.assert_allclose(click, np.mean(labels["click"]), rtol=1e-5)
    rated = np.asarray(weights["stars"]) == 1
    stars = np.asarray(labels["stars"])[rated]
    units = model.get_layer("units-stars")
    np.testing.assert_allclose(
        [units.mean, units.deviation], [stars.mean(), stars.std()], rtol=1e-4
    )


def test_predictions_start_around_the_mean_of_their_label():
    spec = tiny_spec()
    batch = _batch(spec, 500)
    rated = np.asarray(batch[2]["stars"]) == 1
    stars = np.asarray(batch[1]["stars"])[rated]
    means = []
    for seed in range(5):
        # The layers' random weights add something of their own.
        keras.utils.set_random_seed(seed)
        model = build_model(spec)
        initialise_from_data(model, [batch], spec)
        means.append(np.asarray(model(batch[0])["stars"])[rated].mean())
    assert abs(np.mean(means) - stars.mean()) < stars.std()


def test_an_outlier_leaves_the_other_events_their_z_scores():
    spec = tiny_spec()
    clean, dirty = build_model(spec), build_model(spec)
    features, labels, weights = _batch(spec, 3000)
    initialise_from_data(clean, [(features, labels, weights)], spec)
    price = np.array(features["price"])
    price[7] = 1e6
    initialise_from_data(dirty, [({**features, "price": price}, labels, weights)], spec)
    x = np.concatenate([features["age"], features["price"]], axis=1)
    z = [np.asarray(model.get_layer("z-scores")(x)) for model in (clean, dirty)]
    np.testing.assert_allclose(z[1], z[0], atol=0.05)


def test_values_whose_variance_float32_cannot_hold_are_refused():
    spec = tiny_spec()
    features, labels, weights = _batch(spec)
    price = np.array(features["price"])
    price[::2] = 1e38
    with pytest.raises(BadDataError, match=r"features\.price: too many .* log1p"):
        initialise_from_data(
            build_model(spec), [({**features, "price": price}, labels, weights)], spec
        )
