"""Rules that know a layer's width, tried against the product's in `experiments.bench`.

Each is a rule as any user may write one (docs/optimizers.md). `move` is what a plain step would
subtract from the weights: eta * r.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from keras import ops

from trainer_module.optimizers import Rule, Step, at_most, l2_norm, smallest

Tensor = Any


def rms(x: Tensor) -> Tensor:
    """Root mean square, a scalar."""
    return l2_norm(x) / math.sqrt(math.prod(x.shape))


def least_ratio(bound: Tensor, move: Tensor) -> Tensor:
    """The largest factor, at most 1, that brings every coordinate within its bound."""
    ratio = ops.where(move > 0, bound / move, ops.ones_like(move))
    return ops.minimum(smallest(ratio), 1.0)


@dataclasses.dataclass(frozen=True)
class LayerClippy(Rule):
    """Clippy whose absolute threshold is a share of the layer's RMS, but not under a floor."""

    share: float = 0.02
    floor: float = 1e-3
    relative: float = 0.5

    def factor(self, step: Step) -> Tensor:
        """Returns a scalar."""
        absolute = ops.maximum(self.share * rms(step.w), self.floor)
        bound = self.relative * ops.abs(step.w) + absolute
        return least_ratio(bound, step.eta * ops.abs(step.r))


@dataclasses.dataclass(frozen=True)
class CoordinateClippy(Rule):
    """Clippy coordinate by coordinate: each moves no further than its own bound."""

    absolute: float = 1e-3
    relative: float = 0.5

    def factor(self, step: Step) -> Tensor:
        """Returns a tensor of the shape of the layer."""
        bound = self.relative * ops.abs(step.w) + self.absolute
        return at_most(bound, step.eta * ops.abs(step.r))


@dataclasses.dataclass(frozen=True)
class RelativeMove(Rule):
    """Bounds the move's RMS by a share of the weights' RMS, but not under a floor.

    LARS (arXiv:1708.03888) and Adafactor's relative step (arXiv:1804.04235), as a bound.
    """

    share: float = 5e-3
    floor: float = 1e-4

    def factor(self, step: Step) -> Tensor:
        """Returns a scalar."""
        bound = ops.maximum(self.share * rms(step.w), self.floor)
        return at_most(bound, step.eta * rms(step.r))


@dataclasses.dataclass(frozen=True)
class FanInMove(Rule):
    """Bounds the move's RMS by `scale` / fan-in, but not over `cap`.

    For a matrix that is ||move||_F <= scale sqrt(fan-out / fan-in), which bounds its spectral
    norm as arXiv:2310.17813 asks.
    """

    scale: float = 0.3
    cap: float = 1e-2

    def factor(self, step: Step) -> Tensor:
        """Returns a scalar."""
        bound = ops.minimum(self.scale / step.fan_in, self.cap)
        return at_most(bound, step.eta * rms(step.r))


@dataclasses.dataclass(frozen=True)
class UnitMove(Rule):
    """Bounds the move of each unit's weights by a share of their norm, unit by unit."""

    share: float = 2e-2
    floor: float = 1e-3

    def factor(self, step: Step) -> Tensor:
        """Returns one factor for each unit of a matrix, a scalar for a vector."""
        axis = (0,) if len(step.w.shape) > 1 else None
        size = math.sqrt(step.fan_in if axis else math.prod(step.w.shape))
        norm = ops.maximum(l2_norm(step.w, axis), self.floor * size)
        return at_most(self.share * norm, step.eta * l2_norm(step.r, axis))
