"""What a day can tell: how often a healthy model is blocked, and how small a fall is seen."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from components.evaluator.bounds import CANDIDATE, Bound, bounds_of
from components.evaluator.estimates import Estimate
from components.evaluator.verdict import CHANGE
from schemas.spec import RankingSpec

SEEN = 0.95
"""Probability with which a fall must be blocked to be called seen."""

_NORMAL = statistics.NormalDist()

Day = Mapping[str, Mapping[str, Mapping[str, Estimate]]]
"""Estimates over all events of a day, by model (or `change`), output and metric."""


@dataclasses.dataclass(frozen=True)
class Power:
    """What a bound tells apart.

    Attributes:
        output: task, or the score.
        bound: the bound.
        error: standard error of what it bounds, of a usual one of the days.
        false_blocks: share of days on which a healthy model is blocked: one as good as the
            served model, for a bound on the change, else one as good as the days' models.
        smallest_seen: by how much worse than a healthy one a model must be to be blocked on
            95 % of days; NaN if there is none.
    """

    output: str
    bound: Bound
    error: float
    false_blocks: float
    smallest_seen: float


def powers(days: Sequence[Day], spec: RankingSpec, events: float | None = None) -> Iterator[Power]:
    """Says for each bound over all events what it tells apart.

    Estimates are taken to be normal, with the error that the days had.

    Args:
        days: some days' estimates.
        spec: the ranking spec with the bounds, another one than the days' perhaps.
        events: events of a day with a task's label; errors are of a day of so many. As many as
            the days had if None.

    Yields:
        One for each bound of which a day knows the error.
    """
    for output, by_slice in bounds_of(spec, compare=True).items():
        for bound in by_slice[None]:
            found = []
            for day in days:
                of_model = day.get(CHANGE if bound.is_change else CANDIDATE, {})
                estimate = of_model.get(output, {}).get(bound.metric)
                if estimate is None or math.isnan(estimate.error):
                    continue
                labelled = day.get(CANDIDATE, {}).get(output, {}).get("weighted_example_count")
                scale = 1.0
                if events is not None:
                    if labelled is None:
                        continue
                    scale = math.sqrt(labelled.value / events)
                found.append(dataclasses.replace(estimate, error=scale * estimate.error))
            if found:
                yield _power(output, bound, found)


def _power(output: str, bound: Bound, days: Sequence[Estimate]) -> Power:
    usual = Estimate(
        0.0 if bound.is_change else statistics.fmean(day.value for day in days),
        math.sqrt(statistics.fmean(day.error**2 for day in days)),
        min(day.freedom for day in days),
    )
    if not usual.error:
        blocked = float(not bound.holds(usual.value))
        return Power(output, bound, 0.0, blocked, math.nan)
    margin = usual.margin(bound.confidence) * (-1.0 if bound.undecided == "pass" else 1.0)
    beyond = _NORMAL.inv_cdf(SEEN) * usual.error
    blocks, seen = 0.0, []
    if bound.low is not None:
        least = bound.low + margin
        blocks += _NORMAL.cdf((least - usual.value) / usual.error)
        seen.append(usual.value - (least - beyond))
    if bound.high is not None:
        most = bound.high - margin
        blocks += _NORMAL.cdf((usual.value - most) / usual.error)
        seen.append(most + beyond - usual.value)
    return Power(output, bound, usual.error, min(blocks, 1.0), max(min(seen), 0.0))
