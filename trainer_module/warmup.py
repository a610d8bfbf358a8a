"""Warm-up: requests that a model server sends itself before it serves a version.

TensorFlow builds, optimises and allocates at a signature's first calls, which take many times
as long as the later ones. TensorFlow Serving makes these calls itself where a version carries
the requests (https://www.tensorflow.org/tfx/serving/saved_model_warmup).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from schemas.features import CategoricalFeature, HistoryFeature
from schemas.spec import RankingSpec
from trainer_module import signatures
from trainer_module.export import requested_features
from trainer_module.preprocessing import first_values, raw_feature_spec

PATH = os.path.join("assets.extra", "tf_serving_warmup_requests")
"""Where TensorFlow Serving looks for them, in the folder of a SavedModel."""

_ABSENT = {tf.string: "", tf.int64: signatures.ABSENT_ID, tf.float32: math.nan}


def sample_requests(files: Sequence[str], spec: RankingSpec, count: int) -> list[bytes]:
    """Returns the first events as requests: tf.Examples of what requests bring, without labels.

    Args:
        files: gzipped TFRecords of encoded events.
        spec: the ranking spec.
        count: how many, at most.
    """
    brought = requested_features(spec)
    records = tf.data.TFRecordDataset(list(files), compression_type="GZIP")
    requests = []
    for record in records.take(count).as_numpy_iterator():
        example = tf.train.Example.FromString(record)
        for name in [name for name in example.features.feature if name not in brought]:
            del example.features.feature[name]
        requests.append(example.SerializeToString())
    return requests


def write_warmup(directory: str, files: Sequence[str], spec: RankingSpec) -> None:
    """Adds warm-up requests to an exported model, four at most.

    Each served signature is asked for one event and for `serving.latency_batch`: kernels may
    be prepared for each shape anew.

    Args:
        directory: folder of the SavedModel.
        files: gzipped TFRecords of encoded events, by day in their names; the newest are asked.
        spec: the ranking spec.
    """
    newest = sorted(files, key=os.path.basename, reverse=True)
    requests = sample_requests(newest, spec, spec.serving.latency_batch)
    path = os.path.join(directory, PATH)
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for size in sorted({1, len(requests)}):
            asked = requests[:size]
            for signature, inputs in (
                (signatures.SERVE_EXAMPLES, {"examples": tf.constant(asked)}),
                (signatures.SERVE_FEATURES, _named(asked, spec)),
            ):
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(_request(signature, inputs, spec))
                writer.write(log.SerializeToString())


def _request(
    signature: str, inputs: Mapping[str, tf.Tensor], spec: RankingSpec
) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = spec.name
    request.model_spec.signature_name = signature
    for name, tensor in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(tensor))
    return request


def _named(requests: Sequence[bytes], spec: RankingSpec) -> dict[str, tf.Tensor]:
    """The arguments of `signatures.SERVE_FEATURES`."""
    brought = requested_features(spec)
    parsing = {name: raw_feature_spec(spec)[name] for name in brought}
    arguments = {}
    for name, values in tf.io.parse_example(requests, parsing).items():
        feature = brought[name]
        if isinstance(feature, HistoryFeature):
            rows = first_values(values, math.nan, len(spec.history_columns(name)))
        elif not (isinstance(feature, CategoricalFeature) and feature.multivalued):
            rows = first_values(values, _ABSENT[values.dtype])[:, 0]
        else:
            rows = tf.sparse.to_dense(values, default_value=_ABSENT[values.dtype])
        arguments[name] = rows
    return arguments
