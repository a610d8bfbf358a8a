"""Reductions over a layer: its norms, its smallest number, whether all of it is finite.

Norms do not overflow where their squares would. The other reductions are written so that XLA
vectorises them on a CPU and spreads them over its threads.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from trainer_module.optimizers._backend import bitcast

Tensor = Any

_LARGEST_BITS = {
    "float16": 0x477FE000,
    "bfloat16": 0x7F7F0000,
    "float32": 0x7F7FFFFF,
    "float64": 0x7FEFFFFFFFFFFFFF,
}
"""The bits of the largest finite number of each dtype: as float32, of float64 as float64."""


def all_finite(x: Tensor, dtype: str | None = None) -> Tensor:
    """Whether every number is finite, also when it is stored as `dtype`, as a boolean scalar."""
    bits, _ = _bits(ops.abs(x))
    limit = _LARGEST_BITS[keras.backend.standardize_dtype(dtype or x.dtype)]
    return _row_by_row(ops.max, bits, x.dtype, initial=0) <= limit


def smallest(x: Tensor) -> Tensor:
    """Smallest of non-negative numbers; infinity if there are none."""
    bits, infinity = _bits(x)
    return bitcast(_row_by_row(ops.min, bits, x.dtype, initial=infinity), x.dtype)


def _bits(x: Tensor) -> tuple[Tensor, int]:
    """Non-negative floats as integers of the same order, and infinity as one.

    On a CPU XLA vectorises minima and maxima of integers, but not of floats.
    """
    if keras.backend.standardize_dtype(x.dtype) == "float64":
        return bitcast(x, "int64"), 0x7FF0000000000000
    return bitcast(x, "int32"), 0x7F800000


def _in_rows(x: Tensor) -> bool:
    """Whether to reduce row by row, for XLA's sake; it knows all shapes."""
    return len(x.shape) > 1 and None not in tuple(x.shape)


def _row_by_row(reduction: Callable, bits: Tensor, dtype: str, initial: int) -> Tensor:
    """Reduces to a scalar by way of rows, over which XLA can spread its threads.

    The casts there and back keep XLA from making one reduction, of one thread, of the two.
    """
    if not _in_rows(bits):
        return reduction(bits, initial=initial)
    rows = bitcast(reduction(bits, axis=-1, initial=initial), dtype)
    return reduction(bitcast(rows, bits.dtype), initial=initial)


def l2_norm(x: Tensor, axis: tuple[int, ...] | None = None) -> Tensor:
    """L2 norm that neither overflows nor underflows when its squares would.

    Args:
        x: Tensor of any floating dtype and shape, empty ones included (norm 0).
        axis: Axes to reduce, kept with size 1; None reduces all of them to a scalar.

    Returns:
        The norm, in the dtype of `x`.
    """
    if axis is None and len(x.shape) > 1:
        return l2_norm(ops.reshape(l2_norm(x, axis=(len(x.shape) - 1,)), (-1,)))
    keepdims = axis is not None
    largest = ops.max(ops.abs(x), axis=axis, keepdims=keepdims, initial=0.0)
    scale = ops.where(largest > 0, largest, ops.ones_like(largest))
    return scale * ops.sqrt(ops.sum(ops.square(x / scale), axis=axis, keepdims=keepdims))


def unit_wise_norm(x: Tensor) -> Tensor:
    """L2 norm per output unit, as in NFNet's reference code (arXiv:2102.06171).

    Args:
        x: Vector or scalar (one norm), `(in, out)` matrix or rank-3 kernel (norm over the first
            axis), or convolution kernel `(h, w, in, out)` (norm per filter).

    Returns:
        The norms, broadcastable against `x`.

    Raises:
        ValueError: If the rank of `x` is over 4.
    """
    rank = len(x.shape)
    if sum(size != 1 for size in x.shape) <= 1:
        return l2_norm(x)
    if rank <= 3:
        return l2_norm(x, axis=(0,))
    if rank == 4:
        return l2_norm(x, axis=(0, 1, 2))
    raise ValueError(f"Unit-wise norms are defined up to rank 4, got shape {tuple(x.shape)}.")


def sum_of_squares(x: Tensor) -> Tensor:
    """Sums row by row; the roots keep XLA from making one reduction, of one thread, of them."""
    while _in_rows(x):
        x = ops.sqrt(ops.sum(ops.square(x), axis=-1))
    return ops.sum(ops.square(x))
