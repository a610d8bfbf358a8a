"""A SavedModel with the signatures of an exported one, and events for it."""

import os

import numpy as np
import tensorflow as tf

from schemas.loading import parse_spec

SPEC = """
name: test
features:
  user: {type: categorical, buckets: 10, embedding: 2}
  items: {type: categorical, multivalued: true, buckets: 10, embedding: 2}
  hour: {type: categorical, dtype: int, buckets: 24, embedding: 2}
  age: {type: dense}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: 0.5}}
  rate: {kind: regression, label: rating, transform: log1p, optional: true, gate: {max_rmse: 9}}
model: {preset: tiny}
serving: {score: click + rate, check_events: 20}
"""
SPEC_OF_TEST = parse_spec(SPEC, "spec")

EXAMPLES = tf.TensorSpec([None], tf.string, name="examples")
NAMED = {
    "user": tf.TensorSpec([None], tf.string, name="user"),
    "items": tf.TensorSpec([None, None], tf.string, name="items"),
    "hour": tf.TensorSpec([None], tf.int64, name="hour"),
    "age": tf.TensorSpec([None], tf.float32, name="age"),
}
_FIELDS = {
    "user": tf.io.FixedLenFeature([], tf.string, default_value=""),
    "items": tf.io.VarLenFeature(tf.string),
    "hour": tf.io.FixedLenFeature([], tf.int64, default_value=-1),
    "age": tf.io.FixedLenFeature([], tf.float32, default_value=np.nan),
}


class Model(tf.Module):
    """Answers from the features, finite and in range whatever these are."""

    def __init__(self, change=None, by_name=None):
        """Makes a model.

        Args:
            change: from (features, answer) to what is answered, whatever the request's form.
            by_name: from the features of a request by name to those that are looked at.
        """
        super().__init__()
        self.calls = tf.Variable(0, dtype=tf.int64)
        self._change = change or (lambda features, answer: answer)
        self._by_name = by_name or (lambda features: features)

    def examples(self, examples):
        """The answer to serialized tf.Examples, string [batch]."""
        parsed = tf.io.parse_example(examples, _FIELDS)
        return self._answer({**parsed, "items": tf.sparse.to_dense(parsed["items"])})

    def evaluate(self, examples):
        """The same in the space of the loss."""
        answer = self.examples(examples)
        return {"click": answer["click"], "rate": tf.math.log1p(answer["rate"])}

    def features(self, **features):
        """The answer to features by name."""
        return self._answer(self._by_name(features))

    def _answer(self, features):
        known = tf.not_equal(features["items"], "")
        items = tf.reduce_sum(tf.cast(known, tf.float32), axis=1)
        user = tf.cast(tf.strings.length(features["user"]), tf.float32)
        age = features["age"]
        age = tf.clip_by_value(tf.where(tf.math.is_nan(age), 0.0, age), -100.0, 100.0)
        hour = tf.cast(tf.clip_by_value(features["hour"], -1, 24), tf.float32)
        click = tf.sigmoid(age / 50.0 - 1.0 + 0.1 * items)
        rate = tf.maximum(age + hour + user, 0.0)
        answer = self._change(features, {"click": click, "rate": rate})
        return {"score": answer["click"] + answer["rate"], **answer}


def save(model, folder, examples=EXAMPLES, named=None):
    """Saves a model with its signatures; returns the folder."""

    def function(call, *args, **kwargs):
        return tf.function(call, autograph=False).get_concrete_function(*args, **kwargs)

    signatures = {
        "serving_default": function(model.examples, examples),
        "raw_features": function(model.features, **(named or NAMED)),
        "evaluate": function(model.evaluate, EXAMPLES),
    }
    tf.saved_model.save(model, str(folder), signatures=signatures)
    return str(folder)


def write_events(folder):
    """Writes 60 events, some without each feature, in two shards."""
    folder.mkdir(parents=True)
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    for shard in range(2):
        path = str(folder / f"data-{shard:05}-of-00002.gz")
        with tf.io.TFRecordWriter(path, options) as writer:
            for row in range(30):
                example = tf.train.Example()
                feature = example.features.feature
                if row % 5:
                    feature["user"].bytes_list.value.append(b"u" * (row % 7 + 1))
                feature["items"].bytes_list.value.extend([b"i"] * (row % 4))
                if row % 6:
                    feature["hour"].int64_list.value.append(row % 24)
                if row % 8:
                    feature["age"].float_list.value.append(20.0 + row)
                feature["clicked"].float_list.value.append(row % 2)
                feature["rating"].float_list.value.append(3.0)
                writer.write(example.SerializeToString())
    return os.fspath(folder)
