"""The spec of whole pipeline days that are run for a test, as short as such a day can be."""

from __future__ import annotations

import pathlib

import yaml

from pipeline.cli import DEMO_SPEC

DIVERGING = (
    "training.optimizer.name=adagrad",
    "training.learning_rate=1000",
    "training.warmup_steps=0",
)
"""Overrides far beyond any stable rate, so that a tiny model diverges for sure."""


def write_spec(path: pathlib.Path) -> None:
    """Writes the demo's spec with a tiny model, for days of a few thousand events.

    A task more is seconds more in each Trainer and Evaluator, so one of each kind is left. So few
    events teach little: the gates ask only whether anything was learned.
    """
    spec = yaml.safe_load(pathlib.Path(DEMO_SPEC).read_text("utf-8"))
    spec["model"] = {"preset": "tiny"}
    spec["validation"]["max_eval_events"] = 1500
    spec["tasks"] = {name: spec["tasks"][name] for name in ("click", "watch_time", "rating")}
    spec["features"]["user_topic_history"]["tasks"] = ["click"]
    spec["serving"]["score"] = "click + 0.1 * log1p(watch_time)"
    for task in spec["tasks"].values():
        binary = task["kind"] == "binary"
        task["gate"] = {"min_auc": 0.51} if binary else {"max_rmse": 2.0, "min_r2": None}
    path.write_text(yaml.safe_dump(spec))
