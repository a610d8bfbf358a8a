"""TFMA's evaluator for batches: the same metrics and validations, summed up a batch at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.api.types import ValueWithTDistribution
from tensorflow_model_analysis.evaluators import metrics_validator
from tensorflow_model_analysis.proto import config_pb2

from components.evaluator import groups, inference
from components.evaluator.bounds import BASELINE, CANDIDATE, Bounds, bounds_of, kind_of
from components.evaluator.estimates import Estimate, estimate
from components.evaluator.metrics import COMPARISONS, METRICS
from components.evaluator.sums import Floats, Sums, merge, sums_by_group
from schemas import formula
from schemas.spec import RankingSpec
from trainer_module import signatures

SliceKey = tuple[tuple[str, str | int], ...]

_MERGED_AT_ONCE = 16


@dataclasses.dataclass(frozen=True)
class SliceSums:
    """What the metrics of one slice follow from.

    Attributes:
        events: number of events.
        models: sums by model and output.
    """

    events: int
    models: Mapping[str, Mapping[str, Sums]]


def batch_evaluator(
    spec: RankingSpec, eval_config: config_pb2.EvalConfig
) -> tfma.evaluators.Evaluator:
    """Makes the evaluator that takes the place of TFMA's own, which works event by event.

    Its metrics and validations have the keys and the meaning of TFMA's, so that TFMA's
    writers and readers take them; a validation's value is the one that is judged. Where there
    are no events to tell, a metric is NaN.

    Args:
        spec: the ranking spec.
        eval_config: of `eval_config`, with TFMA's defaults filled in.

    Returns:
        An evaluator of the extracts of `inference.prediction_extractor`.
    """
    return tfma.evaluators.Evaluator(
        stage_name="EvaluateBatches",
        run_after=inference.STAGE,
        ptransform=_Evaluate(spec, eval_config),
    )


class _Evaluate(beam.PTransform):
    def __init__(self, spec: RankingSpec, eval_config: config_pb2.EvalConfig):
        super().__init__()
        self._spec = spec
        self._eval_config = eval_config

    def expand(self, extracts: beam.PCollection) -> dict[str, beam.PCollection]:
        spec, eval_config = self._spec, self._eval_config
        compare = any(model.is_baseline for model in eval_config.model_specs)
        sums = [extracts | "SumUp" >> beam.FlatMap(sum_up, spec)]
        if spec.evaluation.group_by is not None:
            sums.append(
                extracts
                | "DealOut" >> beam.FlatMap(deal_out, spec)
                | "Groups" >> beam.GroupByKey()
                | "SumUpGroups"
                >> beam.FlatMapTuple(lambda block, parts: sum_up_groups(block, parts, spec))
            )
        metrics = (
            sums
            | "All" >> beam.Flatten()
            | "MergeSlices" >> beam.CombinePerKey(_MergeSums())
            | "Metrics" >> beam.MapTuple(lambda key, sums: (key, metrics_of(sums, spec)))
        )
        bounds = bounds_of(spec, compare=compare)
        validations = metrics | "Validate" >> beam.MapTuple(
            lambda key, found: validate(key, found, bounds, eval_config)
        )
        return {tfma.METRICS_KEY: metrics, tfma.VALIDATIONS_KEY: validations}


def sum_up(extracts: Mapping[str, Any], spec: RankingSpec) -> Iterator[tuple[SliceKey, SliceSums]]:
    """Sums up a batch: over all of its events, and over those of each value of a slice."""
    labels, weights = dict(extracts[tfma.LABELS_KEY]), extracts[tfma.EXAMPLE_WEIGHTS_KEY]
    if (served := extracts[tfma.PREDICTIONS_KEY].get(BASELINE)) is not None:
        labels[signatures.SCORE] = served[signatures.SCORE]
    blocks = extracts[inference.BLOCKS_KEY]
    events = len(blocks)
    slicings: list[tuple[str, inference.Slices]] = [
        ("", inference.Slices(("",), np.zeros(events, np.int64))),
        *extracts[tfma.FEATURES_KEY].items(),
    ]
    for feature, slices in slicings:
        inside = slices.codes >= 0
        codes, number = slices.codes[inside], len(slices.values)
        counts = np.bincount(codes, minlength=number)
        models = {
            model: {
                output: sums_by_group(
                    kind_of(spec, output),
                    labels.get(output, prediction)[inside],
                    prediction[inside],
                    weights.get(output, np.ones(events))[inside],
                    blocks[inside],
                    codes,
                    number,
                )
                for output, prediction in outputs.items()
            }
            for model, outputs in extracts[tfma.PREDICTIONS_KEY].items()
        }
        for code, value in enumerate(slices.values):
            sums = {
                model: {output: parts[code] for output, parts in outputs.items()}
                for model, outputs in models.items()
            }
            yield ((feature, value),) if feature else (), SliceSums(int(counts[code]), sums)


def deal_out(
    extracts: Mapping[str, Any], spec: RankingSpec
) -> Iterator[tuple[int, groups.GroupedEvents]]:
    """Deals out a batch's events that have a group, by block."""
    inside = extracts[inference.GROUPS_KEY] >= 0
    labels, weights = extracts[tfma.LABELS_KEY], extracts[tfma.EXAMPLE_WEIGHTS_KEY]
    known = {n: np.where(weights[n] > 0, labels[n], math.nan)[inside] for n in spec.tasks}
    known[signatures.SCORE] = _gain(known, spec)
    slices = {}
    for feature, of_feature in extracts[tfma.FEATURES_KEY].items():
        values = np.array([*of_feature.values, None], object)
        slices[feature] = values[of_feature.codes[inside]]
    predictions = {
        model: {name: outputs[name][inside] for name in known}
        for model, outputs in extracts[tfma.PREDICTIONS_KEY].items()
        if model != inference.RATES
    }
    events, of_events = (
        extracts[key][inside] for key in (inference.GROUPS_KEY, inference.EVENTS_KEY)
    )
    yield from groups.deal(groups.GroupedEvents(events, of_events, slices, known, predictions))


