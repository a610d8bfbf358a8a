"""The average of a training's weights over its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_STEPS = 8
_SHARE = 64
"""Weights are taken in every so many steps, and rarer once that is less than 1 / 64 of them: a
long training needs no more samples than a short one."""
_WEIGHTS = 1 << 20
"""For each so many weights again as many steps lie between: a step touches few rows of a large
table, the average all of them, and it must not cost more than the steps."""
_EARLY = 16
"""But no more than 1 / 16 of the steps: the average of a short training is of many samples, too."""


class WeightAverage(tf.Module):
    """A polynomial-decay average of weights, which the newest dominate.

    The weights after step s count in proportion to s^`exponent`, so that the start of a training
    fades without anyone knowing where its end will be. With an exponent of 3 the average lags by
    a fifth of the steps, about as one over their last two fifths does. Shamir and Zhang, ICML
    2013, arXiv 1212.1824, Section 4, for samples that lie apart.

    A constant learning rate leaves weights jittering about what they should be. The jitter
    averages out.
    """

    def __init__(
        self, weights: Sequence[Any], exponent: float, strategy: tf.distribute.Strategy
    ) -> None:
        """Starts an average.

        Args:
            weights: Keras variables, which are averaged from the first step on.
            exponent: above -1; 0 counts all steps alike.
            strategy: the one that the weights were made under.
        """
        super().__init__()
        self._weights = [weight.value for weight in weights]
        self._exponent = exponent
        self._strategy = strategy
        count = sum(math.prod(weight.shape) for weight in self._weights)
        self._between = _STEPS * max(1, math.ceil(count / _WEIGHTS))
        with strategy.scope():
            self._averages = [tf.Variable(value, trainable=False) for value in self._weights]
            self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
            self._taken = tf.Variable(0, dtype=tf.int64, trainable=False)

    def start(self) -> None:
        """Forgets every step."""
        self._step.assign(0)
        self._taken.assign(0)

    def after_step(self) -> None:
        """Counts a step, and takes its weights in if it is their turn; runs in a graph."""
        self._step.assign_add(1)
        between = tf.minimum(tf.constant(self._between, tf.int64), self._taken // _EARLY)
        between = tf.maximum(tf.maximum(between, self._taken // _SHARE), _STEPS)
        tf.cond(self._step >= self._taken + between, self._take, lambda: None)

    def assign(self) -> None:
        """Gives the weights the values of their averages; without a step they stay."""
        if self._step > self._taken:
            self._take()
        if self._step > 0:
            for weight, average in zip(self._weights, self._averages, strict=True):
                weight.assign(average)

    def _take(self) -> None:
        kept = tf.cast(self._taken / self._step, tf.float32) ** (self._exponent + 1.0)

        def take(average: tf.Variable, weight: tf.Tensor) -> None:
            moved = average + tf.cast(1.0 - kept, average.dtype) * (weight - average)
            # Exactly, so that weights that stand still stay what they are.
            average.assign(tf.where(kept > 0.0, moved, weight))

        for average, weight in zip(self._averages, self._weights, strict=True):
            self._strategy.extended.update(average, take, args=(weight,), group=False)
        self._taken.assign(self._step)
