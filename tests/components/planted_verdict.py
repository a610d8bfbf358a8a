"""What an Evaluator may have found on a day, without an evaluation."""

import datetime

from stability_reports import DIVERGED

from components.run_plan import RunPlan
from schemas.loading import parse_spec
from trainer_module.stability.outcome import Attempt, Stability

HOSTILE = "<script>alert('x')</script> & \"quoted\""
SPEC = parse_spec(
    """
name: planted
features:
  device: {type: categorical, buckets: 8, embedding: 2}
tasks:
  click:
    kind: binary
    label: clicked
    gate: {min_auc: 0.6, max_auc_drop: 0.02, calibration: [0.8, 1.25], slices: {device: {}}}
  rate: {kind: regression, label: rating, gate: {max_rmse: 1.5}}
min_slice_events: 50
model: {preset: tiny}
serving: {score: click}
""",
    "spec",
)
PLAN = RunPlan(
    SPEC,
    datetime.date(2026, 1, 4),
    window=(),
    start_reason=f"warm start, {HOSTILE}",
    baseline_reason="compared with the served version 3",
    served_version=3,
)
STABILITY = Stability.of(
    [DIVERGED, Attempt(5, 90, "healthy", "healthy after 90 steps", (), {"learning_rate": 0.05})]
)
EVENTS = {
    "read": 61_057,
    "trained": 40_000,
    "evaluated": 20_000,
    "unused": 1000,
    "duplicates": 54,
    "quarantined": 3,
}


def metrics(auc, rmse, *, slice_name="device=phone", lower=0.1):
    """Metrics of a model; in one slice its AUC is lower."""
    click = {"auc": auc, "auc_lift": 0.0417, "calibration": 1.0312}
    rate = {"rmse": rmse, "r2": 0.25, "label_standard_deviation": 0.9444, "calibration": 0.9821}
    return {
        "all events": {
            "": {},
            "click": {**click, "weighted_example_count": 20_000.0},
            "rate": {**rate, "weighted_example_count": 7123.0},
            "score": {"mean_prediction": 0.3},
        },
        slice_name: {"click": {"auc": auc - lower, "weighted_example_count": 321.0}},
    }


def judged(*reasons, failed=(), slice_name="device=phone"):
    """The content of a verdict's file; blocked for the reasons, if there are any."""
    low_and_high = {"value": 0.7391, "low": 0.7288, "high": 0.7494}
    return {
        "blessed": not reasons,
        "reasons": reasons,
        "notes": [f"a note, {HOSTILE}"],
        "not_gated": ["rate: 3 of 10 events with its label"],
        "failed": failed,
        "untold": (),
        "metrics": {
            "candidate": metrics(0.7391, 0.8123, slice_name=slice_name),
            "baseline": metrics(0.7466, 0.8011, slice_name=slice_name),
        },
        "intervals": {"candidate": {"all events": {"click": {"auc": low_and_high}}}},
    }


REFUSED = {
    **judged("training diverged after 40 steps"),
    "notes": [],
    "not_gated": [],
    "metrics": {},
    "intervals": {},
}
