import datetime

import numpy as np
import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from executions import artifact
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2
from tfx.types import standard_artifacts
from tfx.utils import io_utils

from components import artifacts
from components.example_validator.executor import Executor, validate
from components.example_validator.presence import note_lost_values
from components.example_validator.severity import Finding, findings, stopping
from components.run_plan import RunPlan
from schemas.errors import BadDataError, SpecError
from schemas.loading import parse_spec
from schemas.spec import Validation
from schemas.tfdv_schema import tfdv_schema

SPEC = """
name: test
features:
  user: {type: categorical, buckets: 10, embedding: 2, required: true}
  device: {type: categorical, buckets: 10, embedding: 2, max_drift: 0.2, max_skew: 0.6}
  hour: {type: categorical, dtype: int, buckets: 24, embedding: 2}
  age: {type: dense, minimum: 0, maximum: 120, max_drift: 0.2}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: 0.5}}
  rate: {kind: regression, label: rating, optional: true, gate: {max_rmse: 9}}
model: {preset: tiny}
training: {window_days: 3}
validation: {min_events: 100}
serving: {score: click}
"""
EVENTS = 400
SPREAD = ["phone", "desktop"] * (EVENTS // 2)
DRIFT_HIGH = "COMPARATOR_L_INFTY_HIGH"
DENSITY_DRIFT_HIGH = "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH"


def events(count=EVENTS, *, phones=0.5, **columns):
    generator = np.random.default_rng(0)
    row = np.arange(count)
    usual = {
        "user": [f"u{i % 50}" for i in row],
        "device": np.where(row < phones * count, "phone", "desktop"),
        "hour": row % 24,
        "age": generator.uniform(20.0, 60.0, count),
        "clicked": (row % 2).astype(float),
        "rating": [3.5 if i % 3 == 0 else None for i in row],
    }
    return pd.DataFrame({**usual, **columns})


def spec_with(*overrides):
    return parse_spec(SPEC, "spec", overrides)


def statistics(frame):
    return tfdv.generate_statistics_from_dataframe(frame)


@pytest.fixture(scope="module")
def usual():
    return statistics(events())


def found(train, evaluation, *overrides):
    spec = spec_with(*overrides)
    anomalies = validate(train, evaluation, tfdv_schema(spec))
    return [
        finding
        for split, anomaly in anomalies.items()
        for finding in findings(split, anomaly, spec.validation)
    ]


def facts(found):
    return {(item.split, item.field, item.kind, item.severity) for item in found}


def missing(frame, name, rows):
    frame = frame.copy()
    frame[name] = frame[name].astype(object)
    frame.loc[: rows - 1, name] = None
    return frame


def test_days_alike_have_no_anomalies(usual):
    assert found(usual, usual) == []


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        pytest.param(
            events().drop(columns="user"),
            {("eval", "user", "SCHEMA_MISSING_COLUMN", "ERROR")},
            id="required field is gone",
        ),
        pytest.param(
            missing(events(), "user", 3),
            {("eval", "user", "FEATURE_TYPE_LOW_FRACTION_PRESENT", "ERROR")},
            id="required field is missing sometimes",
        ),
        pytest.param(events().drop(columns="rating"), set(), id="optional label is gone"),
        pytest.param(
            missing(events(), "clicked", 3),
            {("eval", "clicked", "FEATURE_TYPE_LOW_FRACTION_PRESENT", "ERROR")},
            id="label is missing sometimes",
        ),
        pytest.param(missing(events(), "age", 30), set(), id="optional field is missing sometimes"),
        pytest.param(
            events(age=np.linspace(-1.0, 60.0, EVENTS)),
            {
                ("eval", "age", "FLOAT_TYPE_SMALL_FLOAT", "ERROR"),
                ("eval", "age", DENSITY_DRIFT_HIGH, "ERROR"),
            },
            id="below the domain",
        ),
        pytest.param(
            events(clicked=(np.arange(EVENTS) % 2) * 2.0),
            {("eval", "clicked", "FLOAT_TYPE_BIG_FLOAT", "ERROR")},
            id="label that is no 0 or 1",
        ),
        pytest.param(
            events(hour=[str(i % 24) + "h" for i in range(EVENTS)]),
            {
                ("eval", "hour", "UNEXPECTED_DATA_TYPE", "ERROR"),
                ("eval", "hour", "INT_TYPE_NOT_INT_STRING", "ERROR"),
            },
            id="another type",
        ),
        pytest.param(
            events(phones=0.71),
            {("eval", "device", DRIFT_HIGH, "ERROR")},
            id="categorical drift just over the limit",
        ),
        pytest.param(events(phones=0.69), set(), id="categorical drift just under the limit"),
        pytest.param(
            events(age=np.linspace(60.0, 100.0, EVENTS)),
            {("eval", "age", DENSITY_DRIFT_HIGH, "ERROR")},
            id="dense drift",
        ),
        pytest.param(
            missing(events(), "age", EVENTS),
            {("eval", "age", "COMPARATOR_TREATMENT_DATA_MISSING", "ERROR")},
            id="dense field has no value",
        ),
        pytest.param(
            events().drop(columns="age"),
            {("eval", "age", "COMPARATOR_TREATMENT_DATA_MISSING", "ERROR")},
            id="dense field is gone",
        ),
        pytest.param(
            missing(events(), "device", EVENTS),
            {
                ("eval", "device", "COMPARATOR_TREATMENT_DATA_MISSING", "ERROR"),
                ("train", "device", "COMPARATOR_CONTROL_DATA_MISSING", "ERROR"),
            },
            id="categorical field has no value",
        ),
        pytest.param(
            events().drop(columns="device").assign(dev="phone"),
            {
                ("eval", "device", "COMPARATOR_TREATMENT_DATA_MISSING", "ERROR"),
                ("train", "device", "COMPARATOR_CONTROL_DATA_MISSING", "ERROR"),
                ("eval", "dev", "SCHEMA_NEW_COLUMN", "ERROR"),
            },
            id="categorical field was renamed",
        ),
        pytest.param(
            missing(events(device=SPREAD), "device", 82),
            {("eval", "device", DRIFT_HIGH, "ERROR")},
            id="categorical field loses more of its values than the limit",
        ),
        pytest.param(
            missing(events(device=SPREAD), "device", 78),
            set(),
            id="categorical field loses fewer of its values than the limit",
        ),
        pytest.param(
            missing(events(), "age", 200),
            {("eval", "age", DENSITY_DRIFT_HIGH, "ERROR")},
            id="dense field loses half of its values",
        ),
    ],
)
def test_anomaly_of_the_run_date_is_found(usual, day, expected):
    assert facts(found(usual, statistics(day))) == expected


