"""TensorFlow Recommenders' ClippyAdagrad on Keras 3."""

from typing import Any

from trainer_module.optimizers._adagrad import ClippedAdagrad
from trainer_module.optimizers._base import Exclude
from trainer_module.optimizers._rules import Clippy, register


@register
class ClippyAdagrad(ClippedAdagrad):
    """Drop-in for `tensorflow_recommenders.experimental.optimizers.ClippyAdagrad`.

    Arguments, defaults and steps are those of TensorFlow Recommenders, 0.7.7. Two differences
    are meant: a layer whose step is not finite is skipped and counted, and `get_config` tells
    every argument. Mind the defaults: with an absolute threshold of 1e-7 a tensor that has one
    weight at zero hardly moves. The paper's settings are `variable_relative_threshold=0.5,
    absolute_threshold=1e-2, use_standard_accumulator_update=True, exclude=EMBEDDINGS`.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable.
        initial_accumulator_value: Where the accumulators start; non-negative.
        variable_relative_threshold: Threshold relative to the weight.
        accumulator_relative_threshold: Threshold relative to `1 / sqrt(accumulator + epsilon)`.
        absolute_threshold: Threshold added to both.
        epsilon: Added to the accumulator inside the root.
        export_clipping_factors: Keep each variable's latest sigma in `clipping_factors`.
        clip_accumulator_update: Feed the accumulators the clipped gradient, after the step.
        use_standard_accumulator_update: Feed the accumulators before the step is taken, as
            Adagrad and the paper do; by default they are fed after it.
        exclude: Variables not to clip, as in `ClippedOptimizer`. None by default.
        **kwargs: Arguments of `ClippedOptimizer` and of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If both accumulator flags are set, or a threshold is negative.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        variable_relative_threshold: float = 0.1,
        accumulator_relative_threshold: float = 0.0,
        absolute_threshold: float = 1e-7,
        epsilon: float = 1e-7,
        export_clipping_factors: bool = False,
        clip_accumulator_update: bool = False,
        use_standard_accumulator_update: bool = False,
        name: str = "ClippyAdagrad",
        exclude: Exclude = (),
        **kwargs: Any,
    ) -> None:
        if clip_accumulator_update and use_standard_accumulator_update:
            raise ValueError(
                "clip_accumulator_update and use_standard_accumulator_update cannot both be True."
            )
        delayed = "delayed_clipped" if clip_accumulator_update else "delayed"
        super().__init__(
            learning_rate=learning_rate,
            rule=Clippy(
                variable_relative_threshold=variable_relative_threshold,
                absolute_threshold=absolute_threshold,
                accumulator_relative_threshold=accumulator_relative_threshold,
            ),
            initial_accumulator_value=initial_accumulator_value,
            epsilon=epsilon,
            accumulator_update="standard" if use_standard_accumulator_update else delayed,
            export_clipping_factors=export_clipping_factors,
            exclude=exclude,
            name=name,
            **kwargs,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns every argument, serialised."""
        config = super().get_config()
        del config["rule"]
        update = config.pop("accumulator_update")
        thresholds = self.rule.get_config()
        del thresholds["unit_threshold"]
        return {
            **config,
            **thresholds,
            "clip_accumulator_update": update == "delayed_clipped",
            "use_standard_accumulator_update": update == "standard",
        }
