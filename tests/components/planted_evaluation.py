"""An evaluation of models that answer what each event says, by the Evaluator's executor."""

import dataclasses
import datetime
import json
import os

import numpy as np
from executions import artifact
from markupsafe import escape
from planted_model import write_examples
from stability_reports import HEALTHY, write_stability
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import standard_artifacts
from tfx.utils import io_utils

from components import artifacts
from components.evaluator.executor import VERDICT_FILE, Executor
from components.run_plan import RunPlan
from components.smoothed_rates import RATES_FILE, Counter, Rates
from pipeline.dag import with_code
from schemas.loading import parse_spec
from schemas.tfdv_schema import tfdv_schema

SPEC = """
name: planted
features:
  device: {type: categorical, buckets: 8, embedding: 2}
  click_logit: {type: dense}
  rate_answer: {type: dense}
  served_click_logit: {type: dense}
  served_rate_answer: {type: dense}
tasks:
  click:
    kind: binary
    label: clicked
    gate: {min_auc: 0.7, max_auc_drop: 0.02, slices: {device: {min_auc: 0.6}}}
  rate:
    kind: regression
    label: rating
    optional: true
    gate: {max_rmse: 1.0, max_rmse_rise: 0.1}
min_slice_events: 50
model: {preset: tiny}
serving: {score: click}
"""


def planted_spec(*overrides):
    return parse_spec(SPEC, "spec", overrides)


PLANTED = planted_spec()
EVENTS = 400


def good_events():
    """Columns of a day on which a model does well: click AUC about 0.9, rate RMSE 0.3."""
    generator = np.random.default_rng(0)
    clicked = (generator.random(EVENTS) < 0.4).astype(float)
    rating = generator.normal(3.0, 1.0, EVENTS)
    return {
        "device": np.where(np.arange(EVENTS) % 2, "phone", "desktop"),
        "clicked": clicked,
        "rating": rating,
        "click_logit": 2.0 * clicked + generator.normal(-1.0, 1.0, EVENTS),
        "rate_answer": rating + generator.normal(0.0, 0.3, EVENTS),
    }


def evaluate(
    folder,
    models,
    columns,
    *,
    spec=PLANTED,
    absent=None,
    compare=False,
    infra_reasons="",
    servable=1,
    model=None,
    stability=HEALTHY,
):
    """Runs the executor; returns (blessing artifact, content of the verdict file)."""
    plan = RunPlan(spec, datetime.date(2026, 1, 4), window=())
    dataclasses.replace(plan, baseline_version=1 if compare else None).save(str(folder / "plan"))
    io_utils.write_pbtxt_file(str(folder / "schema" / "schema.pbtxt"), tfdv_schema(spec))
    columns = {
        "served_click_logit": columns["click_logit"],
        "served_rate_answer": columns["rate_answer"],
        **columns,
    }
    for split in ("train", "eval"):
        write_examples(str(folder / "examples" / f"Split-{split}"), columns, absent)
    training = [str(path) for path in (folder / "examples" / "Split-train").iterdir()]
    counts = Counter(spec).count(training, EVENTS)
    Rates.of(counts, spec).save(str(folder / "examples" / RATES_FILE))
    examples = artifact(
        standard_artifacts.Examples,
        folder / "examples",
        payload_format="FORMAT_TF_EXAMPLE",
        file_format="tfrecords_gzip",
    )
    examples[0].split_names = '["train", "eval"]'
    outputs = {
        "evaluation": artifact(standard_artifacts.ModelEvaluation, folder / "evaluation"),
        "blessing": artifact(standard_artifacts.ModelBlessing, folder / "blessing"),
        "page": artifact(artifacts.Page, folder / "page.html"),
    }
    context = BaseBeamExecutor.Context(
        beam_pipeline_args=with_code(["--direct_running_mode=in_memory"]),
        tmp_dir=str(folder / "tmp"),
        unique_id="1",
    )
    write_stability(folder / "stability", stability)
    infra = artifact(standard_artifacts.InfraBlessing, folder / "infra", reasons=infra_reasons)
    if servable is not None:
        infra[0].set_int_custom_property("blessed", servable)
    Executor(context).Do(
        {
            "plan": artifact(artifacts.RunPlan, folder / "plan"),
            "examples": examples,
            "model": artifact(standard_artifacts.Model, model or models / "candidate"),
            "baseline_model": artifact(standard_artifacts.Model, models / "served"),
            "infra_blessing": infra,
            "stability": artifact(artifacts.TrainingStability, folder / "stability"),
            "schema": artifact(standard_artifacts.Schema, folder / "schema"),
        },
        outputs,
        {"example_splits": "null"},
    )
    with open(folder / "evaluation" / VERDICT_FILE) as file:
        verdict = json.load(file)
    said = {
        name: outputs["evaluation"][0].get_string_custom_property(name).splitlines()
        for name in ("notes", "not_gated")
    }
    page = (folder / "page.html").read_text("utf-8")
    assert all(str(escape(reason)) in page for reason in verdict["reasons"])
    assert said["not_gated"] == verdict["not_gated"]
    assert verdict["notes"] == said["notes"][len(said["notes"]) - len(verdict["notes"]) :]
    return outputs["blessing"][0], verdict


def assert_published(blessing, verdict, *, blessed):
    assert verdict["blessed"] == blessed
    assert blessing.get_int_custom_property("blessed") == int(blessed)
    assert os.listdir(blessing.uri) == ["BLESSED" if blessed else "NOT_BLESSED"]
    assert blessing.get_string_custom_property("reasons").splitlines() == verdict["reasons"]


def auc(labels, scores):
    ranks = np.argsort(np.argsort(scores)) + 1.0
    positives = labels == 1
    count = positives.sum()
    below = ranks[positives].sum() - count * (count + 1) / 2
    return below / (count * (len(labels) - count))
