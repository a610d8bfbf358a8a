import math

import numpy as np
import pytest
import tensorflow as tf
from events import make_events, tiny_spec, transformed


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
