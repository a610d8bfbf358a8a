"""Whether a step's outputs say the same, whoever computed them.

Raw bytes do not tell: a serialized map has its keys in any order, and sums of floats depend on
the order of their terms.
"""

from __future__ import annotations

import collections
import glob
import json
import math
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tensorflow_data_validation as tfdv
from google.protobuf import json_format
from tfx import types
from tfx.types import artifact_utils

STATISTICS = 1e-12
METRICS = 1e-6
"""Relative differences that still are the same."""


def differences(component: str, one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Returns what two executions of a component differ in; empty if in nothing.

    Args:
        component: its name.
        one: its outputs, artifacts by name.
        other: those of the other execution.
    """
    return list(
        {
            "DailyExampleGen": _examples,
            "StatisticsGen": _statistics,
            "Evaluator": _metrics,
        }[component](one, other)
    )


def records(artifact: types.Artifact, split: str) -> collections.Counter[bytes]:
    """Counts the examples of a split, each in a form that does not depend on who wrote it."""
    files = sorted(glob.glob(os.path.join(artifact_utils.get_split_uri([artifact], split), "*")))
    found: collections.Counter[bytes] = collections.Counter()
    for record in tf.data.TFRecordDataset(files, compression_type="GZIP").as_numpy_iterator():
        example = tf.train.Example.FromString(record)
        found[example.SerializeToString(deterministic=True)] += 1
    return found


def _examples(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for split in ("train", "eval"):
        here, there = (records(outputs["examples"][0], split) for outputs in (one, other))
        if not here:
            yield f"{split}: no examples"
        if only := (here - there).total() + (there - here).total():
            yield f"{split}: {only} examples of {here.total()} and {there.total()} differ"


def _statistics(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for split in ("train", "eval"):
        here, there = (
            json_format.MessageToDict(
                tfdv.load_stats_binary(
                    os.path.join(
                        artifact_utils.get_split_uri(outputs["statistics"], split),
                        "FeatureStats.pb",
                    )
                )
            )
            for outputs in (one, other)
        )
        for path in unequal(here, there, STATISTICS):
            yield f"{split}: {path}"


def _metrics(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    here, there = (
        json.loads(
            tf.io.gfile.GFile(os.path.join(outputs["evaluation"][0].uri, "verdict.json")).read()
        )
        for outputs in (one, other)
    )
    if not here["metrics"]:
        yield "no metrics"
    yield from unequal(
        {key: here[key] for key in ("blessed", "metrics")},
        {key: there[key] for key in ("blessed", "metrics")},
        METRICS,
    )


def unequal(one: Any, other: Any, tolerance: float, path: str = "") -> Iterator[str]:
    """Yields where two JSON values differ by more than rounding.

    Args:
        one: a value.
        other: what it is held against.
        tolerance: relative difference of numbers that counts as none.
        path: where the values come from.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from unequal(one.get(key), other.get(key), tolerance, f"{path}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from unequal(*pair, tolerance, f"{path}/{number}")
    elif isinstance(one, float) and isinstance(other, float):
        both_nan = math.isnan(one) and math.isnan(other)
        if not both_nan and not math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance):
            yield f"{path}: {one} and {other}"
    elif one != other:
        yield f"{path}: {one} and {other}"
