"""Clipping rules: what one layer's step is multiplied by.

Every rule is a frozen dataclass of its thresholds. It sees one layer's `Step` and returns the
clipping factor sigma of `w <- w - eta * sigma * r` (KDD 2023, arXiv:2302.09178, eq. 5). To add a
rule, write one such class with `factor`; a rule that remembers past steps also names its running
statistics in `state` and overrides `factor_and_state`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import keras
from keras import ops

from trainer_module.optimizers._reductions import Tensor, l2_norm, smallest, unit_wise_norm


class Step(NamedTuple):
    """What a rule sees of one layer at one step; tensors share one floating dtype.

    Attributes:
        w: Weights before the step. Of a sparse gradient, the touched rows only, as all below.
        g: Gradient, of the shape of `w`.
        r: Update direction of the base optimizer, of the shape of `w`.
        p: Preconditioner: what `g` is multiplied by to give Adagrad's direction, of the shape
            of `w`.
        eta: Learning rate, a scalar.
        model_norm: L2 norm of the gradient over every layer that the rule applies to, a scalar;
            None unless the rule is `model_wide`.
        fan_in: Number of inputs of an output unit, the last axis but one: a kernel of more axes is
            a stack of matrices. 1 for vectors, and for an embedding, whose rows are read one at
            a time.
    """

    w: Tensor
    g: Tensor
    r: Tensor
    p: Tensor
    eta: Tensor
    model_norm: Tensor = None
    fan_in: float = 1.0


def at_most(bound: Tensor, norm: Tensor) -> Tensor:
    """The factor in [0, 1] that brings `norm` down to `bound`; 1 where `norm` is zero."""
    safe = ops.where(norm > 0, norm, ops.ones_like(norm))
    return ops.where(norm > bound, bound / safe, ops.ones_like(norm))


@dataclasses.dataclass(frozen=True)
class Rule:
    """A clipping rule.

    Attributes:
        state: Initial values, by name, of the running statistics kept per layer (float32 scalars).
        model_wide: Whether the rule reads `Step.model_norm`.
        one_factor: Whether every layer that the rule applies to takes the smallest of their
            factors; such a rule has no statistics.
    """

    state: ClassVar[Mapping[str, float]] = {}
    model_wide: ClassVar[bool] = False
    one_factor: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and not value >= 0:
                name = type(self).__name__
                raise ValueError(f"{name}: {field.name} must be non-negative, got {value}.")

    def factor(self, step: Step) -> Tensor:
        """Returns sigma: a scalar, or a tensor broadcastable against the layer."""
        raise NotImplementedError

    def factor_and_state(
        self, step: Step, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Returns sigma and the running statistics after this step."""
        return self.factor(step), state

    def get_config(self) -> dict[str, Any]:
        """Returns the thresholds, by name."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Rule":
        """Makes the rule that `get_config` described."""
        return cls(**config)


register = keras.saving.register_keras_serializable("trainer_module.optimizers")


@register
@dataclasses.dataclass(frozen=True)
class NoClipping(Rule):
    """sigma = 1: the base optimizer as it is."""

    def factor(self, step: Step) -> Tensor:
        """Returns 1."""
        return ops.ones_like(step.eta)


@register
@dataclasses.dataclass(frozen=True)
class GradientClipping(Rule):
    """GC: sigma = min{clip_norm / ||g||, 1}, layer by layer (arXiv:1211.5063).

    Attributes:
        clip_norm: Largest norm of a layer's gradient that passes unclipped.
    """

    clip_norm: float = 0.1

    def factor(self, step: Step) -> Tensor:
        """Returns a scalar."""
        return at_most(self.clip_norm, l2_norm(step.g))


@register
@dataclasses.dataclass(frozen=True)
class GlobalNormClipping(Rule):
    """GC over all layers together: sigma = min{clip_norm / ||(g_1, ..., g_n)||, 1}.

    Layers whose gradient is not finite are left out of the norm. Source: arXiv:1211.5063.

    Attributes:
        clip_norm: Largest norm of the whole gradient that passes unclipped.
    """

    clip_norm: float = 1.0
    model_wide: ClassVar[bool] = True

    def factor(self, step: Step) -> Tensor:
        """Returns a scalar, the same for every layer."""
        return at_most(self.clip_norm, step.model_norm)


@register
@dataclasses.dataclass(frozen=True)
class AdaptiveGradientClipping(Rule):
    """AGC: sigma = min{clip_factor * max(||w||, epsilon) / ||g||, 1} (NFNet, arXiv:2102.06171).

    Attributes:
        clip_factor: Largest ratio of gradient norm to weight norm that passes unclipped.
        unit_wise: Take the norms, and sigma, per output unit as the NFNet reference does;
            False takes them over the layer.
        epsilon: Smallest weight norm reckoned with, so that zero weights can leave zero.
    """

    clip_factor: float = 0.01
    unit_wise: bool = False
    epsilon: float = 1e-3

    def factor(self, step: Step) -> Tensor:
        """Returns a scalar, or with `unit_wise` one factor per output unit."""
        norm = unit_wise_norm if self.unit_wise else l2_norm
        return at_most(self.clip_factor * ops.maximum(norm(step.w), self.epsilon), norm(step.g))


@register
@dataclasses.dataclass(frozen=True)
class Lamb(Rule):
    """LAMB's trust ratio: sigma = mu * ||w|| / ||r|| (arXiv:1904.00962, with phi(x) = x).

    It may exceed 1. Where `w` or `r` is zero sigma is 1, as in LAMB's reference code.

    Attributes:
        mu: Length of a step of learning rate 1, relative to the layer's weights.
    """

    mu: float = 0.01

    def factor(self, step: Step) -> Tensor:
        """Returns a scalar."""
        w, r = l2_norm(step.w), l2_norm(step.r)
        one = ops.ones_like(r)
        return ops.where((w > 0) & (r > 0), self.mu * w / ops.where(r > 0, r, one), one)


@register
@dataclasses.dataclass(frozen=True)
class UpdateRMSClipping(Rule):
    """sigma = 1 / max{1, RMS(g * p) / threshold}.

    Adafactor's update clipping (arXiv:1804.04235, sec. 6) and, with threshold 1,
    StableAdamW's (arXiv:2304.13013). Adagrad that accumulates first has |g * p| <= 1, so
    that threshold 1 never acts there.

    Attributes:
        threshold: Largest root mean square of the preconditioned gradient that passes.
    """

    threshold: float = 1.0

    def factor(self, step: Step) -> Tensor:
        """Returns a scalar."""
        u = step.g * step.p
        size = ops.maximum(ops.cast(ops.size(u), u.dtype), 1.0)
        return at_most(self.threshold, l2_norm(u) / ops.sqrt(size))


@register
@dataclasses.dataclass(frozen=True)
class Clippy(Rule):
    """sigma = min{1, min_i bound_i / (eta * |r_i|)} (arXiv:2302.09178, Algorithm 1).

    With bound = variable_relative_threshold * |w| + accumulator_relative_threshold * p
    + min{absolute_threshold, unit_threshold / fan_in}, no coordinate moves further than its
    bound. A coordinate with a zero update constrains nothing; one with a zero bound and a
    non-zero update stops its layer.

    Attributes:
        variable_relative_threshold: The paper's lambda_rel.
        absolute_threshold: The paper's lambda_abs.
        accumulator_relative_threshold: Weight of the preconditioner in the bound, an addition
            of TensorFlow Recommenders.
        unit_threshold: What the absolute parts of a unit's weights may add up to, so that the
            bound knows the layer's width; an addition of this project
            (docs/results/widths.md). None: any sum, as in the paper.
    """

    variable_relative_threshold: float = 0.5
    absolute_threshold: float = 1e-2
    accumulator_relative_threshold: float = 0.0
    unit_threshold: float | None = None

    def factor(self, step: Step) -> Tensor:
        """Returns a scalar."""
        absolute = self.absolute_threshold * ops.ones_like(step.eta)
        if self.unit_threshold is not None:
            absolute = ops.minimum(absolute, self.unit_threshold / step.fan_in)
        bound = self.variable_relative_threshold * ops.abs(step.w) + absolute
        if self.accumulator_relative_threshold:
            bound = bound + self.accumulator_relative_threshold * step.p
        move = step.eta * ops.abs(step.r)
        return ops.minimum(smallest(ops.where(move > 0, bound / move, ops.ones_like(move))), 1.0)


@register
@dataclasses.dataclass(frozen=True)
class GlobalClippy(Clippy):
    """Clippy with one factor over all layers: the smallest of theirs (arXiv:2302.09178, 4.3.2).

    The step keeps its direction; a single coordinate of one layer can hold back all of them.
    """

    one_factor: ClassVar[bool] = True


@register
@dataclasses.dataclass(frozen=True)
class AdaGC(Rule):
    """Clips ||g|| to `relative_threshold` times its own running mean (arXiv:2502.11034).

    sigma = min{relative_threshold * gamma / ||g||, 1}, then
    gamma <- decay * gamma + (1 - decay) * sigma * ||g||. In the first `warmup_steps` sigma =
    min{absolute_threshold / ||g||, 1} (the paper: over all layers; here: layer by layer) and
    gamma is the smallest sigma * ||g|| seen. Steps with a zero gradient are not counted:
    else gamma could become, and stay, zero.

    Attributes:
        relative_threshold: The paper's lambda_rel.
        absolute_threshold: The paper's lambda_abs.
        decay: The paper's beta.
        warmup_steps: The paper's T_start.
    """

    relative_threshold: float = 1.05
    absolute_threshold: float = 1.0
    decay: float = 0.98
    warmup_steps: int = 100
    state: ClassVar[Mapping[str, float]] = {"norm_mean": 0.0, "steps": 0.0}

    def factor_and_state(
        self, step: Step, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Returns a scalar sigma and the next running mean."""
        norm = l2_norm(step.g)
        mean, steps = ops.cast(state["norm_mean"], norm.dtype), state["steps"]
        warm = steps < self.warmup_steps
        limit = ops.where(warm, self.absolute_threshold, self.relative_threshold * mean)
        sigma = at_most(limit, norm)
        clipped = sigma * norm
        lowest = ops.where(steps > 0, ops.minimum(mean, clipped), clipped)
        running = self.decay * mean + (1.0 - self.decay) * clipped
        counted = norm > 0
        return sigma, {
            "norm_mean": ops.where(counted, ops.where(warm, lowest, running), mean),
            "steps": steps + ops.cast(counted, steps.dtype),
        }


