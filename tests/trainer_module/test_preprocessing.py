import math

import numpy as np
import pytest
import tensorflow as tf
from events import make_events, tiny_spec, transformed

from trainer_module.preprocessing import first_values


def _event(**fields):
    base = {"user": ["u1"], "clicked": [1.0], "seconds": [9.0]}
    return {**base, **fields}


def test_same_id_has_the_same_bucket_whatever_else_is_in_the_batch():
    spec = tiny_spec()
    alone = transformed([_event(user=["u7"])], spec)["user"].numpy()[0]
    events = [*make_events(30), _event(user=["u7"])]
    assert transformed(events, spec)["user"].numpy()[-1] == alone


def test_features_that_share_a_table_share_buckets():
    out = transformed([_event(user=["u7"], recent=["u7", "u8"])], tiny_spec())
    assert out["recent"].values.numpy()[0] == out["user"].numpy()[0, 0]


@pytest.mark.parametrize("hidden", [[""], ["", ""]])
def test_empty_string_is_no_element_of_a_list(hidden):
    events = [
        _event(recent=["u7", *hidden, "u8"]),
        _event(recent=hidden),
        _event(recent=["u7", "u8"]),
    ]
    out = transformed(events, tiny_spec())["recent"]
    np.testing.assert_array_equal(
        tf.sparse.to_dense(out, default_value=-9).numpy()[[0, 1]],
        [tf.sparse.to_dense(out).numpy()[2], [-9, -9]],
    )


def test_missing_integer_is_no_element_of_a_list():
    spec = tiny_spec(
        "features.codes={type: categorical, dtype: int, multivalued: true, table: hour}"
    )
    out = transformed([_event(codes=[-1, 3, -1, 4]), _event(codes=[3, 4])], spec)["codes"]
    first, second = tf.sparse.to_dense(out, default_value=-9).numpy()
    np.testing.assert_array_equal(first, second)


def test_list_counts_up_to_its_max_length():
    spec = tiny_spec("features.recent.max_length=3")
    events = [_event(recent=["", "a", "b", "c", "d"]), _event(recent=["a", "b", "c"])]
    first, second = tf.sparse.to_dense(
        transformed(events, spec)["recent"], default_value=-9
    ).numpy()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["user", "hour"])
def test_buckets_stay_in_the_table(name):
    spec = tiny_spec()
    ids = transformed(make_events(200), spec)[name].numpy()
    assert ids.min() >= 0
    assert ids.max() < spec.categorical[name].buckets


@pytest.mark.parametrize(
    ("value", "expected"),
    [([3.0], math.log(4)), ([], math.log(2)), ([-5.0], 0.0), ([math.nan], math.log(2))],
)
def test_dense_feature_is_squashed_with_its_default(value, expected):
    out = transformed([_event(age=value)], tiny_spec())
    assert out["age"].numpy()[0, 0] == pytest.approx(expected, rel=1e-6)


def test_missing_categorical_value_has_the_bucket_of_the_empty_string():
    out = transformed([_event(user=[""]), _event(user=[])], tiny_spec())
    assert out["user"].numpy()[0] == out["user"].numpy()[1]


def test_label_is_in_the_space_of_the_loss():
    out = transformed([_event(seconds=[9.0])], tiny_spec())
    assert out["watch__label"].numpy()[0, 0] == pytest.approx(math.log(10), rel=1e-6)


def test_missing_label_has_no_weight():
    out = transformed([_event(rating=[4.0]), _event()], tiny_spec())
    np.testing.assert_array_equal(out["stars__weight"].numpy(), [[1.0], [0.0]])
    assert out["stars__label"].numpy()[0, 0] == 4.0
    assert tf.reduce_all(tf.math.is_finite(out["stars__label"]))


@pytest.mark.parametrize("default", [0.0, "", -1])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(
    "rows", [[], [[]], [[], []], [[7], [8]], [[], [7, 8], [9], []], [[7, 8, 9], [], [5, 6]]]
)
def test_first_values_are_those_of_each_row_or_the_default(rows, count, default):
    kind = type(default)
    ragged = tf.ragged.constant([[kind(v) for v in row] for row in rows], ragged_rank=1)
    values = tf.cast(ragged, tf.int64) if kind is int else ragged
    if kind is str and not any(rows):
        values = tf.RaggedTensor.from_row_lengths(tf.zeros([0], tf.string), [0] * len(rows))
    first = first_values(values.to_sparse(), default, count)
    expected = [[*map(kind, row), *[default] * count][:count] for row in rows]
    assert first.shape == (len(rows), count)
    assert [[v.decode() if kind is str else v for v in row] for row in first.numpy()] == expected
