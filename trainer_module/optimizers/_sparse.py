"""Dense and sparse (TensorFlow `IndexedSlices`) gradients behind one interface."""

from typing import Any

import keras
from keras import ops

Tensor = Any

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
else:
    tf = None


def split(gradient: Tensor) -> tuple[Tensor, Tensor | None]:
    """Splits a gradient into values and the rows that they belong to.

    Args:
        gradient: A tensor, or `tf.IndexedSlices` with indices in any order and repeated at will.

    Returns:
        The values and the rows. Rows are None for a dense gradient; of a sparse one they are
        distinct, and the values of repeated indices are summed.
    """
    if tf is None or not isinstance(gradient, tf.IndexedSlices):
        return ops.convert_to_tensor(gradient), None
    rows, position = tf.unique(gradient.indices)
    return tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows)), rows


def read(variable: Any, rows: Tensor | None, dtype: str) -> Tensor:
    """Returns the variable, or these rows of it, in `dtype`."""
    if rows is None:
        return ops.cast(ops.convert_to_tensor(variable), dtype)
    native = variable.value if isinstance(variable, keras.Variable) else variable
    return ops.cast(tf.gather(native, rows), dtype)


def with_rows(values: Tensor, rows: Tensor | None) -> Tensor:
    """Returns what `Optimizer.assign` takes to write `values` to these rows (None: all)."""
    return values if rows is None else tf.IndexedSlices(values, rows)
