"""A spec, days and versions that plans are made of."""

import datetime

from components.serving_store import ModelInfo, ServedVersion
from schemas.loading import parse_spec

SPEC = """
name: test
features:
  user: {type: categorical, buckets: 10, embedding: 2}
  age: {type: dense}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: 0.5}}
  rate: {kind: regression, label: rating, gate: {max_rmse: 9}}
model: {preset: tiny}
training: {window_days: 3, exposures: 1.5}
serving: {score: click}
"""
FEATURE_ADDED = "features.topic={type: categorical, buckets: 4, embedding: 2}"
TASK_ADDED = "tasks.like={kind: binary, label: liked, gate: {min_auc: 0.5}}"


def spec_with(*overrides):
    return parse_spec(SPEC, "spec", overrides)


SPEC_NOW = spec_with()


def day(number):
    return datetime.date(2026, 1, 1) + datetime.timedelta(days=number)


def version(number, run_day, spec=SPEC_NOW, rolled_back_to=None, trained_through=None):
    return ServedVersion(
        number,
        f"serving/{number}",
        ModelInfo(
            run_date=day(run_day),
            trained_through=day(run_day - 1 if trained_through is None else trained_through),
            model_fingerprint=spec.model_fingerprint(),
            tasks_fingerprint=spec.tasks_fingerprint(),
            model_uri=f"model/{number}",
            rolled_back_to=rolled_back_to,
            seen={str(day(run_day)): f"files of version {number}"},
        ),
    )


UTC = datetime.timezone.utc
