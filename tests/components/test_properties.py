import pytest
from google.protobuf import text_format
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.types import standard_artifacts

from components import properties
from components.properties import Property

VALUES = {
    properties.RUN_DATE: "2026-01-04",
    properties.SERVED_VERSION: 7,
    properties.INGESTION_NOTES: ("2026-01-01: no events", "part-1: empty"),
    properties.NOT_GATED: (),
}
JSON_VALUES = [
    (properties.HELD, {"2026-01-01": ["click: auc is 0.5"]}),
    (properties.METRICS, {"candidate": {"click": {"auc": 0.7}}}),
]


def declared():
    return [item for item in vars(properties).values() if isinstance(item, Property)]


@pytest.mark.parametrize(("said", "value"), [*VALUES.items(), *JSON_VALUES])
def test_what_an_executor_says_is_read_as_it_was_said(said, value):
    artifact = standard_artifacts.Model()
    assert said.get(artifact) == said.absent
    said.set(artifact, value)
    assert said.get(artifact) == value
    node = mlmd.Artifact.FromString(artifact.mlmd_artifact.SerializeToString())
    assert said.of(properties.values_of(node)) == value


def test_whole_number_that_kubeflow_hands_over_as_a_float_is_whole():
    node = mlmd.Artifact()
    text_format.Parse(
        'custom_properties { key: "day_events" value { double_value: 1200 } }'
        'custom_properties { key: "unset" value {} }',
        node,
    )
    assert properties.values_of(node) == {"day_events": 1200.0}
    read = properties.DAY_EVENTS.of(properties.values_of(node))
    assert (read, type(read)) == (1200, int)


@pytest.mark.parametrize(
    ("said", "sent", "value"),
    [
        (properties.SERVED_VERSION, 7.0, 7),
        (properties.SERVED_VERSION, 0.0, 0),
        (properties.INGESTION_NOTES, "a\nb", ("a", "b")),
        (properties.HELD, '{"2026-01-01": ["why"]}', {"2026-01-01": ["why"]}),
    ],
)
def test_value_that_kubeflow_hands_over_as_json_is_read_as_it_was_said(said, sent, value):
    # As TFX's entrypoint of Kubeflow makes an artifact of what the launcher gives it.
    sender, artifact = standard_artifacts.Model(), standard_artifacts.Model()
    sender.set_json_value_custom_property(said.name, sent)
    artifact.set_mlmd_artifact(mlmd.Artifact.FromString(sender.mlmd_artifact.SerializeToString()))
    assert said.get(artifact) == value
    assert type(said.get(artifact)) is type(value)


def test_metrics_of_old_runs_have_the_names_of_today():
    old = {"metrics": '{"candidate": {"rate": {"root_mean_squared_error": 1.0, "r2_score": 0.5}}}'}
    assert properties.METRICS.of(old) == {"candidate": {"rate": {"rmse": 1.0, "r2": 0.5}}}


def test_no_two_properties_of_an_artifact_have_one_name():
    names = [(item.kind, item.name) for item in declared()]
    assert len(names) == len(set(names)) > 20
