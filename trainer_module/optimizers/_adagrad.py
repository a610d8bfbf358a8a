"""Adagrad with any clipping rule."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from trainer_module.optimizers._base import ClippedOptimizer
from trainer_module.optimizers._reductions import Tensor
from trainer_module.optimizers._rules import Rule, register
from trainer_module.optimizers._step import SlotsAfter

ACCUMULATOR_UPDATES = ("standard", "delayed", "delayed_clipped")


@register
class ClippedAdagrad(ClippedOptimizer):
    """Adagrad (Duchi et al., 2011) whose steps a rule clips.

    `r = g / sqrt(G + epsilon)` with the accumulator `G` a sum of squared gradients.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable.
        rule: The clipping `Rule`; None clips nothing.
        initial_accumulator_value: Where `G` starts; non-negative.
        epsilon: Added to `G` inside the root. Where both are zero, `r` is zero.
        accumulator_update: "standard" adds the gradient to `G` before `r` is taken, as Adagrad
            and the paper do; "delayed" adds it after; "delayed_clipped" adds `sigma * g` after
            (arXiv:2406.04443 analyses clipped, delayed Adagrad).
        **kwargs: Arguments of `ClippedOptimizer` and of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If `accumulator_update` is not one of these, or a value is negative.
    """

    slot_names = ("accumulator",)

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rule: Rule | None = None,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        accumulator_update: str = "standard",
        name: str = "clipped_adagrad",
        **kwargs: Any,
    ) -> None:
        if accumulator_update not in ACCUMULATOR_UPDATES:
            raise ValueError(
                f"accumulator_update must be one of {ACCUMULATOR_UPDATES}, "
                f"got {accumulator_update!r}."
            )
        if initial_accumulator_value < 0 or epsilon < 0:
            raise ValueError("initial_accumulator_value and epsilon must be non-negative.")
        super().__init__(learning_rate=learning_rate, rule=rule, name=name, **kwargs)
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon
        self.accumulator_update = accumulator_update

    @property
    def accumulators(self) -> Sequence[Any]:
        """The sums of squared gradients, one per trainable variable and in their order."""
        return self._slots[0]

    def slot_initializers(self) -> Sequence[Any]:
        """Returns the accumulator's."""
        return [keras.initializers.Constant(self.initial_accumulator_value)]

    def accumulate(self, gradient: Tensor, slots: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Adds the squared gradient."""
        return (slots[0] + ops.square(gradient),)

    def direction(
        self, gradient: Tensor, slots: Sequence[Tensor], iteration: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns `g * p` and `p = 1 / sqrt(G + epsilon)`."""
        total = slots[0] + self.epsilon
        p = ops.where(total > 0, ops.rsqrt(total), ops.zeros_like(total))
        return gradient * p, p

    def direction_and_slots(
        self, gradient: Tensor, slots: Sequence[Tensor], iteration: Tensor
    ) -> tuple[Tensor, Tensor, SlotsAfter]:
        """Accumulates before or after the direction is taken, as `accumulator_update` says."""
        if self.accumulator_update == "standard":
            return super().direction_and_slots(gradient, slots, iteration)
        r, p = self.direction(gradient, slots, iteration)
        if self.accumulator_update == "delayed":
            return r, p, lambda sigma: self.accumulate(gradient, slots)
        return r, p, lambda sigma: self.accumulate(gradient * sigma, slots)

    def get_config(self) -> dict[str, Any]:
        """Returns every argument, serialised."""
        return {
            **super().get_config(),
            "initial_accumulator_value": self.initial_accumulator_value,
            "epsilon": self.epsilon,
            "accumulator_update": self.accumulator_update,
        }
