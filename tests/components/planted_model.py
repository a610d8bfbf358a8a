"""Models that answer what each event says, and events for them."""

import os

import numpy as np
import tensorflow as tf

from schemas.features import CategoricalFeature
from trainer_module import signatures
from trainer_module.export import export_model


class PlantedModel(tf.Module):
    """Answers for each task what the event's feature says, in the space of the loss."""

    def __init__(self, answers):
        super().__init__()
        self._answers = answers

    def __call__(self, features, training=False):
        return {task: features[name] for task, name in self._answers.items()}


class RawTransform:
    """In place of a transform graph: values as they are, label weights by presence."""

    def __init__(self, spec):
        self._spec = spec

    def transform_features_layer(self):
        return self._transform

    def _transform(self, raw):
        answer = {}
        for name, value in raw.items():
            if isinstance(self._spec.features.get(name), CategoricalFeature):
                default = "" if value.dtype == tf.string else -1
                answer[name] = tf.sparse.to_dense(value, default_value=default)
            else:
                answer[name] = one_column(value)
        for name, task in self._spec.tasks.items():
            if task.label in raw:
                present = tf.sparse.map_values(tf.ones_like, raw[task.label])
                answer[signatures.label_key(name)] = answer[task.label]
                answer[signatures.weight_key(name)] = one_column(present)
        return answer


def one_column(value):
    return tf.sparse.to_dense(tf.sparse.reset_shape(value, [value.dense_shape[0], 1]))


def export_planted(spec, answers, directory):
    """Exports a model; `answers` says which feature each task is answered by."""
    export_model(PlantedModel(answers), RawTransform(spec), spec, str(directory))


def write_examples(folder, columns, absent=None, files=1):
    """Writes columns of strings, ints and floats; `absent` tells which values are missing."""
    os.makedirs(folder)
    absent = absent or {}
    events = len(next(iter(columns.values())))
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    for number in range(files):
        path = os.path.join(folder, f"data-{number:05d}-of-{files:05d}.gz")
        with tf.io.TFRecordWriter(path, options) as writer:
            for row in range(number, events, files):
                example = tf.train.Example()
                for name, values in columns.items():
                    if name in absent and absent[name][row]:
                        continue
                    feature, value = example.features.feature[name], values[row]
                    if isinstance(value, str):
                        feature.bytes_list.value.append(value.encode())
                    elif isinstance(value, np.integer):
                        feature.int64_list.value.append(value)
                    else:
                        feature.float_list.value.append(value)
                writer.write(example.SerializeToString())
