from pathlib import Path

import pytest
from tensorflow_metadata.proto.v0 import schema_pb2

from schemas.features import CategoricalFeature
from schemas.loading import load_spec
from schemas.tfdv_schema import tfdv_schema

DEMO_PATH = str(Path(__file__).parents[2] / "schemas" / "demo.yaml")
DEMO = load_spec(DEMO_PATH)


def schema_with(*overrides):
    return tfdv_schema(load_spec(DEMO_PATH, overrides))


def fields(schema):
    return {feature.name: feature for feature in schema.feature}


def test_schema_has_each_feature_and_label_once():
    names = [feature.name for feature in schema_with().feature]
    assert sorted(names) == sorted([*DEMO.features, *DEMO.labels])


@pytest.mark.parametrize("name", DEMO.logged)
def test_feature_is_held_to_what_the_spec_declares(name):
    declared, field = DEMO.logged[name], fields(schema_with())[name]
    multivalued = False
    if isinstance(declared, CategoricalFeature):
        multivalued = declared.multivalued
        expected = {"string": schema_pb2.BYTES, "int": schema_pb2.INT}[declared.dtype]
        drift, skew = field.drift_comparator.infinity_norm, field.skew_comparator.infinity_norm
    else:
        expected = schema_pb2.FLOAT
        drift = field.drift_comparator.jensen_shannon_divergence
        skew = field.skew_comparator.jensen_shannon_divergence
        assert field.float_domain.HasField("min") == (declared.minimum is not None)
        assert field.float_domain.HasField("max") == (declared.maximum is not None)
        assert field.float_domain.min == (declared.minimum or 0.0)
    assert field.type == expected
    assert field.presence.min_fraction == (1.0 if declared.required else 0.0)
    assert field.HasField("value_count") != multivalued
    assert drift.threshold == (declared.max_drift or 0.0)
    assert skew.threshold == (declared.max_skew or 0.0)
    assert field.HasField("drift_comparator") == (declared.max_drift is not None)
    assert field.HasField("skew_comparator") == (declared.max_skew is not None)
    assert "SERVING" not in field.not_in_environment


@pytest.mark.parametrize(
    ("name", "values"), [("user_history", 7), ("item_history", 7), ("user_topic_history", 3)]
)
def test_each_event_has_all_values_of_a_history(name, values):
    field = fields(schema_with())[name]
    assert field.type == schema_pb2.FLOAT
    assert (field.value_count.min, field.value_count.max) == (values, values)
    assert field.presence.min_fraction == 1.0
    assert not field.not_in_environment


@pytest.mark.parametrize("name", DEMO.tasks)
def test_label_is_no_part_of_requests_and_present_unless_optional(name):
    task = DEMO.tasks[name]
    field = fields(schema_with())[task.label]
    assert field.type == schema_pb2.FLOAT
    assert list(field.not_in_environment) == ["SERVING"]
    assert field.presence.min_fraction == (0.0 if task.optional else 1.0)
    if task.kind == "binary":
        assert (field.float_domain.min, field.float_domain.max) == (0.0, 1.0)
    else:
        assert not field.HasField("float_domain")


@pytest.mark.parametrize(
    ("override", "name", "kind"),
    [
        (
            "features.country={type: categorical, buckets: 9, embedding: 2}",
            "country",
            schema_pb2.BYTES,
        ),
        (
            "features.rank={type: categorical, dtype: int, buckets: 9, embedding: 2}",
            "rank",
            schema_pb2.INT,
        ),
        ("features.price={type: dense, minimum: 1, maximum: 5}", "price", schema_pb2.FLOAT),
        (
            "tasks.save={kind: binary, label: saved, gate: {min_auc: 0.5}}",
            "saved",
            schema_pb2.FLOAT,
        ),
        (
            "tasks.spend={kind: regression, label: spent, gate: {max_rmse: 5}}",
            "spent",
            schema_pb2.FLOAT,
        ),
    ],
)
def test_one_edit_of_the_spec_adds_one_field_and_changes_no_other(override, name, kind):
    before, after = fields(schema_with()), fields(schema_with(override))
    assert after.pop(name).type == kind
    # A history of all tasks has a rate of a new one, too.
    for history in ("user_history", "item_history"):
        more = int(override.startswith("tasks."))
        assert after[history].value_count.max == before[history].value_count.max + more
        after[history].CopyFrom(before[history])
    assert after == before


@pytest.mark.parametrize(
    ("override", "name", "read", "value"),
    [
        ("features.item_length.maximum=50", "item_length", lambda f: f.float_domain.max, 50.0),
        (
            "features.topic.max_drift=0.07",
            "topic",
            lambda f: f.drift_comparator.infinity_norm.threshold,
            0.07,
        ),
        (
            "features.item_length.max_skew=0.07",
            "item_length",
            lambda f: f.skew_comparator.jensen_shannon_divergence.threshold,
            0.07,
        ),
        ("features.device.required=true", "device", lambda f: f.presence.min_fraction, 1.0),
        ("tasks.rating.maximum=5", "rating", lambda f: f.float_domain.max, 5.0),
        ("tasks.like.optional=true", "liked", lambda f: f.presence.min_fraction, 0.0),
    ],
)
def test_limit_of_the_spec_is_the_limit_of_the_schema(override, name, read, value):
    assert read(fields(schema_with())[name]) != value
    assert read(fields(schema_with(override))[name]) == value
