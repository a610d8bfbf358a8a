"""TFMA's evaluator for batches: the same metrics and validations, summed up a batch at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.evaluators import metrics_validator
from tensorflow_model_analysis.proto import config_pb2

from components.evaluator import inference
from components.evaluator.eval_config import BASELINE, CANDIDATE, TFMA_CLASSES
from components.evaluator.metrics import (
    Moments,
    TaskSums,
    auc_lift,
    merge_tasks,
    moments_by_group,
    rankings_by_group,
    score_change,
)
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask
from trainer_module import signatures

SliceKey = tuple[tuple[str, str | int], ...]

_MERGED_AT_ONCE = 16


@dataclasses.dataclass(frozen=True)
class SliceSums:
    """What the metrics of one slice follow from.

    Attributes:
        events: number of events.
        models: sums by model and output.
        scores: of the scores, as labels of weight 1, by model.
    """

    events: int
    models: Mapping[str, Mapping[str, TaskSums]]
    scores: Mapping[str, Moments]


def batch_evaluator(
    spec: RankingSpec, eval_config: config_pb2.EvalConfig
) -> tfma.evaluators.Evaluator:
    """Makes the evaluator that takes the place of TFMA's own, which works event by event.

    Its metrics and validations have the keys and the meaning of TFMA's, so that TFMA's
    writers and readers take them. Where there are no events to tell, a metric is NaN.

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
        metrics = (
            extracts
            | "SumUp" >> beam.FlatMap(sum_up, self._spec)
            | "MergeSlices" >> beam.CombinePerKey(_MergeSums())
            | "Metrics" >> beam.MapTuple(lambda key, sums: (key, metrics_of(sums)))
        )
        validations = metrics | "Validate" >> beam.Map(
            metrics_validator.validate_metrics, self._eval_config
        )
        return {tfma.METRICS_KEY: metrics, tfma.VALIDATIONS_KEY: validations}


def sum_up(extracts: Mapping[str, Any], spec: RankingSpec) -> Iterator[tuple[SliceKey, SliceSums]]:
    """Sums up a batch: over all of its events, and over those of each value of a slice."""
    predictions = extracts[tfma.PREDICTIONS_KEY]
    events = len(next(iter(extracts[tfma.LABELS_KEY].values())))
    slicings: list[tuple[str, inference.Slices]] = [
        ("", inference.Slices(("",), np.zeros(events, np.int64))),
        *extracts[tfma.FEATURES_KEY].items(),
    ]
    for feature, slices in slicings:
        inside = slices.codes >= 0
        codes, number = slices.codes[inside], len(slices.values)
        counts = np.bincount(codes, minlength=number)
        models, scores = {}, {}
        for model, outputs in predictions.items():
            if signatures.SCORE in outputs:
                score = outputs[signatures.SCORE][inside]
                ones = np.ones_like(score)
                scores[model] = moments_by_group(score, score, ones, codes, number)
            models[model] = {
                name: _sum_output(
                    extracts[tfma.LABELS_KEY][name][inside],
                    prediction[inside],
                    extracts[tfma.EXAMPLE_WEIGHTS_KEY][name][inside],
                    codes,
                    number,
                    ranked=isinstance(spec.tasks.get(name), BinaryTask),
                )
                for name, prediction in outputs.items()
                if name in extracts[tfma.LABELS_KEY]
            }
        for code, value in enumerate(slices.values):
            sums = {
                model: {name: parts[code] for name, parts in outputs.items()}
                for model, outputs in models.items()
            }
            yield (
                ((feature, value),) if feature else (),
                SliceSums(int(counts[code]), sums, {model: s[code] for model, s in scores.items()}),
            )


def _sum_output(
    labels: Any, predictions: Any, weights: Any, groups: Any, number: int, *, ranked: bool
) -> list[TaskSums]:
    moments = moments_by_group(labels, predictions, weights, groups, number)
    if not ranked:
        return [TaskSums(item) for item in moments]
    labelled = weights > 0
    rankings = rankings_by_group(
        labels[labelled], predictions[labelled], weights[labelled], groups[labelled], number
    )
    return [TaskSums(*pair) for pair in zip(moments, rankings, strict=True)]


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
    return SliceSums(
        sum(item.events for item in sums),
        {model: merge_tasks([item.models[model] for item in sums]) for model in sums[0].models},
        {model: sum((item.scores[model] for item in sums), Moments()) for model in sums[0].scores},
    )


def metrics_of(sums: SliceSums) -> dict[tfma.metrics.MetricKey, float]:
    """Returns a slice's metrics, of each model and their differences, by TFMA's keys."""
    metrics = {}
    models = dict(sums.models)
    rates = models.pop(inference.RATES, {})
    for model, tasks in models.items():
        count = tfma.metrics.MetricKey("example_count", model, example_weighted=False)
        metrics[count] = float(sums.events)
        for task, task_sums in tasks.items():
            for name, value in task_sums.metrics().items():
                metrics[_key(name, model, task)] = value
        for task, of_rates in rates.items():
            lift = auc_lift(tasks[task], of_rates)
            metrics[_key("auc_lift", model, task)] = lift
    for key, value in list(metrics.items()):
        served = metrics.get(key.make_baseline_key(BASELINE))
        if key.model_name != BASELINE and served is not None:
            metrics[key.make_diff_key()] = value - served
    if BASELINE in sums.scores:
        for name, value in score_change(sums.scores[CANDIDATE], sums.scores[BASELINE]).items():
            metrics[_key(name, CANDIDATE, signatures.SCORE)] = value
    return metrics


def _key(name: str, model: str, output: str) -> tfma.metrics.MetricKey:
    # A threshold of a metric that TFMA has no class for has a key without this.
    weighted = True if name in TFMA_CLASSES else None
    return tfma.metrics.MetricKey(name, model, output, example_weighted=weighted)
