"""Reads TFMA's results as plain data."""

from __future__ import annotations

import math
from typing import Any

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.evaluator.eval_config import BASELINE, CANDIDATE
from components.evaluator.verdict import OVERALL, Failure, Metrics
from trainer_module import signatures


def load_failures(path: str) -> list[Failure]:
    """Reads the thresholds that did not hold.

    Args:
        path: folder of TFMA's results.

    Returns:
        The failures, those over all events first.
    """
    result = tfma.load_validation_result(path)
    failures = []
    for validation in result.metric_validations_per_slice:
        name = _slice_name(
            tuple((k.column, _key_value(k)) for k in validation.slice_key.single_slice_keys)
        )
        failures += [_failure(name, failure) for failure in validation.failures]
    for spec in result.missing_slices:
        keys = ", ".join(spec.feature_keys)
        failures.append(Failure(f"slice {keys}", "", "slice", math.nan, "present", False))
    return sorted(failures, key=lambda failure: failure.slice_name != OVERALL)


def load_metrics(path: str) -> dict[str, Metrics]:
    """Reads the metrics.

    Args:
        path: folder of TFMA's results.

    Returns:
        Metrics of the `candidate` and, if it was compared, of the `baseline`.
    """
    result = tfma.load_eval_result(path, model_name=CANDIDATE) if _compared(path) else None
    if result is None:
        return {CANDIDATE: _metrics(tfma.load_eval_result(path))}
    baseline = tfma.load_eval_result(path, model_name=BASELINE)
    return {CANDIDATE: _metrics(result), BASELINE: _metrics(baseline)}


def _compared(path: str) -> bool:
    return len(tfma.load_eval_results([path]).get_results()) > 1


def _metrics(result: Any) -> Metrics:
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for slice_key, outputs in result.slicing_metrics:
        tasks = metrics.setdefault(_slice_name(slice_key), {})
        for task, by_class in outputs.items():
            if task == signatures.FINITE:
                continue
            tasks[task] = {
                name: float(value["doubleValue"])
                for name, value in by_class.get("", {}).items()
                if not name.endswith("_diff")
                # What is NaN or infinite comes as text.
                if math.isfinite(float(value.get("doubleValue", math.nan)))
            }
    return metrics


def _failure(slice_name: str, failure: Any) -> Failure:
    threshold = failure.metric_threshold
    is_change = threshold.HasField("change_threshold")
    value = math.nan
    if failure.HasField("metric_value"):
        value = failure.metric_value.double_value.value
    return Failure(
        slice_name=slice_name,
        task=failure.metric_key.output_name,
        metric=failure.metric_key.name,
        value=value,
        bound=_change_in_words(threshold) if is_change else _bound_in_words(threshold),
        is_change=is_change,
    )


def _bound_in_words(threshold: Any) -> str:
    bounds = threshold.value_threshold
    words = []
    if bounds.HasField("lower_bound"):
        words.append(f"at least {bounds.lower_bound.value:g}")
    if bounds.HasField("upper_bound"):
        words.append(f"at most {bounds.upper_bound.value:g}")
    return " and ".join(words)


def _change_in_words(threshold: Any) -> str:
    change = threshold.change_threshold
    falling = change.direction == config_pb2.MetricDirection.HIGHER_IS_BETTER
    return f"{'at least' if falling else 'at most'} {change.absolute.value:g}"


def _slice_name(slice_key: tuple[tuple[str, Any], ...]) -> str:
    return ", ".join(f"{column}={value}" for column, value in slice_key) or OVERALL


def _key_value(key: Any) -> Any:
    kind = key.WhichOneof("kind")
    value = getattr(key, kind) if kind else ""
    return value.decode() if isinstance(value, bytes) else value
