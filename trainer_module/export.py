"""The exported SavedModel: preprocessing, model and score in one, with its signatures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft

from schemas import formula
from schemas.features import CategoricalFeature, Feature, HistoryFeature
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask
from trainer_module import signatures
from trainer_module.history_lookup import HistoryLookup
from trainer_module.inputs import model_inputs
from trainer_module.preprocessing import as_column, as_rows, first_values, raw_feature_spec

_FUNCTIONS = {
    "exp": tf.exp,
    "log1p": tf.math.log1p,
    "sqrt": tf.sqrt,
    "minimum": tf.minimum,
    "maximum": tf.maximum,
}


def export_model(
    model: keras.Model,
    transform: tft.TFTransformOutput,
    spec: RankingSpec,
    directory: str,
    history: Mapping[str, pa.Table] | None = None,
) -> None:
    """Saves a SavedModel that needs nothing of this project to be served.

    Its signatures are those of `trainer_module.signatures`. `serving_default` takes
    serialized tf.Examples, string [batch]; `raw_features` takes each feature by name: single
    values as [batch], lists as [batch, longest] padded with the empty string (string) or -1
    (int); empty string, -1 or NaN where there is no value. Both return each task's
    prediction, float32 [batch], in the units of its label (a probability for a binary task),
    and the score. A history feature is looked up by its id, or, where its `serving` is
    `request`, is a feature of the request, by name [batch, values of
    `RankingSpec.history_columns`]; `evaluate` reads it from the events, as training did, and
    looks it up for an event without it.

    Args:
        model: of `build_model`.
        transform: what Transform wrote.
        spec: the ranking spec.
        directory: folder of the SavedModel; replaced.
        history: table by history feature, of `trainer_module.history_lookup.load_tables`.
    """
    module = _Ranker(model, transform, spec, history or {})
    if tf.io.gfile.exists(directory):
        tf.io.gfile.rmtree(directory)
    tf.saved_model.save(
        module,
        directory,
        signatures={
            signatures.SERVE_EXAMPLES: module.serve_examples,
            signatures.SERVE_FEATURES: module.serve_features,
            signatures.EVALUATE: module.evaluate,
            signatures.LABELS: module.evaluation_labels,
        },
    )


class _Ranker(tf.Module):
    """Holds the parts so that they are saved, and the signatures as tf.functions."""

    def __init__(
        self,
        model: keras.Model,
        transform: tft.TFTransformOutput,
        spec: RankingSpec,
        history: Mapping[str, pa.Table],
    ):
        super().__init__()
        layer = transform.transform_features_layer()
        # Behind functions: TensorFlow would trace a Keras layer that it finds here once more, for
        # Keras, and save all layers below it, which takes half of an export. There is nothing to
        # save but graphs and weights.
        self._transform = lambda features: layer(features)
        self._model = lambda features: model(features, training=False)
        self._weights = {variable.path: variable.value for variable in model.variables}
        self._spec = spec
        self._raw_feature_spec = raw_feature_spec(spec)
        self._history = [HistoryLookup(name, spec, table) for name, table in history.items()]
        self._requested = requested_features(spec)
        self._score = formula.parse(spec.serving.score, names=spec.tasks)
        examples = tf.TensorSpec([None], tf.string, name="examples")
        self.serve_examples = tf.function(
            self._serve_examples, input_signature=[examples], autograph=False
        )
        self.evaluate = tf.function(self._evaluate, input_signature=[examples], autograph=False)
        self.evaluation_labels = tf.function(
            self._labels, input_signature=[examples], autograph=False
        )
        self.serve_features = tf.function(
            self._serve_features, input_signature=[_raw_signature(spec)], autograph=False
        )

    def _serve_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._serve(self._parse(examples, self._requested))

    def _serve_features(self, features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return self._serve({name: _sparse(value) for name, value in features.items()})

    def _serve(self, raw: dict[str, tf.SparseTensor]) -> dict[str, tf.Tensor]:
        for lookup in self._history:
            raw.update(lookup(raw))
        return self._answer(self._outputs(raw))

    def _evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        # With the labels, as all parse that judge models: TensorFlow then parses once for all.
        raw = self._parse(examples, self._raw_feature_spec)
        for lookup in self._history:
            raw.update({name: _or_else(raw[name], found) for name, found in lookup(raw).items()})
        outputs = self._outputs(raw)
        predictions = {
            name: tf.sigmoid(outputs[name]) if isinstance(task, BinaryTask) else outputs[name]
            for name, task in self._spec.tasks.items()
        }
        served = self._answer(outputs)
        predictions[signatures.SCORE] = served[signatures.SCORE]
        finite = {name: tf.math.is_finite(value) for name, value in predictions.items()}
        # Metrics of NaN say nothing. A diverged model must end in a verdict, so what is not
        # finite is evaluated as zero, and counted where a bound of its own catches it.
        answer = {
            name: tf.where(finite[name], value, tf.zeros_like(value))
            for name, value in predictions.items()
        }
        as_served = map(tf.math.is_finite, served.values())
        all_finite = tf.reduce_all(tf.stack([*finite.values(), *as_served]), axis=0)
        answer[signatures.FINITE] = tf.cast(all_finite, tf.float32)
        return answer

    def _labels(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        transformed = self._transform(self._parse(examples, self._raw_feature_spec))
        answer = {}
        for task in self._spec.tasks:
            for key in (signatures.label_key(task), signatures.weight_key(task)):
                answer[key] = tf.reshape(transformed[key], [-1])
        ones = tf.ones(tf.shape(examples), tf.float32)
        answer[signatures.label_key(signatures.FINITE)] = ones
        answer[signatures.weight_key(signatures.FINITE)] = ones
        return answer

    def _parse(self, examples: tf.Tensor, fields: Any) -> dict[str, tf.SparseTensor]:
        return tf.io.parse_example(examples, {n: self._raw_feature_spec[n] for n in fields})

    def _outputs(self, raw: Mapping[str, tf.SparseTensor]) -> dict[str, tf.Tensor]:
        """Returns each task's output, float32 [batch], in the space of the loss."""
        features = model_inputs(self._transform(dict(raw)), self._spec)
        outputs = self._model(features)
        return {task: tf.reshape(outputs[task], [-1]) for task in self._spec.tasks}

    def _answer(self, outputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        answer = {}
        for name, task in self._spec.tasks.items():
            if isinstance(task, BinaryTask):
                answer[name] = tf.sigmoid(outputs[name])
            elif task.transform == "log1p":
                # Its labels are at least 0, and a formula may take a root of them.
                answer[name] = tf.maximum(tf.math.expm1(outputs[name]), 0.0)
            else:
                answer[name] = outputs[name]
        answer[signatures.SCORE] = formula.evaluate(self._score, answer, _FUNCTIONS)
        return answer


def requested_features(spec: RankingSpec) -> dict[str, Feature]:
    """What a request brings: the features without those that the model looks up itself."""
    return {
        name: feature
        for name, feature in spec.features.items()
        if not (isinstance(feature, HistoryFeature) and feature.serving == "table")
    }


def _raw_signature(spec: RankingSpec) -> dict[str, tf.TensorSpec]:
    result = {}
    shape: list[int | None]
    for name, feature in requested_features(spec).items():
        if isinstance(feature, CategoricalFeature):
            dtype = tf.string if feature.dtype == "string" else tf.int64
            shape = [None, None] if feature.multivalued else [None]
        elif isinstance(feature, HistoryFeature):
            dtype, shape = tf.float32, [None, len(spec.history_columns(name))]
        else:
            dtype, shape = tf.float32, [None]
        result[name] = tf.TensorSpec(shape, dtype, name=name)
    return result


def _or_else(own: tf.SparseTensor, other: tf.SparseTensor) -> tf.SparseTensor:
    """Each row's own values, [batch, columns]; where it has none, those that `other` has of it."""
    columns = other.dense_shape[1]
    values = first_values(own, math.nan, columns)
    absent = tf.math.is_nan(values[:, :1])
    return as_rows(tf.where(absent, tf.reshape(other.values, [-1, columns]), values))


def _sparse(values: tf.Tensor) -> tf.SparseTensor:
    """Makes the sparse [batch, any] form of a raw feature, dropping what is absent."""
    if values.dtype == tf.float32 and values.shape.rank == 2:
        # Each place of a history has a meaning of its own.
        return as_rows(values)
    if values.dtype == tf.string:
        present = tf.not_equal(values, "")
    elif values.dtype == tf.int64:
        present = tf.not_equal(values, signatures.ABSENT_ID)
    else:
        present = tf.logical_not(tf.math.is_nan(values))
    if values.shape.rank == 1:
        return as_column(values, present)
    return tf.ragged.boolean_mask(values, present).to_sparse()