@register
@dataclasses.dataclass(frozen=True)
class ZClip(Rule):
    """Clips outliers of the whole model's gradient norm by their z-score (arXiv:2504.02507).

    With z = (||g|| - mean) / (std + epsilon) over running statistics, a norm of z > threshold is
    brought down to mean + threshold^2 / z * std; the statistics then take in the clipped norm.
    In the first `warmup_steps` nothing is clipped and they are the plain mean and variance. The
    authors' code also has a fixed maximum; for that use Keras's `global_clipnorm`.

    Attributes:
        threshold: z-score from which on a norm is an outlier.
        decay: The paper's alpha.
        warmup_steps: Steps that only feed the statistics.
        epsilon: Added to the standard deviation.
    """

    threshold: float = 2.5
    decay: float = 0.97
    warmup_steps: int = 25
    epsilon: float = 1e-6
    state: ClassVar[Mapping[str, float]] = {"norm_mean": 0.0, "norm_variance": 0.0, "steps": 0.0}
    model_wide: ClassVar[bool] = True

    def factor_and_state(
        self, step: Step, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Returns a scalar sigma, the same for every layer, and the next statistics."""
        norm, steps = step.model_norm, state["steps"]
        mean = ops.cast(state["norm_mean"], norm.dtype)
        variance = ops.cast(state["norm_variance"], norm.dtype)
        warm = steps < self.warmup_steps
        std = ops.sqrt(variance)
        z = (norm - mean) / (std + self.epsilon)
        outlier = ops.logical_not(warm) & (z > self.threshold)
        limit = mean + self.threshold**2 / ops.where(outlier, z, ops.ones_like(z)) * std
        sigma = ops.where(outlier, at_most(limit, norm), ops.ones_like(norm))
        kept = ops.where(warm, steps / (steps + 1), self.decay)
        kept = ops.cast(kept, norm.dtype)
        new_mean = kept * mean + (1 - kept) * sigma * norm
        deviation = (sigma * norm - new_mean) * (sigma * norm - ops.where(warm, mean, new_mean))
        return sigma, {
            "norm_mean": new_mean,
            "norm_variance": kept * variance + (1 - kept) * deviation,
            "steps": steps + 1,
        }