def _gain(labels: Mapping[str, Floats], spec: RankingSpec) -> Floats:
    """The score's formula on the labels in their units; NaN where it lacks one it reads."""
    in_units = {
        name: np.expm1(labels[name]) if getattr(task, "transform", "") == "log1p" else labels[name]
        for name, task in spec.tasks.items()
    }
    functions = {name: getattr(np, name) for name in formula.FUNCTIONS}
    with np.errstate(all="ignore"):
        score = formula.parse(spec.serving.score, names=spec.tasks)
        gain = np.asarray(formula.evaluate(score, in_units, functions))
    return np.where(np.isfinite(gain), gain, math.nan).astype(np.float32)


def sum_up_groups(
    block: int, parts: Iterable[groups.GroupedEvents], spec: RankingSpec
) -> Iterator[tuple[SliceKey, SliceSums]]:
    """Sums up what the groups of a block say; see `groups.sum_groups`."""
    kinds = {name: kind_of(spec, name) for name in (*spec.tasks, signatures.SCORE)}
    for key, models in groups.sum_groups(block, parts, kinds, spec.evaluation.ndcg_at):
        yield key, SliceSums(0, models)


class _MergeSums(beam.CombineFn):
    """Merges sums, several at once, for merging rankings means sorting them."""

    def create_accumulator(self) -> list[SliceSums]:
        return []

    def add_input(self, sums: list[SliceSums], new: SliceSums) -> list[SliceSums]:
        sums.append(new)
        return [_merge(sums)] if len(sums) >= _MERGED_AT_ONCE else sums

    def merge_accumulators(self, several: Iterable[list[SliceSums]]) -> list[SliceSums]:
        sums: list[SliceSums] = []
        for other in several:
            for new in other:
                sums = self.add_input(sums, new)
        return sums

    def compact(self, sums: list[SliceSums]) -> list[SliceSums]:
        return [_merge(sums)] if sums else sums

    def extract_output(self, sums: list[SliceSums]) -> SliceSums:
        return _merge(sums)


