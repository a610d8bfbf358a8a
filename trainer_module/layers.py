"""Keras layers that Keras does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

PADDING = -1
"""What fills up a multivalued feature's row; no bucket has this number."""


@keras.saving.register_keras_serializable("steadyrank")
class PooledEmbedding(keras.layers.Layer):
    """An embedding table whose rows are pooled over each example's ids.

    Input: ids, int [batch, values], rows of the table or `PADDING`. Output: float
    [batch, width]; zeros for an example without ids.
    """

    def __init__(self, rows: int, width: int, **kwargs: Any):
        """Makes the layer.

        Args:
            rows: number of rows of the table.
            width: length of a row.
            **kwargs: as `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        self.rows = rows
        self.width = width
        # The name is how the optimizer tells embeddings from the other variables.
        self.table = keras.layers.Embedding(
            rows,
            width,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=width**-0.5 / 4),
            dtype=self.dtype_policy,
            name="embedding",
        )

    def build(self, input_shape: Any) -> None:
        """Builds the table."""
        self.table.build(input_shape)
        self.built = True

    def call(self, ids: Any, pooling: str = "mean") -> Any:
        """Looks up and pools; `pooling` is `mean`, `sum` or `sqrtn`."""
        present = ops.cast(ops.not_equal(ids, PADDING), self.compute_dtype)
        rows = self._look_up(ops.maximum(ids, 0)) * ops.expand_dims(present, -1)
        total = ops.sum(rows, axis=1)
        if pooling == "sum":
            return total
        count = ops.maximum(ops.sum(present, axis=1, keepdims=True), 1.0)
        return total / (count if pooling == "mean" else ops.sqrt(count))

    def _look_up(self, ids: Any) -> Any:
        """Rows of the table, as its own call returns them.

        Keras's layer reads the table and gathers from what it read. TensorFlow copies a variable
        that is stepped by rows whenever it is read: a copy of the whole table a step.
        """
        if keras.backend.backend() != "tensorflow":
            return self.table(ids)
        import tensorflow as tf

        return ops.cast(tf.gather(self.table.embeddings.value, ids), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, int]:
        """Returns [batch, width]."""
        return (input_shape[0], self.width)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "rows": self.rows, "width": self.width}


@keras.saving.register_keras_serializable("steadyrank")
class Cross(keras.layers.Layer):
    """A DCN-v2 cross layer: x0 * (W x + b) + x, arXiv 2008.13535, eq. 1.

    Inputs: x0 and x, float [batch, width]. Output: float [batch, width].
    """

    def build(self, x0_shape: Any, x_shape: Any) -> None:
        """Builds W, [width, width], and b, [width]."""
        self.dense = keras.layers.Dense(x_shape[-1], dtype=self.dtype_policy, name="cross")
        self.dense.build(x_shape)
        self.built = True

    def call(self, x0: Any, x: Any) -> Any:
        """Crosses."""
        return x0 * self.dense(x) + x

    def compute_output_shape(self, x0_shape: Any, x_shape: Any) -> Any:
        """Returns the shape of `x`."""
        return x_shape


@keras.saving.register_keras_serializable("steadyrank")
class Interactions(keras.layers.Layer):
    """Sums the products of all pairs of vectors: a factorization machine's second order.

    Each input is first brought to the same width by a matrix of its own. Bi-interaction pooling,
    He and Chua, arXiv 1708.05027, eq. 3 and 4: half of the squared sum less the sum of squares.

    Inputs: float [batch, any width], two or more. Output: float [batch, width].
    """

    def __init__(self, width: int, **kwargs: Any):
        """Makes the layer.

        Args:
            width: of the vectors that are multiplied.
            **kwargs: as `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        self.width = width

    def build(self, input_shapes: Any) -> None:
        """Builds the matrices, one above the other: [all inputs' widths, width]."""
        self._widths = [shape[-1] for shape in input_shapes]
        self.kernel = self.add_weight(
            shape=(sum(self._widths), self.width),
            initializer=keras.initializers.RandomNormal(stddev=0.25),
            name="kernel",
        )
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Multiplies and sums."""
        ends = np.cumsum(self._widths)[:-1].tolist()
        # JAX's operations take no Keras variable.
        kernels = ops.split(ops.convert_to_tensor(self.kernel), ends)
        vectors = ops.stack([ops.matmul(x, k) for x, k in zip(inputs, kernels, strict=True)])
        of_sum, sum_of = ops.square(ops.sum(vectors, axis=0)), ops.sum(ops.square(vectors), axis=0)
        return (of_sum - sum_of) / 2.0

    def compute_output_shape(self, input_shapes: Any) -> tuple[Any, int]:
        """Returns [batch, width]."""
        return (input_shapes[0][0], self.width)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("steadyrank")
class LabelUnits(keras.layers.Layer):
    """From z-scores to a label's own units: mean + deviation * z.

    A head then learns numbers around 1 whatever its label is measured in. Mean and deviation
    are weights that no step trains: a cold start sets them, warm starts carry them over.

    Input and output: float [batch, 1].
    """

    def build(self, input_shape: Any) -> None:
        """Builds mean and deviation, scalars, as zero and one."""
        self.mean = self.add_weight(shape=(), initializer="zeros", trainable=False, name="mean")
        self.deviation = self.add_weight(
            shape=(), initializer="ones", trainable=False, name="deviation"
        )
        self.built = True

    def call(self, z: Any) -> Any:
        """Scales and shifts."""
        return self.mean + self.deviation * z

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the input."""
        return input_shape


@keras.saving.register_keras_serializable("steadyrank")
class Curves(keras.layers.Layer):
    """Curves of each number, learned: piecewise linear, then cut off below zero.

    A number's range is cut into bins. What it passes of each bin, from 0 to 1, goes through a
    linear layer of that number's own: piecewise linear encoding, Gorishniy et al.,
    arXiv 2203.05556, Section 3.2.1. The bins' edges are weights that no step trains: a cold start
    sets them, checkpoints and warm starts carry them over.

    Input: float [batch, numbers]. Output: float [batch, numbers * curves].
    """

    def __init__(self, curves: int, bins: int = 16, **kwargs: Any):
        """Makes the layer.

        Args:
            curves: of each number.
            bins: that a number's range is cut into.
            **kwargs: as `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        self.curves = curves
        self.bins = bins

    def build(self, input_shape: Any) -> None:
        """Builds starts and widths of the bins, kernel and bias, one of each number."""
        numbers = input_shape[-1]
        own = {"shape": (numbers, self.bins), "trainable": False}
        self.starts = self.add_weight(**own, initializer="zeros", name="starts")
        self.widths = self.add_weight(**own, initializer="ones", name="widths")
        self.kernel = self.add_weight(
            shape=(numbers, self.bins, self.curves),
            initializer=keras.initializers.RandomNormal(stddev=self.bins**-0.5),
            name="kernel",
        )
        self.bias = self.add_weight(shape=(numbers, self.curves), initializer="zeros", name="bias")
        self.built = True

    def set_edges(self, edges: Sequence[np.ndarray]) -> None:
        """Sets each number's edges: rising, at most `bins` + 1 of them; fewer make fewer bins."""
        # A bin that nothing ever reaches.
        starts = np.full((len(edges), self.bins), np.finfo(np.float32).max, np.float32)
        widths = np.ones_like(starts)
        for number, own in enumerate(edges):
            starts[number, : len(own) - 1] = own[:-1]
            widths[number, : len(own) - 1] = np.diff(own)
        self.starts.assign(starts)
        self.widths.assign(widths)

    def call(self, x: Any) -> Any:
        """Encodes and bends."""
        # JAX's operations take no Keras variable.
        starts, widths, kernel, bias = (
            ops.convert_to_tensor(v) for v in (self.starts, self.widths, self.kernel, self.bias)
        )
        passed = ops.clip((ops.expand_dims(x, -1) - starts) / widths, 0.0, 1.0) - 0.5
        curves = ops.relu(ops.einsum("nfb,fbc->nfc", passed, kernel) + bias)
        return ops.reshape(curves, (-1, kernel.shape[0] * self.curves))

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, int]:
        """Returns [batch, numbers * curves]."""
        return (input_shape[0], input_shape[-1] * self.curves)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "curves": self.curves, "bins": self.bins}


@keras.saving.register_keras_serializable("steadyrank")
class ClippedNormalization(keras.layers.Layer):
    """z-scores, clipped: (x - mean) / std within [-`limit`, `limit`].

    Mean and variance are weights that no step trains: a cold start sets them, checkpoints
    and warm starts carry them over.

    Input and output: float [batch, width].
    """

    limit = 8.0

    def build(self, input_shape: Any) -> None:
        """Builds mean and variance, [width], as zeros and ones."""
        shape = (input_shape[-1],)
        self.mean = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="mean")
        self.variance = self.add_weight(
            shape=shape, initializer="ones", trainable=False, name="variance"
        )
        self.built = True

    def call(self, x: Any) -> Any:
        """Normalises."""
        # JAX's operations take no Keras variable.
        mean, variance = ops.convert_to_tensor(self.mean), ops.convert_to_tensor(self.variance)
        # One that was constant at the cold start, up to rounding, has no scale to be held to.
        varies = variance > 1e-10 * ops.square(mean)
        z = (x - mean) / ops.sqrt(ops.where(varies, variance, 1.0))
        return ops.clip(z, -self.limit, self.limit)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the input."""
        return input_shape
