"""Simulated events as Transform gives them to training."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from pipeline.simulate import Day
from schemas.spec import RankingSpec
from trainer_module.preprocessing import preprocess, raw_feature_spec


def transformed(day: Day, spec: RankingSpec) -> dict[str, Any]:
    """Returns a day's events through preprocessing: tensors by name, sparse or [events, 1]."""
    sparse = {}
    for name, parsing in raw_feature_spec(spec).items():
        column = [
            [] if value is None else value if isinstance(value, list | tuple) else [value]
            for value in day.columns[name]
        ]
        sparse[name] = tf.ragged.constant(column, parsing.dtype, ragged_rank=1).to_sparse()
    return preprocess(sparse, spec)