def _merge(sums: list[SliceSums]) -> SliceSums:
    if len(sums) == 1:
        return sums[0]
    parts: dict[str, dict[str, list[Sums]]] = {}
    for item in sums:
        for model, outputs in item.models.items():
            for output, of_output in outputs.items():
                parts.setdefault(model, {}).setdefault(output, []).append(of_output)
    return SliceSums(
        sum(item.events for item in sums),
        {
            model: {output: merge(several) for output, several in outputs.items()}
            for model, outputs in parts.items()
        },
    )


def metrics_of(sums: SliceSums, spec: RankingSpec) -> dict[tfma.metrics.MetricKey, Any]:
    """Computes a slice's metrics, of each model and their differences, by TFMA's keys.

    Values come with their standard errors, in TFMA's form, where these can be told.
    """
    models = dict(sums.models)
    rates = models.pop(inference.RATES, {})
    metrics: dict[tfma.metrics.MetricKey, Any] = {}
    for model, outputs in models.items():
        count = tfma.metrics.MetricKey("example_count", model, example_weighted=False)
        metrics[count] = float(sums.events)
        served = models.get(BASELINE) if model == CANDIDATE else None
        if served is not None:
            metrics[count.make_diff_key()] = 0.0
        for output, of_output in outputs.items():
            kind = kind_of(spec, output)
            for metric in METRICS:
                if kind not in metric.kinds or metric.weight not in of_output.columns:
                    continue
                weights = of_output.columns[metric.weight]
                place = _key(metric.name, model, output, weighted=metric.tfma is not None)
                values = metric.estimate(of_output)
                metrics[place] = _with_error(values, weights)
                if served is not None:
                    change = values - metric.estimate(served[output])
                    metrics[place.make_diff_key()] = _with_error(change, weights)
            for comparison in COMPARISONS:
                other = (served if comparison.served else rates) or {}
                if kind in comparison.kinds and output in other:
                    place = _key(comparison.name, model, output, weighted=False)
                    values = comparison.estimate(of_output, other[output])
                    metrics[place] = _with_error(values, of_output.columns["weight"])
    return metrics


def _key(name: str, model: str, output: str, *, weighted: bool) -> tfma.metrics.MetricKey:
    # The threshold of a metric that TFMA has no class for has a key with None, not with False.
    return tfma.metrics.MetricKey(name, model, output, example_weighted=weighted or None)


def _with_error(values: Floats, weights: Floats) -> Any:
    found = estimate(values, weights)
    if np.isnan(found.error):
        return found.value
    return ValueWithTDistribution(found.value, found.error, found.freedom, found.value)


def validate(
    key: SliceKey,
    metrics: Mapping[tfma.metrics.MetricKey, Any],
    bounds: Bounds,
    eval_config: config_pb2.EvalConfig,
) -> Any:
    """Lets TFMA hold a slice's metrics to their thresholds, each by its judged value.

    Args:
        key: of the slice.
        metrics: of `metrics_of`.
        bounds: of the spec.
        eval_config: with the same as thresholds.

    Returns:
        TFMA's ValidationResult.
    """
    feature = key[0][0] if key else None
    judged = {place: float(value) for place, value in metrics.items()}
    for place, value in metrics.items():
        for bound in bounds.get(place.output_name, {}).get(feature, ()):
            if (
                place.name == bound.metric
                and place.is_diff == bound.is_change
                and place.model_name != BASELINE
            ):
                judged[place] = bound.judged(_estimate(value))
    return metrics_validator.validate_metrics((key, judged), eval_config)


def _estimate(value: Any) -> Estimate:
    if isinstance(value, ValueWithTDistribution):
        return Estimate(
            value.unsampled_value, value.sample_standard_deviation, value.sample_degrees_of_freedom
        )
    return Estimate(value)
