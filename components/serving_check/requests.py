"""What clients of the served model may send."""

from __future__ import annotations

from typing import Any

from schemas.features import CategoricalFeature
from schemas.spec import RankingSpec
from trainer_module import signatures
from trainer_module.export import requested_features

_DTYPES = {"string": "string", "int": "int64"}


def promised(spec: RankingSpec) -> dict[str, Any]:
    """Returns what the served signatures take and answer; see `contract.breaches`."""
    outputs = {name: ("float32", [None]) for name in (*spec.tasks, signatures.SCORE)}
    named: dict[str, Any] = {}
    for name, feature in requested_features(spec).items():
        named[name] = ("float32", [None])
        if isinstance(feature, CategoricalFeature):
            shape = [None, None] if feature.multivalued else [None]
            named[name] = (_DTYPES[feature.dtype], shape)
    return {
        signatures.SERVE_EXAMPLES: {
            "inputs": {"examples": ("string", [None])},
            "outputs": outputs,
        },
        signatures.SERVE_FEATURES: {"inputs": named, "outputs": outputs},
    }
