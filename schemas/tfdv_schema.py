"""The TFDV schema that follows from a ranking spec."""

from __future__ import annotations

from tensorflow_metadata.proto.v0 import schema_pb2

from schemas.features import CategoricalFeature, DenseFeature, HistoryFeature
from schemas.spec import RankingSpec
from schemas.tasks import Task


def tfdv_schema(spec: RankingSpec) -> schema_pb2.Schema:
    """Derives the schema of the encoded events.

    Features and labels are sparse (a missing value is an absent one), so that one schema
    serves training, evaluation and requests that carry no labels. Presence, domains and
    the drift and skew comparators come from the spec.

    Args:
        spec: the ranking spec.

    Returns:
        A schema with one feature for each feature and each label of the spec.
    """
    schema = schema_pb2.Schema()
    schema.default_environment.extend(["TRAINING", "SERVING"])
    for name, feature in spec.features.items():
        if isinstance(feature, CategoricalFeature):
            _add_categorical(schema, name, feature)
        elif isinstance(feature, HistoryFeature):
            _add_history(schema, name, len(spec.history_columns(name)))
        else:
            _add_dense(schema, name, feature)
    for task in spec.tasks.values():
        _add_label(schema, task)
    return schema


def _add_categorical(schema: schema_pb2.Schema, name: str, feature: CategoricalFeature) -> None:
    kind = schema_pb2.BYTES if feature.dtype == "string" else schema_pb2.INT
    proto = schema.feature.add(name=name, type=kind)
    if feature.dtype == "int":
        proto.int_domain.is_categorical = True
    _set_presence(proto, required=feature.required, multivalued=feature.multivalued)
    if feature.max_drift is not None:
        proto.drift_comparator.infinity_norm.threshold = feature.max_drift
    if feature.max_skew is not None:
        proto.skew_comparator.infinity_norm.threshold = feature.max_skew


def _add_dense(schema: schema_pb2.Schema, name: str, feature: DenseFeature) -> None:
    proto = schema.feature.add(name=name, type=schema_pb2.FLOAT)
    _set_presence(proto, required=feature.required, multivalued=False)
    _set_domain(proto, feature.minimum, feature.maximum)
    if feature.max_drift is not None:
        proto.drift_comparator.jensen_shannon_divergence.threshold = feature.max_drift
    if feature.max_skew is not None:
        proto.skew_comparator.jensen_shannon_divergence.threshold = feature.max_skew


def _add_history(schema: schema_pb2.Schema, name: str, values: int) -> None:
    proto = schema.feature.add(name=name, type=schema_pb2.FLOAT)
    proto.presence.min_fraction = 1.0
    proto.presence.min_count = 1
    proto.value_count.min = proto.value_count.max = values


def _add_label(schema: schema_pb2.Schema, task: Task) -> None:
    proto = schema.feature.add(name=task.label, type=schema_pb2.FLOAT)
    _set_presence(proto, required=not task.optional, multivalued=False)
    if task.kind == "binary":
        proto.float_domain.min = 0.0
        proto.float_domain.max = 1.0
    else:
        _set_domain(proto, task.minimum, task.maximum)
    proto.not_in_environment.append("SERVING")


def _set_domain(proto: schema_pb2.Feature, minimum: float | None, maximum: float | None) -> None:
    if minimum is not None:
        proto.float_domain.min = minimum
    if maximum is not None:
        proto.float_domain.max = maximum


def _set_presence(proto: schema_pb2.Feature, *, required: bool, multivalued: bool) -> None:
    proto.presence.min_fraction = 1.0 if required else 0.0
    proto.presence.min_count = 1 if required else 0
    if not multivalued:
        proto.value_count.min = 1
        proto.value_count.max = 1
