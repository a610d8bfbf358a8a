"""The TFMA configuration that follows from a ranking spec."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.evaluator.bounds import BASELINE, CANDIDATE, Bound, bounds_of, kind_of
from components.evaluator.metrics import METRICS
from schemas.spec import RankingSpec
from trainer_module import signatures


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
    for output, by_slice in bounds_of(spec, compare=compare).items():
        of_output = _output_metrics(output, kind_of(spec, output), by_slice)
        if of_output.metrics or of_output.per_slice_thresholds:
            metrics.append(of_output)
    return config_pb2.EvalConfig(model_specs=models, slicing_specs=slices, metrics_specs=metrics)


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
    output: str, kind: str, by_slice: Mapping[str | None, Sequence[Bound]]
) -> config_pb2.MetricsSpec:
    """Metrics of one output; bounds by the feature they are for, None for all events."""
    result = config_pb2.MetricsSpec(output_names=[output])
    thresholds: dict[str, list[config_pb2.PerSliceMetricThreshold]] = {}
    for feature, bounds in by_slice.items():
        for name in dict.fromkeys(bound.metric for bound in bounds):
            threshold = _threshold([bound for bound in bounds if bound.metric == name])
            thresholds.setdefault(name, []).append(_per_slice(feature, threshold))
    for metric in METRICS:
        if kind in metric.kinds and metric.tfma:
            result.metrics.add(
                class_name=metric.tfma,
                config=json.dumps({"name": metric.name}),
                per_slice_thresholds=thresholds.pop(metric.name, []),
            )
    for name, per_slice in thresholds.items():
        result.per_slice_thresholds[name].thresholds.extend(per_slice)
    return result


def _threshold(bounds: Sequence[Bound]) -> config_pb2.MetricThreshold:
    result = config_pb2.MetricThreshold()
    for bound in bounds:
        if not bound.is_change:
            if bound.low is not None:
                result.value_threshold.lower_bound.value = bound.low
            if bound.high is not None:
                result.value_threshold.upper_bound.value = bound.high
        elif bound.low is not None:
            result.change_threshold.absolute.value = bound.low
            result.change_threshold.direction = config_pb2.MetricDirection.HIGHER_IS_BETTER
        elif bound.high is not None:
            result.change_threshold.absolute.value = bound.high
            result.change_threshold.direction = config_pb2.MetricDirection.LOWER_IS_BETTER
    return result


def _per_slice(
    feature: str | None, threshold: config_pb2.MetricThreshold
) -> config_pb2.PerSliceMetricThreshold:
    """Applies a threshold to each value of a feature, or, for None, to all events only."""
    slicing = config_pb2.SlicingSpec(feature_keys=[feature] if feature else [])
    return config_pb2.PerSliceMetricThreshold(slicing_specs=[slicing], threshold=threshold)
