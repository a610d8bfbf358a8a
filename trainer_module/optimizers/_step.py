"""The step of a layer as a pure function, so that a back end can compile it.

`w <- w - eta * sigma * r` (arXiv:2302.09178, eq. 5), unless it would not be finite.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras
from keras import ops

from trainer_module.optimizers._reductions import Tensor, all_finite, l2_norm, sum_of_squares
from trainer_module.optimizers._rules import Rule, Step

SlotsAfter = Callable[[Tensor], tuple[Tensor, ...]]
Direction = Callable[[Tensor, Sequence[Tensor], Tensor], tuple[Tensor, Tensor, SlotsAfter]]
"""What the base optimizer says: `ClippedOptimizer.direction_and_slots`."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is fixed when the step of a layer is traced.

    Attributes:
        rule: The rule that applies to it.
        excluded: Whether the optimizer's own rule does not.
        weight_decay: Share of a weight that decays at learning rate 1; None decays nothing.
        fan_in: As in `Step`.
    """

    rule: Rule
    excluded: bool
    weight_decay: float | None
    fan_in: float


class State(NamedTuple):
    """What a step reads and writes of a layer.

    Attributes:
        w: Weights; those of the touched rows, if the gradient is sparse. So are the slots.
        slots: Slots of the base optimizer.
        rule: The rule's running statistics.
    """

    w: Tensor
    slots: list[Tensor]
    rule: dict[str, Tensor]


class Scalars(NamedTuple):
    """What all layers share at a step: learning rates, number of the step, gradient's norm, factor.

    The norm is None unless the rule is `model_wide`, the factor unless it has `one_factor`.
    """

    rate: Tensor
    excluded_rate: Tensor
    iteration: Tensor
    model_norm: Tensor | None
    factor: Tensor | None = None


class _Unclipped(NamedTuple):
    """A layer's step before it is taken."""

    step: Step
    slots_after: SlotsAfter
    sigma: Tensor
    rule_state: Mapping[str, Tensor]


def take_steps(
    direction: Direction,
    figures: bool,
    layers: tuple[Layer, ...],
    gradients: list[Tensor],
    states: list[State],
    scalars: Scalars,
) -> tuple[list[State], Tensor, Tensor | None]:
    """Steps layers.

    Returns:
        The states after the steps; bool [layers], whether each was taken; and with `figures`
        float32 [layers, 4]: sums of the squares of the gradient and of what was subtracted from
        the weights, smallest and mean sigma.
    """
    steps = [
        _take_step(layer, _unclipped(direction, layer, gradient, state, scalars), state, scalars)
        for layer, gradient, state in zip(layers, gradients, states, strict=True)
    ]
    after, finite, rows = zip(*steps, strict=True)
    return list(after), ops.stack(finite), ops.stack(rows) if figures else None


def smallest_factor(
    direction: Direction,
    layers: tuple[Layer, ...],
    gradients: list[Tensor],
    states: list[State],
    scalars: Scalars,
) -> Tensor:
    """Smallest of the layers' factors, float32; layers that will be skipped do not count."""
    factors = [ops.ones((), "float32")]
    for layer, gradient, state in zip(layers, gradients, states, strict=True):
        sigma = _unclipped(direction, layer, gradient, state, scalars).sigma
        counted = ops.where(all_finite(gradient), sigma, ops.ones_like(sigma))
        factors.append(ops.cast(counted, "float32"))
    return ops.min(ops.stack(factors))


def norm_of_all(gradients: list[Tensor]) -> Tensor:
    """L2 norm over all layers whose gradient is finite."""
    wide = any(keras.backend.standardize_dtype(g.dtype) == "float64" for g in gradients)
    dtype = "float64" if wide else "float32"
    norms = [l2_norm(ops.cast(g, dtype)) for g in gradients]
    stacked = ops.stack(norms) if norms else ops.zeros((1,), dtype)
    return l2_norm(ops.where(ops.isfinite(stacked), stacked, ops.zeros_like(stacked)))


def _unclipped(
    direction: Direction, layer: Layer, gradient: Tensor, state: State, scalars: Scalars
) -> _Unclipped:
    """A layer's step in the dtype that it is computed in, and what its rule says of it."""
    dtype = keras.backend.standardize_dtype(state.w.dtype)
    dtype = "float32" if dtype in ("float16", "bfloat16") else dtype
    g, w = ops.cast(gradient, dtype), ops.cast(state.w, dtype)
    slots = [ops.cast(slot, dtype) for slot in state.slots]
    eta = ops.cast(scalars.excluded_rate if layer.excluded else scalars.rate, dtype)
    model_norm = scalars.model_norm
    if model_norm is not None:
        model_norm = ops.cast(model_norm, dtype)
    decayed = w if layer.weight_decay is None else w - w * layer.weight_decay * eta
    r, p, slots_after = direction(g, slots, ops.cast(scalars.iteration, dtype))
    step = Step(decayed, g, r, p, eta, model_norm, layer.fan_in)
    return _Unclipped(step, slots_after, *layer.rule.factor_and_state(step, state.rule))


def _take_step(
    layer: Layer, unclipped: _Unclipped, state: State, scalars: Scalars
) -> tuple[State, Tensor, Tensor]:
    """The step of one layer, as `take_steps`."""
    step, slots_after, sigma, rule_state = unclipped
    if layer.rule.one_factor:
        sigma = ops.cast(scalars.factor, sigma.dtype)
    new_slots = slots_after(sigma)
    finite = all_finite(sigma)
    for new, old in zip(new_slots, state.slots, strict=True):
        finite = finite & all_finite(new, old.dtype)

    def kept(new: Tensor, old: Tensor) -> Tensor:
        return ops.where(finite, ops.cast(new, old.dtype), old)

    sigma = ops.where(finite, sigma, ops.zeros_like(sigma))
    after = State(
        kept(step.w - (step.eta * sigma) * step.r, state.w),
        [kept(new, old) for new, old in zip(new_slots, state.slots, strict=True)],
        {name: kept(rule_state[name], old) for name, old in state.rule.items()},
    )
    moved = ops.cast(state.w, step.w.dtype) - ops.cast(after.w, step.w.dtype)
    least, mean = sigma, sigma
    if len(sigma.shape):
        least = ops.min(sigma, initial=float("inf"))
        mean = ops.sum(sigma) / max(1, math.prod(sigma.shape))
    figures = [sum_of_squares(step.g), sum_of_squares(moved), least, mean]
    return after, finite, ops.stack([ops.cast(value, "float32") for value in figures])
