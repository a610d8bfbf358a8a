"""The verdict on one day as an HTML page, of what the Evaluator knows: no other day, no push."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from typing import Any

from components import properties, storage
from components.channels import Channels
from components.evaluator.bounds import BASELINE, CANDIDATE, bounds_of
from components.evaluator.scores import OVERALL, scores_of, slices_worth_a_look
from components.pages import templates
from components.run_plan import RunPlan
from trainer_module.stability.outcome import Stability

PAGE_FILE = "page.html"

_PICTURES = {"loss_and_auc.png": "Loss and AUC over training", "event.png": "The worst event"}
"""Of those that `trainer_module.stability.writing` makes: what each shows."""


def write_page(
    inputs: Channels,
    outputs: Channels,
    plan: RunPlan,
    stability: Stability,
    judged: Mapping[str, Any],
    said: Sequence[str],
) -> None:
    """Writes the page into the output `page`.

    Args:
        inputs: the Evaluator's; what `examples` and `stability` say of themselves is shown.
        outputs: the Evaluator's. Where `page` has no folder, the page is the object at its URI:
            Kubeflow's UI shows that.
        plan: the run's plan.
        stability: the verdict on the training.
        judged: the content of the Evaluator's `verdict.json`.
        said: what `verdict.figures` says of each output.
    """
    pictures = {}
    for name, what in _PICTURES.items():
        path = os.path.join(inputs.uri("stability"), name)
        if storage.exists(path):
            with storage.open(path, "rb") as file:
                pictures[what] = file.read()
    examples = inputs["examples"]
    text = render(
        plan,
        stability,
        judged,
        said=said,
        training=properties.TRAINING.get(inputs["stability"]),
        events=properties.events_of(lambda what: what.get(examples)),
        remarks=properties.INGESTION_NOTES.get(examples),
        pictures=pictures,
    )
    path = outputs.uri("page")
    if storage.isdir(path):
        path = os.path.join(path, PAGE_FILE)
    with storage.open(path, "w") as file:
        file.write(text)


def render(
    plan: RunPlan,
    stability: Stability,
    judged: Mapping[str, Any],
    *,
    said: Sequence[str] = (),
    training: str = "",
    events: Mapping[str, int] | None = None,
    remarks: Sequence[str] = (),
    pictures: Mapping[str, bytes] | None = None,
) -> str:
    """Returns the page; all text in it is escaped.

    Args:
        plan: the run's plan.
        stability: the verdict on the training.
        judged: the content of the Evaluator's `verdict.json`.
        said: what `verdict.figures` says of each output.
        training: in how many steps it trained.
        events: as of `properties.events_of`.
        remarks: of the steps before.
        pictures: PNG images by what they show.
    """
    metrics = judged["metrics"]
    candidate = metrics.get(CANDIDATE, {}).get(OVERALL, {})
    failed = {(name, task) for name, task in judged["failed"]}
    bounds = bounds_of(plan.spec, compare=BASELINE in metrics)
    scores = scores_of(
        {task: values for task, values in candidate.items() if task in plan.spec.tasks},
        metrics.get(BASELINE, {}).get(OVERALL, {}),
        plan.spec.tasks,
        judged["intervals"].get(CANDIDATE, {}).get(OVERALL, {}),
    )
    return (
        templates.environment("components.evaluator")
        .get_template("verdict.html")
        .render(
            plan=plan,
            stability=stability,
            judged=judged,
            tasks=[
                (
                    score,
                    candidate[score.task].get("calibration"),
                    bounds[score.task][None],
                    (OVERALL, score.task) in failed,
                )
                for score in scores
            ],
            slices=slices_worth_a_look(metrics, failed, plan.spec) if candidate else [],
            said=said,
            training=training,
            events=events,
            remarks=[*remarks, *judged["notes"]],
            pictures={
                what: base64.b64encode(image).decode() for what, image in (pictures or {}).items()
            },
        )
    )
