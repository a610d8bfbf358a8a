"""Reads TFMA's results as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.evaluator.bounds import CANDIDATE, Bound, bounds_of
from components.evaluator.estimates import Estimate
from components.evaluator.metrics import SHOWN
from components.evaluator.scores import OVERALL
from components.evaluator.verdict import CHANGE, Breach, Estimates
from schemas.spec import RankingSpec
from trainer_module import signatures


def load_breaches(path: str, spec: RankingSpec) -> list[Breach]:
    """Reads the thresholds that did not hold.

    Args:
        path: folder of TFMA's results.
        spec: the ranking spec whose bounds they are.

    Returns:
        The breaches, those over all events first, and of these what best tells a good model.
    """
    result = tfma.load_validation_result(path)
    estimates, bounds = load_estimates(path), bounds_of(spec, compare=True)
    breaches = []
    for validation in result.metric_validations_per_slice:
        keys = validation.slice_key.single_slice_keys
        feature = keys[0].column if keys else None
        for failure in validation.failures:
            key, name = failure.metric_key, _slice_name(keys)
            of_model = estimates.get(CHANGE if key.is_diff else CANDIDATE, {})
            found = of_model.get(name, {}).get(key.output_name, {}).get(key.name)
            breaches += [
                _breach(name, failure, bound, found)
                for bound in bounds.get(key.output_name, {}).get(feature, ())
                if (bound.metric, bound.is_change) == (key.name, key.is_diff)
            ]
    telling = {metric for metrics in SHOWN.values() for metric in metrics}
    return sorted(
        breaches, key=lambda breach: (breach.slice_name != OVERALL, breach.metric not in telling)
    )


def load_estimates(path: str) -> Mapping[str, Estimates]:
    """Reads the metrics with their errors.

    Args:
        path: folder of TFMA's results.

    Returns:
        Estimates of the `candidate` and, if it was compared, of the `baseline` and of the
        `change` from that to the candidate.
    """
    found: dict[str, dict[str, dict[str, dict[str, Estimate]]]] = {}
    for item in tfma.load_metrics(path):
        for pair in item.metric_keys_and_values:
            key, value = pair.key, pair.value.double_value.value
            if key.output_name == signatures.FINITE or not math.isfinite(value):
                continue
            model = CHANGE if key.is_diff else key.model_name or CANDIDATE
            error, freedom = math.nan, 0
            if pair.HasField("confidence_interval"):
                error = pair.confidence_interval.standard_error.double_value.value
                freedom = int(pair.confidence_interval.degrees_of_freedom.value)
            slices = found.setdefault(model, {}).setdefault(
                _slice_name(item.slice_key.single_slice_keys), {}
            )
            slices.setdefault(key.output_name, {})[key.name] = Estimate(value, error, freedom)
    return found


def _breach(slice_name: str, failure: Any, bound: Bound, found: Estimate | None) -> Breach:
    threshold = failure.metric_threshold
    judged = math.nan
    if failure.HasField("metric_value"):
        judged = failure.metric_value.double_value.value
    value, limit = judged, ""
    if found is not None and judged != found.value:
        value = found.value
        limit = (
            "but its error cannot be told"
            if math.isnan(judged)
            else f"{'at worst' if bound.undecided == 'block' else 'at best'} {judged:.4f} "
            f"with confidence {bound.confidence:g}"
        )
    return Breach(
        slice_name=slice_name,
        task=failure.metric_key.output_name,
        metric=failure.metric_key.name,
        value=value,
        bound=(_change_in_words if bound.is_change else _bound_in_words)(threshold),
        is_change=bound.is_change,
        limit=limit,
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


def _slice_name(keys: Any) -> str:
    return ", ".join(f"{key.column}={_key_value(key)}" for key in keys) or OVERALL


def _key_value(key: Any) -> Any:
    kind = key.WhichOneof("kind")
    value = getattr(key, kind) if kind else ""
    return value.decode() if isinstance(value, bytes) else value
