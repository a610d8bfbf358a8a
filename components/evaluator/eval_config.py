"""The TFMA configuration that follows from a ranking spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from schemas.spec import BinaryBounds, BinaryTask, RankingSpec, RegressionBounds, Task
from trainer_module import signatures

CANDIDATE = "candidate"
BASELINE = "baseline"


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
    metrics += [_task_metrics(name, task, compare) for name, task in spec.tasks.items()]
    metrics.append(_finite_metrics())
    return config_pb2.EvalConfig(model_specs=models, slicing_specs=slices, metrics_specs=metrics)


def metric_name(task: Task) -> str:
    """Name in TFMA's results of the metric that a task is judged by."""
    return "auc" if isinstance(task, BinaryTask) else "root_mean_squared_error"


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


def _task_metrics(name: str, task: Task, compare: bool) -> config_pb2.MetricsSpec:
    class_name = "AUC" if isinstance(task, BinaryTask) else "RootMeanSquaredError"
    metrics = [
        _gated(class_name, task.gate, task.gate.slices, compare),
        _calibration(task.gate, task.gate.slices),
    ]
    if task.optional:
        # Of the others every event carries the label.
        metrics.append(config_pb2.MetricConfig(class_name="WeightedExampleCount"))
    return config_pb2.MetricsSpec(output_names=[name], metrics=metrics)


def _finite_metrics() -> config_pb2.MetricsSpec:
    """Every prediction on the run date must be finite, not only the sampled ones."""
    all_finite = config_pb2.MetricThreshold(
        value_threshold=config_pb2.GenericValueThreshold(lower_bound={"value": 1.0 - 1e-12})
    )
    return config_pb2.MetricsSpec(
        output_names=[signatures.FINITE],
        metrics=[config_pb2.MetricConfig(class_name="MeanPrediction", threshold=all_finite)],
    )


def _gated(
    class_name: str,
    bounds: BinaryBounds | RegressionBounds,
    slices: Mapping[str, BinaryBounds] | Mapping[str, RegressionBounds],
    compare: bool,
) -> config_pb2.MetricConfig:
    by_slice: list[tuple[str | None, Any]] = [(None, bounds), *slices.items()]
    return config_pb2.MetricConfig(
        class_name=class_name,
        per_slice_thresholds=[
            _per_slice(name, _threshold(item, compare)) for name, item in by_slice
        ],
    )


def _threshold(
    bounds: BinaryBounds | RegressionBounds, compare: bool
) -> config_pb2.MetricThreshold:
    result = config_pb2.MetricThreshold()
    if isinstance(bounds, BinaryBounds):
        result.value_threshold.lower_bound.value = bounds.min_auc
        change = None if bounds.max_auc_drop is None else -bounds.max_auc_drop
        direction = config_pb2.MetricDirection.HIGHER_IS_BETTER
    else:
        result.value_threshold.upper_bound.value = bounds.max_rmse
        change = bounds.max_rmse_rise
        direction = config_pb2.MetricDirection.LOWER_IS_BETTER
    if compare and change is not None:
        result.change_threshold.absolute.value = change
        result.change_threshold.direction = direction
    return result


def _calibration(
    bounds: BinaryBounds | RegressionBounds,
    slices: Mapping[str, BinaryBounds] | Mapping[str, RegressionBounds],
) -> config_pb2.MetricConfig:
    by_slice: list[tuple[str | None, Any]] = [(None, bounds), *slices.items()]
    return config_pb2.MetricConfig(
        class_name="Calibration",
        per_slice_thresholds=[
            _per_slice(name, _range(*item.calibration))
            for name, item in by_slice
            if item.calibration is not None
        ],
    )


def _range(low: float, high: float) -> config_pb2.MetricThreshold:
    return config_pb2.MetricThreshold(
        value_threshold=config_pb2.GenericValueThreshold(
            lower_bound={"value": low}, upper_bound={"value": high}
        )
    )


def _per_slice(
    feature: str | None, threshold: config_pb2.MetricThreshold
) -> config_pb2.PerSliceMetricThreshold:
    """Applies a threshold to each value of a feature, or, for None, to all events only."""
    slicing = config_pb2.SlicingSpec(feature_keys=[feature] if feature else [])
    return config_pb2.PerSliceMetricThreshold(slicing_specs=[slicing], threshold=threshold)
