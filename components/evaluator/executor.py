"""The work of `Evaluator`."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from absl import logging
from tfx import types
from tfx.components.evaluator import constants, executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import io_utils, proto_utils

from components.evaluator import results
from components.evaluator.eval_config import eval_config
from components.evaluator.verdict import OVERALL, Verdict, decide
from components.run_plan import RunPlan, load_plan
from trainer_module.stability.report import load_verdict

VERDICT_FILE = "verdict.json"


class Executor(executor.Executor):
    """TFX's executor, with the verdict drawn from its results; a refused model is not loaded."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Does the work; see `component.Evaluator`."""
        inputs = dict(input_dict)
        plan = load_plan(artifact_utils.get_single_uri(inputs.pop("plan")))
        stability = load_verdict(artifact_utils.get_single_uri(inputs.pop("stability")))
        infra_blessing = artifact_utils.get_single_instance(inputs.pop("infra_blessing"))
        refused = infra_blessing.get_string_custom_property("reasons").splitlines()
        if not refused and stability.verdict == "diverged":
            # There is no model, and were there one, no metric could speak for it.
            refused = [f"training {stability.summary}"]
        if refused:
            # It may abort or hang, and nothing ends that in this process.
            _publish(Verdict(blessed=False, reasons=tuple(refused)), {}, output_dict)
            return
        compare = plan.baseline_version is not None
        if not compare:
            inputs.pop("baseline_model")
        config = eval_config(plan.spec, compare=compare)
        properties = {**exec_properties, "eval_config": proto_utils.proto_to_json(config)}
        super().Do(inputs, output_dict, properties)
        verdict, metrics = _judge(artifact_utils.get_single_uri(output_dict["evaluation"]), plan)
        _publish(verdict, metrics, output_dict)


def _judge(path: str, plan: RunPlan) -> tuple[Verdict, dict[str, results.Metrics]]:
    metrics = results.load_metrics(path)
    events = {
        name: tasks.get("", {}).get("example_count", 0.0)
        for name, tasks in metrics["candidate"].items()
    }
    failures = results.load_failures(path) + results.unlabelled(metrics["candidate"])
    verdict = decide(failures, events, plan.spec.min_slice_events)
    return verdict, metrics


def _publish(
    verdict: Verdict,
    metrics: dict[str, results.Metrics],
    output_dict: dict[str, list[types.Artifact]],
) -> None:
    """Writes the verdict for people, and the blessing in place of TFX's."""
    for line in (*verdict.reasons, *verdict.notes):
        logging.warning("Evaluator: %s", line)
    evaluation = artifact_utils.get_single_instance(output_dict["evaluation"])
    content = {**dataclasses.asdict(verdict), "metrics": metrics}
    io_utils.write_string_file(
        os.path.join(evaluation.uri, VERDICT_FILE), json.dumps(content, indent=2)
    )
    overall = {model: slices.get(OVERALL, {}) for model, slices in metrics.items()}
    evaluation.set_string_custom_property("metrics", json.dumps(overall))

    blessing = artifact_utils.get_single_instance(output_dict["blessing"])
    names = {True: constants.BLESSED_FILE_NAME, False: constants.NOT_BLESSED_FILE_NAME}
    wrong = os.path.join(blessing.uri, names[not verdict.blessed])
    if fileio.exists(wrong):
        fileio.remove(wrong)
    io_utils.write_string_file(os.path.join(blessing.uri, names[verdict.blessed]), "")
    blessing.set_int_custom_property(
        constants.ARTIFACT_PROPERTY_BLESSED_KEY, 1 if verdict.blessed else 0
    )
    blessing.set_string_custom_property("reasons", "\n".join(verdict.reasons))