def test_presence_has_the_distance_of_its_comparator():
    comparator = schema_pb2.FeatureComparator()
    comparator.jensen_shannon_divergence.threshold = 1e-9
    rng = np.random.default_rng(0)
    for here, there in rng.uniform(0.01, 0.99, (20, 2)):
        anomalies = anomalies_pb2.Anomalies()
        note_lost_values(anomalies, "f", comparator, here, there)
        p, q = np.array([here, 1 - here]), np.array([there, 1 - there])
        distance = sum(np.sum(x * np.log2(2 * x / (p + q))) / 2 for x in (p, q))
        (reason,) = anomalies.anomaly_info["f"].reason
        assert f"divergence {distance:.3g}, bound" in reason.description


def test_comparator_without_a_bound_says_nothing_of_missing_values():
    anomalies = anomalies_pb2.Anomalies()
    note_lost_values(anomalies, "f", schema_pb2.FeatureComparator(), 0.0, 1.0)
    assert not anomalies.anomaly_info


def test_skew_of_training_against_the_newest_events_has_a_limit_of_its_own(usual):
    day = statistics(events(phones=0.0))
    # Drift 0.5 is over its limit, and skew 0.5 below its own.
    assert facts(found(usual, day)) == {("eval", "device", DRIFT_HIGH, "ERROR")}
    assert facts(found(usual, day, "features.device.max_skew=0.4")) == {
        ("eval", "device", DRIFT_HIGH, "ERROR"),
        ("train", "device", DRIFT_HIGH, "ERROR"),
    }


@pytest.mark.parametrize(
    "without",
    [
        pytest.param(missing(events(), "age", EVENTS), id="no value"),
        pytest.param(events().drop(columns="age"), id="no column"),
    ],
)
def test_dense_field_that_comes_back_cannot_be_compared(usual, without):
    train = statistics(without)
    assert facts(found(train, usual, "features.age.max_skew=0.2")) == {
        ("eval", "age", "COMPARATOR_CONTROL_DATA_MISSING", "ERROR"),
        ("train", "age", "COMPARATOR_TREATMENT_DATA_MISSING", "ERROR"),
    }
    assert found(train, train, "features.age.max_skew=0.2") == []


def test_anomalies_of_the_training_days_are_found_too(usual):
    train = statistics(events(clicked=5.0))
    assert facts(found(train, usual)) == {
        ("train", "clicked", "FLOAT_TYPE_BIG_FLOAT", "ERROR"),
    }


@pytest.mark.parametrize("level", ["IGNORE", "WARNING", "ERROR"])
def test_severity_of_the_spec_counts_before_that_of_tfdv(usual, level):
    drifted = found(
        usual, statistics(events(phones=0.9)), f"validation.severity={{{DRIFT_HIGH}: {level}}}"
    )
    assert facts(drifted) == {("eval", "device", DRIFT_HIGH, level)}


def test_unknown_anomaly_type_in_the_spec_is_named():
    validation = Validation(severity={"TOO_MUCH_DRIFT": "ERROR"})
    with pytest.raises(SpecError, match=r"validation\.severity\.TOO_MUCH_DRIFT: TFDV knows no"):
        findings("eval", anomalies_pb2.Anomalies(), validation)


