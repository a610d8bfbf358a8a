"""From TFMA's results to a verdict that a person can read; plain data, no pipeline."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask, RegressionTask

OVERALL = "all events"

Metrics = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Finite values by slice, task (empty for the whole model) and TFMA's metric name."""


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
        notes: failures that do not count, and bounds that cannot fail.
        not_gated: what was not held to its bounds, and why.
    """

    blessed: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()
    not_gated: tuple[str, ...] = ()


def decide(failures: Sequence[Failure], metrics: Metrics, spec: RankingSpec) -> Verdict:
    """Decides on a model.

    Noise must not stop the pushes: a task counts from `min_class_events` positives and as many
    negatives on (labels, for a regression), in a slice from `min_slice_events` of its labels
    on. A model of which no task counts is not pushed. What is no task's counts always.

    Args:
        failures: thresholds that did not hold.
        metrics: the candidate's.
        spec: the ranking spec.

    Returns:
        The verdict.
    """
    too_few = {
        (name, task): why
        for name, tasks in {OVERALL: {}, **metrics}.items()
        for task in spec.tasks
        if (why := _too_few(tasks.get(task, {}), spec, task, in_slice=name != OVERALL))
    }
    reasons, notes = [], []
    for failure in failures:
        why = too_few.get((failure.slice_name, failure.task))
        if failure.slice_name not in metrics:
            why = "no event has a value"
        if why:
            notes.append(f"{failure}: not counted, {why}")
        else:
            reasons.append(str(failure))
    if all((OVERALL, task) in too_few for task in spec.tasks):
        reasons.append(f"no task could be judged: {too_few[OVERALL, next(iter(spec.tasks))]}")
    return Verdict(
        blessed=not reasons,
        reasons=tuple(reasons),
        notes=(*notes, *_cannot_fail(metrics.get(OVERALL, {}), spec)),
        not_gated=tuple(_not_gated(metrics, spec, too_few)),
    )


def _too_few(
    values: Mapping[str, float], spec: RankingSpec, name: str, *, in_slice: bool
) -> str | None:
    """Says of what a task has too few events to be gated; None if it has enough."""
    labelled = values.get("weighted_example_count", 0.0)
    if in_slice and labelled < spec.min_slice_events:
        return f"{labelled:.0f} of {spec.min_slice_events} events with its label"
    wanted = spec.min_class_events
    if isinstance(spec.tasks[name], BinaryTask):
        positives = round(labelled * values.get("mean_label", 0.0))
        counts = {"positives": positives, "negatives": labelled - positives}
    else:
        counts = {"events with its label": labelled}
    for what, count in counts.items():
        if count < wanted:
            return f"{count:.0f} of {wanted} {what}"
    return "labels that are all the same" if values.get("label_standard_deviation") == 0.0 else None


def _not_gated(
    metrics: Metrics, spec: RankingSpec, too_few: Mapping[tuple[str, str], str]
) -> Iterator[str]:
    for task in spec.tasks:
        if (OVERALL, task) in too_few:
            yield f"{task}: {too_few[OVERALL, task]}"
    for feature in spec.sliced_features:
        values = [name for name in metrics if name.startswith(f"{feature}=")]
        for task in spec.tasks:
            events = {
                v: metrics[v].get(task, {}).get("weighted_example_count", 0.0) for v in values
            }
            left_out = [value for value in values if (value, task) in too_few]
            if left_out and (OVERALL, task) not in too_few:
                share = sum(events[v] for v in left_out) / max(sum(events.values()), 1.0)
                yield (
                    f"{task}: {len(left_out)} of {len(values)} values of {feature}, "
                    f"{100 * share:.2g} % of their events; {left_out[0]} has "
                    f"{too_few[left_out[0], task]}"
                )


def _cannot_fail(overall: Mapping[str, Mapping[str, float]], spec: RankingSpec) -> Iterator[str]:
    """Names the bounds that a model which answers always the same would pass."""
    for name, task in spec.tasks.items():
        deviation = overall.get(name, {}).get("label_standard_deviation", math.inf)
        if isinstance(task, BinaryTask):
            if task.gate.min_auc is None or task.gate.min_auc <= 0.5:
                yield f"{name}: a model that answers always the same passes min_auc"
        elif task.gate.max_rmse is not None and task.gate.max_rmse >= deviation:
            assert isinstance(task, RegressionTask)
            yield (
                f"{name}: a model that answers always the same passes max_rmse "
                f"{task.gate.max_rmse:g}, since its RMSE is {deviation:.4g}"
            )
