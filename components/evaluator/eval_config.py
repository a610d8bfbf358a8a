"""The TFMA configuration that follows from a ranking spec."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from schemas.spec import RankingSpec
from schemas.tasks import BinaryBounds, BinaryTask, RegressionBounds, Task
from trainer_module import signatures

CANDIDATE = "candidate"
BASELINE = "baseline"

_ALL_FINITE = 1.0 - 1e-12

TFMA_CLASSES = {
    "auc": "AUC",
    "calibration": "Calibration",
    "mean_label": "MeanLabel",
    "mean_prediction": "MeanPrediction",
    "root_mean_squared_error": "RootMeanSquaredError",
    "weighted_example_count": "WeightedExampleCount",
}
"""TFMA's class of each metric that it has one for, by the metric's name."""


@dataclasses.dataclass(frozen=True)
class _Bound:
    """Bounds on a metric, or on its change against the served model's."""

    metric: str
    low: float | None = None
    high: float | None = None
    is_change: bool = False


def eval_config(spec: RankingSpec, *, compare: bool) -> config_pb2.EvalConfig:
    """Derives metrics, slices and thresholds.

    Args:
        spec: the ranking spec.
        compare: whether there is a served model to compare with; without, thresholds on
            the change are left out.

    Returns:
        A config for one model, or for a candidate and a baseline.
    """
    models = [_model_spec(spec, CANDIDATE if compare else "", is_baseline=False)]
    if compare:
        models.append(_model_spec(spec, BASELINE, is_baseline=True))
    slices = [config_pb2.SlicingSpec()]
    slices += [config_pb2.SlicingSpec(feature_keys=[name]) for name in spec.sliced_features]
    count = config_pb2.MetricConfig(class_name="ExampleCount")
    metrics = [config_pb2.MetricsSpec(metrics=[count])]
    for name, task in spec.tasks.items():
        by_slice: dict[str | None, list[_Bound]] = {None: list(_bounds(task.gate))}
        if isinstance(task, BinaryTask):
            by_slice[None].append(_Bound("auc_lift", low=task.gate.min_auc_lift))
        for feature in spec.sliced_features:
            by_slice[feature] = list(_bounds(task.gate.of_slice(feature)))
        metrics.append(_output_metrics(name, reported_metrics(task), by_slice, compare))
    finite = [_Bound("mean_prediction", low=_ALL_FINITE)]
    metrics.append(
        _output_metrics(signatures.FINITE, ("mean_prediction",), {None: finite}, compare)
    )
    if compare and (score := list(_score_bounds(spec))):
        metrics.append(_output_metrics(signatures.SCORE, (), {None: score}, compare))
    return config_pb2.EvalConfig(model_specs=models, slicing_specs=slices, metrics_specs=metrics)


def metric_name(task: Task) -> str:
    """Name in TFMA's results of the metric that a task is shown by."""
    return "auc" if isinstance(task, BinaryTask) else "root_mean_squared_error"


def reported_metrics(task: Task) -> tuple[str, ...]:
    """TFMA's names of the metrics that are computed of a task whatever its bounds."""
    return (
        metric_name(task),
        "calibration",
        "mean_label",
        "mean_prediction",
        "weighted_example_count",
    )


def _bounds(bounds: BinaryBounds | RegressionBounds) -> Iterator[_Bound]:
    if isinstance(bounds, BinaryBounds):
        yield _Bound("auc", low=bounds.min_auc)
        yield _Bound("auc", low=_negative(bounds.max_auc_drop), is_change=True)
    else:
        yield _Bound("root_mean_squared_error", high=bounds.max_rmse)
        yield _Bound("root_mean_squared_error", high=bounds.max_rmse_rise, is_change=True)
        yield _Bound("r2_score", low=bounds.min_r2)
        yield _Bound("r2_score", low=_negative(bounds.max_r2_drop), is_change=True)
    if bounds.calibration is not None:
        yield _Bound("calibration", *bounds.calibration)


def _score_bounds(spec: RankingSpec) -> Iterator[_Bound]:
    if spec.serving.score_scale is not None:
        yield _Bound("score_scale", *spec.serving.score_scale)
    if spec.serving.score_shift is not None:
        yield _Bound("score_shift", *spec.serving.score_shift)


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _model_spec(spec: RankingSpec, name: str, *, is_baseline: bool) -> config_pb2.ModelSpec:
    outputs = [*spec.tasks, signatures.FINITE]
    return config_pb2.ModelSpec(
        name=name,
        # Else TFMA loads the model to find out.
        model_type=tfma.constants.TF_GENERIC,
        is_baseline=is_baseline,
        signature_name=signatures.EVALUATE,
        preprocessing_function_names=[signatures.LABELS],
        label_keys={output: signatures.label_key(output) for output in outputs},
        example_weight_keys={output: signatures.weight_key(output) for output in outputs},
    )


def _output_metrics(
    output: str, reported: tuple[str, ...], by_slice: dict[str | None, list[_Bound]], compare: bool
) -> config_pb2.MetricsSpec:
    """Metrics of one output; bounds by the feature they are for, None for all events."""
    result = config_pb2.MetricsSpec(output_names=[output])
    thresholds: dict[str, list[config_pb2.PerSliceMetricThreshold]] = {}
    for feature, bounds in by_slice.items():
        for metric in dict.fromkeys(bound.metric for bound in bounds):
            threshold = _threshold([b for b in bounds if b.metric == metric], compare)
            if threshold.ByteSize():
                thresholds.setdefault(metric, []).append(_per_slice(feature, threshold))
    for metric in dict.fromkeys((*reported, *thresholds)):
        per_slice = thresholds.get(metric, [])
        if metric in TFMA_CLASSES:
            result.metrics.add(class_name=TFMA_CLASSES[metric], per_slice_thresholds=per_slice)
        else:
            result.per_slice_thresholds[metric].thresholds.extend(per_slice)
    return result


def _threshold(bounds: list[_Bound], compare: bool) -> config_pb2.MetricThreshold:
    result = config_pb2.MetricThreshold()
    for bound in bounds:
        if not bound.is_change:
            if bound.low is not None:
                result.value_threshold.lower_bound.value = bound.low
            if bound.high is not None:
                result.value_threshold.upper_bound.value = bound.high
        elif compare and bound.low is not None:
            result.change_threshold.absolute.value = bound.low
            result.change_threshold.direction = config_pb2.MetricDirection.HIGHER_IS_BETTER
        elif compare and bound.high is not None:
            result.change_threshold.absolute.value = bound.high
            result.change_threshold.direction = config_pb2.MetricDirection.LOWER_IS_BETTER
    return result


def _per_slice(
    feature: str | None, threshold: config_pb2.MetricThreshold
) -> config_pb2.PerSliceMetricThreshold:
    """Applies a threshold to each value of a feature, or, for None, to all events only."""
    slicing = config_pb2.SlicingSpec(feature_keys=[feature] if feature else [])
    return config_pb2.PerSliceMetricThreshold(slicing_specs=[slicing], threshold=threshold)
