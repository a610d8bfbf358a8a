"""Single steps of the optimizers: the rules, and variables to step."""

import keras
import numpy as np
import tensorflow as tf

from trainer_module.optimizers import (
    AdaGC,
    AdaptiveGradientClipping,
    Clippy,
    GlobalClippy,
    GlobalNormClipping,
    GradientClipping,
    Lamb,
    NoClipping,
    UpdateRMSClipping,
    ZClip,
)

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