@pytest.mark.parametrize(
    ("severity", "level"),
    [
        (anomalies_pb2.AnomalyInfo.UNKNOWN, "ERROR"),
        (anomalies_pb2.AnomalyInfo.WARNING, "WARNING"),
        (anomalies_pb2.AnomalyInfo.ERROR, "ERROR"),
    ],
)
def test_anomaly_that_tfdv_does_not_judge_counts_as_an_error(severity, level):
    anomalies = anomalies_pb2.Anomalies()
    info = anomalies.anomaly_info["age"]
    info.severity = severity
    info.reason.add(
        type=anomalies_pb2.AnomalyInfo.FLOAT_TYPE_SMALL_FLOAT, short_description="short"
    )
    assert findings("eval", anomalies, Validation()) == [
        Finding("eval", "age", "FLOAT_TYPE_SMALL_FLOAT", level, "short")
    ]


@pytest.mark.parametrize(
    ("stop_at", "stops"),
    [("WARNING", ["WARNING", "ERROR"]), ("ERROR", ["ERROR"]), ("NEVER", [])],
)
def test_findings_from_the_level_of_the_spec_on_stop_the_run(stop_at, stops):
    every = [Finding("eval", "age", "KIND", s, "") for s in ("IGNORE", "WARNING", "ERROR")]
    assert [item.severity for item in stopping(every, Validation(stop_at=stop_at))] == stops


def execute(folder, train, evaluation, *overrides):
    spec = spec_with(*overrides)
    RunPlan(spec, datetime.date(2026, 1, 4), window=()).save(str(folder / "plan"))
    io_utils.write_pbtxt_file(str(folder / "schema" / "schema.pbtxt"), tfdv_schema(spec))
    for split, content in (("train", train), ("eval", evaluation)):
        path = folder / "statistics" / f"Split-{split}" / "FeatureStats.pb"
        path.parent.mkdir(parents=True)
        path.write_bytes(content.SerializeToString())
    inputs = {
        "plan": artifact(artifacts.RunPlan, folder / "plan"),
        "schema": artifact(standard_artifacts.Schema, folder / "schema"),
        "statistics": artifact(standard_artifacts.ExampleStatistics, folder / "statistics"),
    }
    inputs["statistics"][0].split_names = '["train", "eval"]'
    outputs = {"anomalies": artifact(standard_artifacts.ExampleAnomalies, folder / "anomalies")}
    error = None
    try:
        Executor().Do(inputs, outputs, {})
    except BadDataError as caught:
        error = str(caught)
    return error, outputs["anomalies"][0]


def read_anomalies(folder, split):
    path = folder / "anomalies" / f"Split-{split}" / "SchemaDiff.pb"
    return anomalies_pb2.Anomalies.FromString(path.read_bytes())


def test_good_day_goes_on_and_its_empty_anomalies_are_kept(tmp_path, usual):
    error, output = execute(tmp_path, usual, usual)
    assert error is None
    assert output.get_string_custom_property("findings") == ""
    for split in ("train", "eval"):
        assert not read_anomalies(tmp_path, split).anomaly_info


def test_bad_day_stops_with_what_is_wrong_where_and_what_to_do(tmp_path, usual):
    bad = events(age=-5.0).drop(columns="user")
    error, output = execute(tmp_path, usual, statistics(bad), "features.age.max_drift=null")
    first, *lines, last = error.splitlines()
    assert first == (
        "2026-01-04: 2 anomalies of severity ERROR or above; the model was not trained:"
    )
    assert [line.split(": ")[:2] for line in lines] == [["  eval", "age"], ["  eval", "user"]]
    assert "-5" in lines[0]
    assert lines[0].endswith("(FLOAT_TYPE_SMALL_FLOAT, ERROR)")
    assert last.startswith("Mend the logs, or change ")
    assert set(read_anomalies(tmp_path, "eval").anomaly_info) == {"age", "user"}
    assert [line.strip() for line in lines] == output.get_string_custom_property(
        "findings"
    ).splitlines()


@pytest.mark.parametrize(
    ("overrides", "stops"),
    [
        (["validation.stop_at=NEVER"], False),
        ([f"validation.severity={{{DRIFT_HIGH}: WARNING}}"], False),
        ([f"validation.severity={{{DRIFT_HIGH}: WARNING}}", "validation.stop_at=WARNING"], True),
        ([f"validation.severity={{{DRIFT_HIGH}: IGNORE}}", "validation.stop_at=WARNING"], False),
    ],
)
def test_tolerated_anomaly_is_noted_but_does_not_stop(tmp_path, usual, overrides, stops):
    error, output = execute(tmp_path, usual, statistics(events(phones=0.9)), *overrides)
    assert (error is not None) == stops
    assert output.get_string_custom_property("findings").startswith("eval: device: ")


def test_many_anomalies_are_counted_but_not_all_quoted(tmp_path):
    names = [f"f{i:02}" for i in range(14)]
    frame = pd.DataFrame({"clicked": [0.0, 1.0] * 50})
    overrides = [f"features.{n}={{type: dense, required: true}}" for n in names]
    overrides += ["features.user.required=false", "features.device.max_drift=null"]
    stats = statistics(frame)
    error, _ = execute(tmp_path, stats, stats, *overrides)
    assert "28 anomalies" in error
    assert error.count("SCHEMA_MISSING_COLUMN") == 10
    assert "  and 18 more" in error.splitlines()
