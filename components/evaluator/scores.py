"""What people look at in an evaluation: each task by the metric that stands for it.

Plain data in, plain data out; neither NumPy nor TFMA is imported.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping

from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask, Task

OVERALL = "all events"

MAX_SLICES = 12

_Values = Mapping[str, float]
Metrics = Mapping[str, Mapping[str, _Values]]
"""Finite values by slice, task (empty for the whole model) and name of the metric."""


@dataclasses.dataclass(frozen=True)
class Score:
    """A task's metric on a day.

    Attributes:
        task: the task.
        metric: `AUC`, of which more is better, or `RMSE`.
        candidate: the day's model.
        served: the model that was served then, on the same events; None without comparison.
        trivial: what needs no model: smoothed rates, or the best constant.
        gate: the value that would just have passed.
        interval: low and high end of the candidate's confidence interval, where it has one.
        events: events with the task's label.
    """

    task: str
    metric: str
    candidate: float
    served: float | None = None
    trivial: float | None = None
    gate: float | None = None
    interval: tuple[float, float] | None = None
    events: float | None = None

    @property
    def more_is_better(self) -> bool:
        """Whether a larger value is the better one."""
        return self.metric == "AUC"

    def gain_over(self, other: float | None) -> float | None:
        """By how much the candidate is better; negative if it is worse."""
        if other is None:
            return None
        return self.candidate - other if self.more_is_better else other - self.candidate


@dataclasses.dataclass(frozen=True)
class Slice:
    """One value of a sliced feature, and how a task does there.

    Attributes:
        name: such as `device=phone`.
        score: of the task in the slice.
        overall: the candidate's value over all events.
        fails: whether a bound of the gate does not hold there.
    """

    name: str
    score: Score
    overall: float
    fails: bool

    @property
    def behind(self) -> float:
        """By how much it is worse than over all events."""
        return -(self.score.gain_over(self.overall) or 0.0)


def scores_of(
    candidate: Mapping[str, _Values],
    served: Mapping[str, _Values],
    tasks: Mapping[str, Task],
    intervals: Mapping[str, Mapping[str, _Values]],
) -> list[Score]:
    """Describes each task by the metric that it is gated by, over all events.

    Args:
        candidate: the candidate's metrics by task.
        served: the served model's, on the same events; empty without comparison.
        tasks: those of the spec, for their gates.
        intervals: of the candidate's metrics, those that have one: `low` and `high`.
    """
    found = (
        _score(task, values, served.get(task, {}), tasks.get(task), intervals.get(task))
        for task, values in candidate.items()
        if task
    )
    return [score for score in found if score is not None]


def slices_worth_a_look(
    metrics: Mapping[str, Metrics], failed: Collection[tuple[str, str]], spec: RankingSpec
) -> list[Slice]:
    """Finds where the candidate does worse than over all events, the worst first.

    Args:
        metrics: of the `candidate` and, if it was compared, of the `baseline`.
        failed: slice and task of each bound that did not hold; these come first.
        spec: the ranking spec.

    Returns:
        At most `MAX_SLICES`, of those with enough events to be judged.
    """
    found = sorted(_slices(metrics, failed, spec), key=lambda item: (not item.fails, -item.behind))
    return [item for item in found if item.fails or item.behind > 0][:MAX_SLICES]


def _slices(
    metrics: Mapping[str, Metrics], failed: Collection[tuple[str, str]], spec: RankingSpec
) -> Iterator[Slice]:
    served = metrics.get("baseline", {})
    overall = metrics["candidate"][OVERALL]
    for name, tasks in metrics["candidate"].items():
        if name == OVERALL:
            continue
        for task, values in tasks.items():
            score = _score(task, values, served.get(name, {}).get(task, {})) if task else None
            whole = _score(task, overall.get(task, {}), {})
            if score is None or whole is None:
                continue
            fails = (name, task) in failed
            if fails or (score.events or 0.0) >= spec.min_slice_events:
                yield Slice(name, score, whole.candidate, fails)


def _score(
    task: str,
    values: _Values,
    served: _Values,
    declared: Task | None = None,
    intervals: Mapping[str, _Values] | None = None,
) -> Score | None:
    name, metric = ("auc", "AUC") if "auc" in values else ("rmse", "RMSE")
    if name not in values:
        return None
    trivial = values.get("label_standard_deviation")
    if metric == "AUC":
        trivial = values[name] - values["auc_lift"] if "auc_lift" in values else None
    interval = (intervals or {}).get(name)
    return Score(
        task=task,
        metric=metric,
        candidate=values[name],
        served=served.get(name),
        trivial=trivial,
        gate=_gate(declared, values, served) if declared else None,
        interval=(interval["low"], interval["high"]) if interval else None,
        events=values.get("weighted_example_count"),
    )


def _gate(task: Task, values: _Values, served: _Values) -> float | None:
    """The AUC or RMSE that would just have passed: the tightest of the task's bounds on it."""
    if isinstance(task, BinaryTask):
        bounds = [
            task.gate.min_auc,
            _add(served.get("auc"), task.gate.max_auc_drop, -1),
            _add(_add(values["auc"], values.get("auc_lift"), -1), task.gate.min_auc_lift),
        ]
        return max((bound for bound in bounds if bound is not None), default=None)
    deviation = values.get("label_standard_deviation")

    def rmse_of(r2: float | None) -> float | None:
        """R2 is 1 - RMSE^2 / variance."""
        return None if r2 is None or deviation is None else deviation * math.sqrt(max(1 - r2, 0))

    bounds = [
        task.gate.max_rmse,
        _add(served.get("rmse"), task.gate.max_rmse_rise),
        rmse_of(task.gate.min_r2),
        rmse_of(_add(served.get("r2"), task.gate.max_r2_drop, -1)),
    ]
    return min((bound for bound in bounds if bound is not None), default=None)


def _add(value: float | None, other: float | None, sign: int = 1) -> float | None:
    return None if value is None or other is None else value + sign * other
