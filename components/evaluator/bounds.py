"""The bounds of a ranking spec, and the value by which each is judged."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from components.evaluator.estimates import Estimate
from components.evaluator.metrics import COMPARISONS, METRICS
from components.evaluator.sums import FINITE, SCORE
from schemas.spec import RankingSpec
from schemas.tasks import Judgement
from trainer_module import signatures

CANDIDATE = "candidate"
BASELINE = "baseline"

_ALL_FINITE = 1.0 - 1e-12
_SERVED = frozenset(metric.name for metric in COMPARISONS if metric.served)


@dataclasses.dataclass(frozen=True)
class Bound:
    """Bounds on a metric, or on its change against the served model's.

    Attributes:
        metric: name of the metric.
        low: smallest value that is within the bound.
        high: largest such value.
        is_change: whether they are on the change.
        confidence: with which the value must be known to be within; 0.5 for the point estimate.
        undecided: `block` or `pass`, where that is not known.
    """

    metric: str
    low: float | None = None
    high: float | None = None
    is_change: bool = False
    confidence: float = 0.5
    undecided: str = "block"

    def judged(self, estimate: Estimate) -> float:
        """The value that must be within the bound: that of the estimate or of one of its limits.

        It is the limit that is nearer to the bound, or, where a model passes that the day
        cannot tell of, the other one.
        """
        margin = estimate.margin(self.confidence)
        if self.undecided == "pass":
            # Without an error, the day tells no more than the value.
            margin = 0.0 if math.isnan(margin) else -margin
        if math.isnan(margin):
            return math.nan
        value, lowest, highest = estimate.value, estimate.value - margin, estimate.value + margin
        if self.low is not None and min(value, lowest) < self.low:
            return lowest
        if self.high is not None and max(value, highest) > self.high:
            return highest
        return value

    def __str__(self) -> str:
        sides = [f"at least {self.low:g}"] if self.low is not None else []
        sides += [f"at most {self.high:g}"] if self.high is not None else []
        said = f"{self.metric}{' change' if self.is_change else ''} {' and '.join(sides)}"
        if self.confidence > 0.5:
            said += f", confidence {self.confidence:g}"
        return said + ("" if self.undecided == "block" else ", undecided passes")

    def holds(self, value: float) -> bool:
        """Whether a value is within the bound; NaN is not."""
        return value >= (-math.inf if self.low is None else self.low) and value <= (
            math.inf if self.high is None else self.high
        )


Bounds = Mapping[str, Mapping[str | None, tuple[Bound, ...]]]
"""By output, and by the sliced feature for whose values they are; None for all events."""


def kind_of(spec: RankingSpec, output: str) -> str:
    """The kind of a model's output."""
    special = {signatures.FINITE: FINITE, signatures.SCORE: SCORE}
    return special[output] if output in special else spec.tasks[output].kind


def bounds_of(spec: RankingSpec, *, compare: bool) -> Bounds:
    """Lists the bounds of a spec.

    Args:
        spec: the ranking spec.
        compare: whether there is a served model; without, bounds that need one are left out.

    Returns:
        The bounds, by output in the order of the spec.
    """
    bounds: dict[str, dict[str | None, tuple[Bound, ...]]] = {}
    for name, task in spec.tasks.items():
        bounds[name] = {None: tuple(_bounds(task.kind, task.gate, spec, task.gate))}
        for feature in spec.sliced_features:
            of_slice = task.gate.of_slice(feature)
            bounds[name][feature] = tuple(_bounds(task.kind, of_slice, spec, task.gate))
    bounds[signatures.FINITE] = {None: (Bound("mean_prediction", low=_ALL_FINITE),)}
    gate = spec.serving.score_gate
    score = (bound for part in (spec.serving, gate) for bound in _bounds(SCORE, part, spec, gate))
    bounds[signatures.SCORE] = {None: tuple(score)}
    if compare:
        return bounds
    return {
        output: {
            feature: tuple(b for b in several if not b.is_change and b.metric not in _SERVED)
            for feature, several in by_slice.items()
        }
        for output, by_slice in bounds.items()
    }


def _bounds(kind: str, declared: Any, spec: RankingSpec, *gates: Judgement) -> Iterator[Bound]:
    """Reads the bounds on a kind of output off the fields that have a metric's name."""
    sure = _judgement(spec, "confidence", declared, *gates)
    undecided = _judgement(spec, "undecided", declared, *gates)
    for metric in (*METRICS, *COMPARISONS):
        if kind not in metric.kinds:
            continue
        name = metric.name
        low = _field(declared, f"min_{name}") if metric.better > 0 else None
        high = _field(declared, f"max_{name}") if metric.better < 0 else None
        if metric.better == 0:
            low, high = _field(declared, name) or (None, None)
        if low is not None or high is not None:
            yield Bound(name, low, high, False, sure, undecided)
        drop = _field(declared, f"max_{name}_drop") if metric.better > 0 else None
        rise = _field(declared, f"max_{name}_rise") if metric.better < 0 else None
        if drop is not None or rise is not None:
            yield Bound(name, None if drop is None else -drop, rise, True, sure, undecided)


def _field(declared: Any, name: str) -> Any:
    return getattr(declared, name, None)


def _judgement(spec: RankingSpec, name: str, *declared: Any) -> Any:
    """The first that is declared: for the slice, the task, or the whole spec."""
    found = (_field(part, name) for part in (*declared, spec.evaluation))
    return next(value for value in found if value is not None)
