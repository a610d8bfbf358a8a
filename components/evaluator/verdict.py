"""From TFMA's results to a verdict that a person can read; plain data, no pipeline."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from components.evaluator.bounds import BASELINE, CANDIDATE, bounds_of
from components.evaluator.estimates import Estimate
from components.evaluator.metrics import SHOWN
from components.evaluator.scores import OVERALL, Metrics
from components.lost_labels import class_counts, lost_classes
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask, RegressionTask

CHANGE = "change"
"""Beside the models' names: the candidate's metrics less the served model's."""

Estimates = Mapping[str, Mapping[str, Mapping[str, Estimate]]]
"""`Metrics` with their errors."""


@dataclasses.dataclass(frozen=True)
class Breach:
    """A threshold that did not hold.

    Attributes:
        slice_name: `all events`, or such as `device=phone`.
        task: output that the metric is of; empty for a metric of the whole model.
        metric: name of the metric.
        value: the metric, or its difference from the baseline's; NaN if unmeasured.
        bound: the threshold in words, such as `at least 0.6`.
        is_change: whether the value is a difference from the served model's.
        limit: what was judged in place of the value, in words; empty if the value was.
    """

    slice_name: str
    task: str
    metric: str
    value: float
    bound: str
    is_change: bool
    limit: str = ""

    def __str__(self) -> str:
        what = f"{self.metric} change against the served model" if self.is_change else self.metric
        value = "could not be measured" if math.isnan(self.value) else f"is {self.value:.4f}"
        if self.limit:
            value = f"{value}, {self.limit}"
        return f"{self.task}: {what} {value}, must be {self.bound} ({self.slice_name})"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether the model may be pushed.

    Attributes:
        blessed: whether it may.
        reasons: why it may not.
        notes: breaches that do not count, and bounds that cannot fail.
        not_gated: what was not held to its bounds, and why.
        failed: slice and task of each bound among the reasons.
        untold: the reasons that are not failed bounds: what the day cannot tell.
    """

    blessed: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()
    not_gated: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    untold: tuple[str, ...] = ()


def in_order(estimates: Estimates, first: Sequence[str]) -> Estimates:
    """The same, with some outputs first: results are in the order of their names."""
    return {
        name: {task: tasks[task] for task in dict.fromkeys((*first, *tasks)) if task in tasks}
        for name, tasks in estimates.items()
    }


def values_of(estimates: Estimates) -> Metrics:
    """The values alone."""
    return {
        slice_name: {
            task: {name: found.value for name, found in metrics.items()}
            for task, metrics in tasks.items()
        }
        for slice_name, tasks in estimates.items()
    }


def intervals_of(estimates: Estimates) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """What has an error, as plain data: value, bounds of the interval, error and its freedom."""
    return {
        slice_name: {
            task: {
                name: {
                    "value": found.value,
                    "low": found.interval[0],
                    "high": found.interval[1],
                    "standard_error": found.error,
                    "degrees_of_freedom": found.freedom,
                }
                for name, found in metrics.items()
                if math.isfinite(found.error)
            }
            for task, metrics in tasks.items()
        }
        for slice_name, tasks in estimates.items()
    }


def figures(estimates: Mapping[str, Estimates], spec: RankingSpec) -> Iterator[str]:
    """Says of each output, over all events, what its gate looks at, with intervals.

    Args:
        estimates: of the `candidate`, and of the `change` if there is a served model.
        spec: the ranking spec.

    Yields:
        A line for each output with bounds, in the order of the spec.
    """
    values, changes = (estimates.get(model, {}).get(OVERALL, {}) for model in (CANDIDATE, CHANGE))
    for output, by_slice in bounds_of(spec, compare=CHANGE in estimates).items():
        names = dict.fromkeys(b.metric for b in by_slice[None])
        if output in spec.tasks:
            names = dict.fromkeys((*SHOWN[spec.tasks[output].kind], *names))
        said = []
        for name in names:
            if (value := values.get(output, {}).get(name)) is None:
                continue
            change = changes.get(output, {}).get(name)
            said.append(
                f"{name} {_with_interval(value, '')}"
                + ("" if change is None else f", change {_with_interval(change, '+')}")
            )
        if said:
            yield f"{output}: {'; '.join(said)}"


def _with_interval(found: Estimate, sign: str) -> str:
    if not math.isfinite(found.error):
        return f"{found.value:{sign}.4f}"
    low, high = found.interval
    return f"{found.value:{sign}.4f} ({low:{sign}.4f} to {high:{sign}.4f})"


def decide(
    breaches: Sequence[Breach], estimates: Mapping[str, Estimates], spec: RankingSpec
) -> Verdict:
    """Decides on a model.

    Noise must not stop the pushes: a task counts from `min_class_events` positives and as many
    negatives on (labels, for a regression), in a slice from `min_slice_events` of its labels
    on. A model of which no task counts is not pushed, nor one of which a task does not count since
    the day has lost its labels. What is not a task's always counts.

    Args:
        breaches: thresholds that did not hold.
        estimates: of the `candidate`, and of the `change` if there is a served model.
        spec: the ranking spec.

    Returns:
        The verdict.
    """
    metrics = values_of(estimates.get(CANDIDATE, {}))
    too_few = {
        (name, task): why
        for name, tasks in {OVERALL: {}, **metrics}.items()
        for task in spec.tasks
        if (why := _too_few(tasks.get(task, {}), spec, task, in_slice=name != OVERALL))
    }
    reasons, notes = [], []
    failed: dict[tuple[str, str], None] = {}
    for breach in breaches:
        why = too_few.get((breach.slice_name, breach.task))
        if why:
            notes.append(f"{breach}: not counted, {why}")
        else:
            reasons.append(str(breach))
            failed[breach.slice_name, breach.task] = None
    untold = list(_lost_labels(estimates, spec))
    if all((OVERALL, task) in too_few for task in spec.tasks):
        untold.append(f"no task could be judged: {too_few[OVERALL, next(iter(spec.tasks))]}")
    reasons += untold
    return Verdict(
        blessed=not reasons,
        reasons=tuple(reasons),
        notes=(
            *notes,
            *_undecided(estimates, spec, too_few),
            *_cannot_fail(metrics.get(OVERALL, {}), spec),
        ),
        not_gated=tuple(_not_gated(metrics, spec, too_few)),
        failed=tuple(failed),
        untold=tuple(untold),
    )


def _lost_labels(estimates: Mapping[str, Estimates], spec: RankingSpec) -> Iterator[str]:
    """Names the binary tasks that have far fewer events of a class than the served model expects.

    Too few to judge the task, and no chance: the labels of the day are late or lost.
    """
    served = values_of(estimates.get(BASELINE, {})).get(OVERALL, {})
    for name, task in spec.tasks.items():
        if not isinstance(task, BinaryTask):
            continue
        for lost in lost_classes(served.get(name, {}), spec):
            yield (
                f"{name}: the day has {lost}: labels are late or lost, and nothing can be said of "
                "the task. Run the day again when they are there; a label that is not given any "
                "more must leave the spec"
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
        counts = class_counts(values, "mean_label")
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
        if not values:
            yield f"{feature}: no event has a value, so there is no slice to be gated"
        for task in spec.tasks:
            events = {
                v: metrics[v].get(task, {}).get("weighted_example_count", 0.0) for v in values
            }
            left_out = [value for value in values if (value, task) in too_few]
            if left_out and (OVERALL, task) not in too_few:
                share = sum(events[v] for v in left_out) / max(sum(events.values()), 1.0)
                yield (
                    f"{task}: {len(left_out)} of {len(values)} values of {feature}, "
                    f"{100 * share:.3g} % of their events; {left_out[0]} has "
                    f"{too_few[left_out[0], task]}"
                )


def _undecided(
    estimates: Mapping[str, Estimates], spec: RankingSpec, too_few: Mapping[tuple[str, str], str]
) -> Iterator[str]:
    """Names the values beyond a bound that pass, since the day cannot tell of them."""
    for task, by_slice in bounds_of(spec, compare=True).items():
        for feature, bounds in by_slice.items():
            for bound in bounds:
                found = estimates.get(CHANGE if bound.is_change else CANDIDATE, {})
                for name, tasks in found.items():
                    value = tasks.get(task, {}).get(bound.metric)
                    if (
                        value is None
                        or _feature_of(name) != feature
                        or (name, task) in too_few
                        or bound.holds(value.value)
                        or not bound.holds(bound.judged(value))
                    ):
                        continue
                    low, high = value.interval
                    change = " change" if bound.is_change else ""
                    yield (
                        f"{task}: {bound.metric}{change} {value.value:.4f} is beyond its bound, "
                        f"but may be {low:.4f} to {high:.4f} ({name}): not counted, undecided"
                    )


def _feature_of(slice_name: str) -> str | None:
    return None if slice_name == OVERALL else slice_name.partition("=")[0]


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
