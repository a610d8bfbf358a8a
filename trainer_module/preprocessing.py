"""Preprocessing in tensorflow-transform: one graph for training, evaluation and serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from schemas.features import CategoricalFeature, DenseFeature
from schemas.loading import parse_spec
from schemas.spec import RankingSpec
from schemas.tasks import Task
from trainer_module import signatures


def preprocessing_fn(
    inputs: Mapping[str, tf.SparseTensor], custom_config: Mapping[str, Any]
) -> dict[str, tf.Tensor | tf.SparseTensor]:
    """TFX Transform's entry point; see `preprocess`.

    Args:
        inputs: event fields by name, sparse [batch, any].
        custom_config: `spec`, the ranking spec as YAML.

    Returns:
        As `preprocess`.
    """
    return preprocess(inputs, parse_spec(custom_config["spec"], "custom_config"))


def preprocess(
    inputs: Mapping[str, tf.SparseTensor], spec: RankingSpec
) -> dict[str, tf.Tensor | tf.SparseTensor]:
    """Turns event fields into model inputs, labels and label weights.

    Nothing here depends on the data: ids are hashed, not looked up in a vocabulary, so that
    a warm-started embedding row keeps its meaning from day to day, and dense features are
    squashed only. Their mean and variance are weights of the model (see
    `trainer_module.model`), which a warm start carries over.

    Args:
        inputs: event fields by name, sparse [batch, any]; labels may be absent.
        spec: the ranking spec.

    Returns:
        By name: single-valued categorical features, int64 [batch, 1]; multivalued ones,
        sparse int64 [batch, any]; numbers (`RankingSpec.dense`), float32 [batch, 1]; for each
        task its label in the space of the loss and the label's weight, float32 [batch, 1].
    """
    outputs = {name: hashed(name, inputs[name], spec) for name in spec.categorical}
    for name, feature in spec.logged.items():
        if isinstance(feature, DenseFeature):
            outputs[name] = squashed(first_values(inputs[name], feature.default), feature)
    for name in spec.history:
        columns = spec.history_columns(name)
        numbers = tf.split(first_values(inputs[name], 0.0, len(columns)), len(columns), axis=1)
        for (column, feature), number in zip(columns.items(), numbers, strict=True):
            outputs[column] = squashed(number, feature)
    return outputs | labels_and_weights(inputs, spec)


def labels_and_weights(
    inputs: Mapping[str, tf.SparseTensor], spec: RankingSpec
) -> dict[str, tf.Tensor | tf.SparseTensor]:
    """The labels and label weights of `preprocess`, of the labels that are there."""
    outputs: dict[str, tf.Tensor | tf.SparseTensor] = {}
    for name, task in spec.tasks.items():
        if task.label in inputs:
            outputs[signatures.label_key(name)] = _label(inputs[task.label], task)
            outputs[signatures.weight_key(name)] = _label_weight(inputs[task.label])
    return outputs


def raw_feature_spec(spec: RankingSpec) -> dict[str, tf.io.VarLenFeature]:
    """Returns the parsing spec of encoded events, features and labels by name.

    A history feature is one list, of the values of `RankingSpec.history_columns`.
    """
    dtypes = {"string": tf.string, "int": tf.int64}
    result = {
        name: tf.io.VarLenFeature(
            dtypes[feature.dtype] if isinstance(feature, CategoricalFeature) else tf.float32
        )
        for name, feature in spec.features.items()
    }
    result.update({label: tf.io.VarLenFeature(tf.float32) for label in spec.labels})
    return result


def hashed(name: str, values: tf.SparseTensor, spec: RankingSpec) -> tf.Tensor | tf.SparseTensor:
    """The buckets of a categorical feature's values, as `preprocess` returns them."""
    feature = spec.categorical[name]
    buckets = spec.categorical[spec.table_of(name)].buckets
    if feature.dtype == "int":
        # JSON clients of the served model have no other word for a missing one.
        values = tf.sparse.retain(values, tf.not_equal(values.values, signatures.ABSENT_ID))
        values = tf.SparseTensor(
            values.indices, tf.strings.as_string(values.values), values.dense_shape
        )
    if feature.multivalued:
        # An empty string is not an element, as in requests by feature.
        kept = tf.sparse.retain(values, tf.not_equal(values.values, ""))
        lists = tf.RaggedTensor.from_value_rowids(
            kept.values, kept.indices[:, 0], kept.dense_shape[0], validate=False
        )
        return tft.hash_strings(lists[:, : feature.max_length].to_sparse(), buckets)
    # A missing value has a bucket of its own: the one of the empty string.
    return tft.hash_strings(first_values(values, ""), buckets)


def squashed(numbers: tf.Tensor, feature: DenseFeature) -> tf.Tensor:
    """The numbers of a dense feature, [batch, 1], as `preprocess` returns them."""
    # Only a JSON client can send NaN; it means that there is no value.
    absent = tf.math.is_nan(numbers)
    numbers = tf.where(absent, tf.fill(tf.shape(numbers), feature.default), numbers)
    return tf.math.log1p(tf.maximum(numbers, 0.0)) if feature.scale == "log1p" else numbers


def _label(values: tf.SparseTensor, task: Task) -> tf.Tensor:
    label = first_values(values, 0.0)
    if task.kind == "regression" and task.transform == "log1p":
        return tf.math.log1p(tf.maximum(label, 0.0))
    return label


def _label_weight(values: tf.SparseTensor) -> tf.Tensor:
    present = tf.SparseTensor(
        values.indices, tf.ones_like(values.values, tf.float32), values.dense_shape
    )
    return first_values(present, 0.0)


def first_values(values: tf.SparseTensor, default: Any, count: int = 1) -> tf.Tensor:
    """Returns each row's first values, [batch, count]; `default` where there is none."""
    shape = tf.stack([values.dense_shape[0], count])
    # What is cut off has too few columns where no row has so many values.
    first = tf.sparse.slice(values, [0, 0], shape)
    columns = tf.SparseTensor(first.indices, first.values, shape)
    dense = tf.sparse.to_dense(columns, default_value=tf.constant(default, values.values.dtype))
    return tf.reshape(dense, [-1, count])


def as_column(values: tf.Tensor, present: tf.Tensor | None = None) -> tf.SparseTensor:
    """Makes the sparse [batch, 1] form of single values; the inverse of `first_values`.

    Args:
        values: [batch].
        present: bool [batch], whether a row has its value; every row has it if None.
    """
    shape = tf.stack([tf.size(values, tf.int64), 1])
    if present is None:
        rows = tf.range(shape[0])[:, tf.newaxis]
    else:
        rows = tf.where(present)
        values = tf.gather_nd(values, rows)
    return tf.SparseTensor(tf.pad(rows, [[0, 0], [0, 1]]), values, shape)


def as_rows(values: tf.Tensor) -> tf.SparseTensor:
    """Makes the sparse form of values that are all there, [batch, count]."""
    present = tf.where(tf.ones_like(values, tf.bool))
    return tf.SparseTensor(present, tf.reshape(values, [-1]), tf.shape(values, tf.int64))
