"""Preconditioned sharpness: the largest eigenvalue of the Hessian as the optimizer sees it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

Vector = Sequence[tf.Tensor]
"""A vector in pieces, one per variable and of its shape."""

Operator = Callable[[Vector], Vector]
"""A symmetric linear map."""


@dataclasses.dataclass(frozen=True)
class Eigenvalue:
    """The largest eigenvalue of a symmetric operator A, by Lanczos.

    Attributes:
        value: the largest Ritz value theta. It never exceeds the largest eigenvalue.
        residual: ||A v - theta v|| of its unit Ritz vector v. Some eigenvalue lies within
            `residual` of theta; with a gap of d to the others, within residual^2 / d.
        iterations: products with A.
        converged: `residual <= tolerance * |value|`.
    """

    value: float
    residual: float
    iterations: int
    converged: bool


def largest_eigenvalue(
    operator: Operator, start: Vector, *, tolerance: float = 0.01, max_iterations: int = 60
) -> Eigenvalue:
    """Computes the largest (not the largest absolute) eigenvalue by Lanczos iteration.

    Three vectors are kept at a time and none is orthogonalised anew: copies of converged
    eigenvalues, which that costs, leave the largest one right (Paige, 1980). The start must
    not be orthogonal to the wanted eigenvector; a random one is not, with probability 1.

    Args:
        operator: the symmetric map.
        start: where to start; any length but zero.
        tolerance: relative residual at which to stop.
        max_iterations: products with the operator at most.

    Returns:
        The eigenvalue with its error bound; NaN, not converged, where the operator is not
        finite.
    """
    length = _norm(start)
    current: Vector = [part / length for part in start]
    previous: Vector = [tf.zeros_like(part) for part in current]
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        image = operator(current)
        beta = beside[-1] if beside else 0.0
        image = [w - beta * p for w, p in zip(image, previous, strict=True)]
        alpha = _dot(image, current)
        image = [w - alpha * v for w, v in zip(image, current, strict=True)]
        beta = _norm(image)
        diagonal.append(alpha)
        if not math.isfinite(alpha + beta):
            return Eigenvalue(math.nan, math.nan, len(diagonal), False)
        tridiagonal = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        values, vectors = np.linalg.eigh(tridiagonal)
        value, residual = float(values[-1]), beta * abs(float(vectors[-1, -1]))
        converged = residual <= tolerance * abs(value)
        if converged or len(diagonal) >= max_iterations:
            return Eigenvalue(value, residual, len(diagonal), converged)
        beside.append(beta)
        previous, current = current, [w / beta for w in image]


def preconditioned_hessian(
    loss: Callable[[], tf.Tensor],
    variables: Sequence[Any],
    accumulators: Sequence[Any],
    epsilon: float,
) -> Operator:
    """Makes the product with P^(1/2) H P^(1/2), where P = diag((G + epsilon)^(-1/2)).

    H is the Hessian of the loss with respect to `variables`, taken forward over reverse.
    Adagrad's step w <- w - eta P g is gradient descent on the coordinates P^(-1/2) w, whose
    Hessian this is: along its eigenvectors a step contracts only where
    eta * eigenvalue < 2. A network of ReLUs is piecewise linear; H is that of the piece
    that the weights are on.

    Args:
        loss: the scalar loss as a function of the variables' present values.
        variables: `keras.Variable`s, in any number; all others count as constants.
        accumulators: Adagrad's G of each of them, of the same shapes.
        epsilon: added to G inside the root.

    Returns:
        The product, compiled; it reads variables and accumulators anew at every call. Its
        vectors have the shapes and dtypes of the variables.
    """
    weights = [variable.value for variable in variables]

    @tf.function
    def product(vector: Vector) -> Vector:
        scales = [tf.pow(tf.convert_to_tensor(g) + epsilon, -0.25) for g in accumulators]
        tangents = [scale * part for scale, part in zip(scales, vector, strict=True)]
        with tf.autodiff.ForwardAccumulator(weights, tangents) as forward:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                value = loss()
            gradients = tape.gradient(value, weights, unconnected_gradients="zero")
        curvature = forward.jvp(gradients, unconnected_gradients="zero")
        return [scale * part for scale, part in zip(scales, curvature, strict=True)]

    return product


def random_vector(variables: Sequence[Any], seed: int) -> Vector:
    """Draws a normal vector with the shapes and dtypes of the variables."""
    return [
        tf.random.stateless_normal(variable.shape, (seed, position), dtype=variable.dtype)
        for position, variable in enumerate(variables)
    ]


def _dot(left: Vector, right: Vector) -> float:
    return sum(float(tf.reduce_sum(a * b)) for a, b in zip(left, right, strict=True))


def _norm(vector: Vector) -> float:
    return math.sqrt(_dot(vector, vector))
