"""Adam with any clipping rule."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from trainer_module.optimizers._base import ClippedOptimizer
from trainer_module.optimizers._reductions import Tensor
from trainer_module.optimizers._rules import Rule, register


@register
class ClippedAdam(ClippedOptimizer):
    """Adam (arXiv:1412.6980) whose steps a rule clips.

    Without a rule it takes the steps of `keras.optimizers.Adam`; with `weight_decay`, those of
    `AdamW`. Rows that a sparse gradient does not touch keep their moments, unlike in Keras's,
    which decays every row at every step.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable.
        rule: The clipping `Rule`; None clips nothing.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: Added to the root of the second moment ("epsilon hat" of the paper).
        **kwargs: Arguments of `ClippedOptimizer` and of `keras.optimizers.Optimizer`.
    """

    slot_names = ("momentum", "velocity")

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rule: Rule | None = None,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str = "clipped_adam",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, rule=rule, name=name, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def accumulate(self, gradient: Tensor, slots: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Moves both moments towards the gradient and its square."""
        m, v = slots
        return (
            m + (gradient - m) * (1 - self.beta_1),
            v + (ops.square(gradient) - v) * (1 - self.beta_2),
        )

    def direction(
        self, gradient: Tensor, slots: Sequence[Tensor], iteration: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the bias-corrected `m * p` and `p = 1 / (sqrt(v) + epsilon)`."""
        m, v = slots
        root = ops.sqrt(v) + self.epsilon
        p = ops.where(root > 0, 1 / root, ops.zeros_like(root))
        p = p * ops.sqrt(1 - ops.power(ops.cast(self.beta_2, v.dtype), iteration))
        return m * p / (1 - ops.power(ops.cast(self.beta_1, v.dtype), iteration)), p

    def get_config(self) -> dict[str, Any]:
        """Returns every argument, serialised."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }
