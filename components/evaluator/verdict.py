"""From TFMA's results to a verdict that a person can read; plain data, no pipeline."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

OVERALL = "all events"


@dataclasses.dataclass(frozen=True)
class Failure:
    """A threshold that did not hold.

    Attributes:
        slice_name: `all events`, or such as `device=phone`.
        task: output that the metric is of; empty for a metric of the whole model.
        metric: TFMA's name of the metric.
        value: the metric, or its difference from the baseline's; NaN if unmeasured.
        bound: the threshold in words, such as `at least 0.6`.
        is_change: whether the value is a difference from the served model's.
    """

    slice_name: str
    task: str
    metric: str
    value: float
    bound: str
    is_change: bool

    def __str__(self) -> str:
        what = f"{self.metric} change against the served model" if self.is_change else self.metric
        value = "could not be measured" if math.isnan(self.value) else f"is {self.value:.4f}"
        return f"{self.task}: {what} {value}, must be {self.bound} ({self.slice_name})"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether the model may be pushed.

    Attributes:
        blessed: whether it may.
        reasons: why it may not.
        notes: failures that do not count, and why.
    """

    blessed: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()


def decide(
    failures: Sequence[Failure],
    slice_events: Mapping[str, float],
    min_slice_events: int,
) -> Verdict:
    """Decides on a model.

    A bound over all events counts always. A bound on a slice counts where the slice has
    `min_slice_events` and its metric can be measured (the AUC of a slice without positives
    cannot): a category's first three events must not stop the pushes for good.

    Args:
        failures: thresholds that did not hold.
        slice_events: number of events by slice.
        min_slice_events: events that a slice needs to count.

    Returns:
        The verdict.
    """
    reasons: list[str] = []
    notes: list[str] = []
    for failure in failures:
        events = slice_events.get(failure.slice_name, 0.0)
        if failure.slice_name == OVERALL:
            reasons.append(str(failure))
        elif events < min_slice_events:
            notes.append(f"{failure}: not counted, {events:.0f} of {min_slice_events} events")
        elif math.isnan(failure.value):
            notes.append(f"{failure}: not counted")
        else:
            reasons.append(str(failure))
    return Verdict(not reasons, tuple(reasons), tuple(notes))
