"""What the back ends do differently: sparse gradients, bit casts, compiling."""

from collections.abc import Callable, Hashable
from functools import partial
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


def read(variable: Any, rows: Tensor | None) -> Tensor:
    """Returns a variable's (or a number's) value, or these rows of it, as a tensor."""
    native = variable.value if isinstance(variable, keras.Variable) else variable
    if rows is not None:
        return tf.gather(native, rows)
    # Keras takes a tf.Variable for a tensor.
    return ops.convert_to_tensor(native) if tf is None else tf.convert_to_tensor(native)


def with_rows(values: Tensor, rows: Tensor | None) -> Tensor:
    """Returns what `Optimizer.assign` takes to write `values` to these rows (None: all)."""
    return values if rows is None else tf.IndexedSlices(values, rows)


def bitcast(x: Tensor, dtype: str) -> Tensor:
    """Returns the bits of `x`, of any shape, as numbers of another dtype of equal size."""
    return ops.view(x, dtype) if tf is None else tf.bitcast(x, dtype)


class Fused:
    """A pure function, of something static and of tensors, compiled by TensorFlow with XLA.

    TensorFlow's own operations would each read and write whole tensors. JAX users compile their
    training step, so there the function is called as it is.
    """

    def __init__(self, function: Callable) -> None:
        self._function = function
        self._programs: dict[Hashable, Callable] = {}

    def __call__(self, static: Hashable, *args: Any, fuse: bool = True) -> Any:
        """Calls the function, by the program of its `static`; without `fuse` as it is."""
        if tf is None or not fuse:
            return self._function(static, *args)
        if static not in self._programs:
            self._programs[static] = tf.function(
                partial(self._function, static), autograph=False, jit_compile=True
            )
        return self._programs[static](*args)
