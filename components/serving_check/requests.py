"""What clients of the served model may send."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from schemas.features import CategoricalFeature, Feature, HistoryFeature
from schemas.spec import RankingSpec
from trainer_module import signatures
from trainer_module.export import requested_features

_DTYPES = {"string": "string", "int": "int64"}
_UNKNOWN = b"an id that no event has \xff"
_LARGEST = float(np.finfo(np.float32).max)


def promised(spec: RankingSpec) -> dict[str, Any]:
    """Returns what the served signatures take and answer; see `contract.breaches`."""
    outputs = {name: ("float32", [None]) for name in (*spec.tasks, signatures.SCORE)}
    named: dict[str, Any] = {}
    for name, feature in requested_features(spec).items():
        named[name] = ("float32", [None])
        if isinstance(feature, CategoricalFeature):
            shape = [None, None] if feature.multivalued else [None]
            named[name] = (_DTYPES[feature.dtype], shape)
        elif isinstance(feature, HistoryFeature):
            named[name] = ("float32", [None, len(spec.history_columns(name))])
    return {
        signatures.SERVE_EXAMPLES: {
            "inputs": {"examples": ("string", [None])},
            "outputs": outputs,
        },
        signatures.SERVE_FEATURES: {"inputs": named, "outputs": outputs},
    }


def odd_requests(request: bytes, spec: RankingSpec) -> dict[str, bytes]:
    """Makes requests that the events of a day need not have, but clients will.

    Args:
        request: a usual one, a serialized tf.Example.
        spec: the ranking spec.

    Returns:
        By what is odd about it: the usual request with one feature absent, unknown, of extreme
        size or length; and an empty one.
    """
    odd = {"a request without any feature": tf.train.Example().SerializeToString()}
    for name, feature in requested_features(spec).items():
        for what, kind, values in _odd_values(feature):
            example = tf.train.Example.FromString(request)
            example.features.feature.pop(name, None)
            if values:
                getattr(example.features.feature[name], kind).value.extend(values)
            odd[f"{name}: {what}"] = example.SerializeToString()
    return odd


def _odd_values(
    feature: Feature,
) -> list[tuple[str, str, list[Any]]]:
    """What it is, the kind of a tf.Example's list, and the values."""
    if not isinstance(feature, CategoricalFeature):
        kind = "float_list"
        few: list[tuple[str, list[Any]]] = [
            ("0", [0.0]),
            ("-3.4e38", [-_LARGEST]),
            ("3.4e38", [_LARGEST]),
        ]
    elif feature.dtype == "int":
        kind = "int64_list"
        few = [("-2**63", [-(2**63)]), ("2**63 - 1", [2**63 - 1])]
    else:
        kind = "bytes_list"
        few = [("an unknown id", [_UNKNOWN])]
    if isinstance(feature, CategoricalFeature) and feature.multivalued:
        longest = few[-1][1] * (feature.max_length + 1)
        few.append((f"{len(longest)} ids", longest))
    return [(what, kind, values) for what, values in [("no value", []), *few]]
