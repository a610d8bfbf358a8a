"""The work of `Evaluator`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import tensorflow_model_analysis as tfma
from absl import logging
from tfx.components.evaluator import constants
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.utils import io_utils, path_utils

from components import properties
from components.channels import EVAL, Channels, Given
from components.evaluator import inference, results
from components.evaluator.batch_evaluator import batch_evaluator
from components.evaluator.bounds import BASELINE, CANDIDATE
from components.evaluator.eval_config import eval_config
from components.evaluator.page import write_page
from components.evaluator.scores import OVERALL
from components.evaluator.verdict import (
    CHANGE,
    Estimates,
    Verdict,
    decide,
    figures,
    in_order,
    intervals_of,
    values_of,
)
from components.example_reading import ReadFiles
from components.run_plan import RunPlan
from components.smoothed_rates import RATES_FILE
from schemas.spec import RankingSpec
from trainer_module.stability.outcome import Stability, load_verdict

VERDICT_FILE = "verdict.json"


class Executor(base_beam_executor.BaseBeamExecutor):
    """Evaluates by TFMA and draws the verdict from its results; a refused model is not loaded."""

    def Do(  # noqa: N802
        self, input_dict: Given, output_dict: Given, exec_properties: dict[str, Any]
    ) -> None:
        """Does the work; see `component.Evaluator`."""
        inputs, outputs = Channels(input_dict), Channels(output_dict)
        plan = inputs.plan()
        stability = load_verdict(inputs.uri("stability"))
        estimates: Mapping[str, Estimates] = {}
        if refused := _refused(inputs["infra_blessing"], stability):
            # It may abort or hang, and nothing ends that in this process.
            verdict = Verdict(blessed=False, reasons=tuple(refused))
        else:
            verdict, estimates = self._judge(inputs, outputs, plan)
        said = list(figures(estimates, plan.spec))
        judged = _publish(verdict, estimates, outputs, said)
        write_page(inputs, outputs, plan, stability, judged, said)

    def _judge(
        self, inputs: Channels, outputs: Channels, plan: RunPlan
    ) -> tuple[Verdict, Mapping[str, Estimates]]:
        """Evaluates the model; returns the verdict, and estimates by model."""
        models = {CANDIDATE: inputs.uri("model")}
        if plan.baseline_version is not None:
            models[BASELINE] = inputs.uri("baseline_model")
        evaluation = outputs.uri("evaluation")
        with self._make_beam_pipeline() as pipeline:
            evaluate(
                pipeline,
                plan.spec,
                {name: path_utils.serving_model_path(uri) for name, uri in models.items()},
                inputs.split("examples", EVAL),
                evaluation,
                os.path.join(inputs.uri("examples"), RATES_FILE),
            )
        estimates = results.load_estimates(evaluation)
        verdict = decide(results.load_breaches(evaluation, plan.spec), estimates, plan.spec)
        estimates = {
            model: in_order(found, ("", *plan.spec.tasks)) for model, found in estimates.items()
        }
        return verdict, estimates


def _refused(infra: Any, stability: Stability) -> Sequence[str]:
    """Why a model is not to be evaluated; empty if it is."""
    if reasons := properties.UNSERVABLE_REASONS.get(infra):
        return reasons
    if stability.verdict == "diverged":
        # There is no model; if there were one, no metric could speak for it.
        return (f"training {stability.summary}",)
    if properties.SERVABLE.get(infra) != 1:
        return (
            f"{infra.uri}: does not say whether ServingCheck could serve the model; run the day "
            "again",
        )
    return ()


def evaluate(
    pipeline: beam.Pipeline,
    spec: RankingSpec,
    models: Mapping[str, str],
    examples: str,
    output: str,
    rates: str | None = None,
) -> None:
    """Lets TFMA evaluate, by whole batches where its own way is event by event.

    Args:
        pipeline: the pipeline to add to.
        spec: the ranking spec.
        models: folders of the SavedModels: that of `CANDIDATE` and, to compare, of `BASELINE`.
        examples: folder of the encoded events.
        output: folder of TFMA's results.
        rates: file of `Rates`, to evaluate beside the models.
    """
    compare = BASELINE in models
    config = tfma.utils.update_eval_config_with_defaults(
        eval_config(spec, compare=compare), has_baseline=compare
    )
    # TFMA names a model only where there are several.
    names = models if compare else {"": models[CANDIDATE]}
    shared = [
        tfma.default_eval_shared_model(path, model_name=name, eval_config=config)
        for name, path in names.items()
    ]
    _ = (
        pipeline
        | "ReadBatches" >> ReadFiles(os.path.join(examples, "*"), inference.read_batches)
        | "Evaluate"
        >> tfma.ExtractEvaluateAndWriteResults(
            eval_shared_model=shared,
            eval_config=config,
            extractors=[inference.prediction_extractor(spec, names, rates)],
            evaluators=[batch_evaluator(spec, config)],
            output_path=output,
        )
    )


def _publish(
    verdict: Verdict,
    estimates: Mapping[str, Estimates],
    outputs: Channels,
    lines: Sequence[str],
) -> dict[str, Any]:
    """Writes the verdict for people, and the blessing in place of TFX's.

    Returns:
        What the verdict's file holds.
    """
    for line in (*verdict.reasons, *verdict.notes, *verdict.not_gated):
        logging.warning("Evaluator: %s", line)
    evaluation = outputs["evaluation"]
    metrics = {m: values_of(found) for m, found in estimates.items() if m != CHANGE}
    content: dict[str, Any] = {
        **dataclasses.asdict(verdict),
        "metrics": metrics,
        "intervals": {model: intervals_of(found) for model, found in estimates.items()},
    }
    io_utils.write_string_file(
        os.path.join(evaluation.uri, VERDICT_FILE), json.dumps(content, indent=2)
    )
    for said in (properties.METRICS, properties.INTERVALS):
        found = content[said.name]
        said.set(evaluation, {model: slices.get(OVERALL, {}) for model, slices in found.items()})
    properties.EVALUATION_NOTES.set(evaluation, [*lines, *verdict.notes])
    properties.NOT_GATED.set(evaluation, verdict.not_gated)

    blessing = outputs["blessing"]
    names = {True: constants.BLESSED_FILE_NAME, False: constants.NOT_BLESSED_FILE_NAME}
    wrong = os.path.join(blessing.uri, names[not verdict.blessed])
    if fileio.exists(wrong):
        fileio.remove(wrong)
    io_utils.write_string_file(os.path.join(blessing.uri, names[verdict.blessed]), "")
    properties.BLESSED.set(blessing, 1 if verdict.blessed else 0)
    properties.REFUSED_REASONS.set(blessing, verdict.reasons)
    return content
