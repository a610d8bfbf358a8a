"""History features from the logs to the answer: what is trained on is what is served."""

import datetime
import json
import math

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from events import write_transform_graph

from components.daily_example_gen.executor import make_examples
from components.run_plan import RunPlan
from components.serving_check.executor import check
from schemas.errors import TrainingError
from schemas.loading import parse_spec
from trainer_module import export
from trainer_module.export import export_model, requested_features
from trainer_module.history_lookup import HistoryLookup, load_tables
from trainer_module.inputs import model_inputs
from trainer_module.model import HEAD, build_model
from trainer_module.preprocessing import raw_feature_spec

SPEC = """
name: test
features:
  user: {type: categorical, buckets: 50, embedding: 2}
  author: {type: categorical, dtype: int, buckets: 50, embedding: 2}
  age: {type: dense}
  user_history: {type: history, of: user, days: 2}
  author_history: {type: history, of: author, days: 2, tasks: [click]}
  pair_history: {type: history, of: [user, author], days: 2, prior_strength: 2}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: 0.5}}
  watch: {kind: regression, label: seconds, transform: log1p, optional: true, gate: {max_rmse: 9}}
model: {shared: [8]}
training: {window_days: 1}
serving: {score: click}
"""
DAYS = [datetime.date(2026, 1, day) for day in range(1, 5)]


def make_events(day, count=80):
    rng = np.random.default_rng(day)
    return [
        {
            "event_id": f"{day}-{number}",
            "user": [None, "a", "b", "ü", f"new on {day}"][rng.integers(5)],
            "author": [None, 7, 8, -9][rng.integers(4)],
            "age": float(number),
            "clicked": int(rng.random() < 0.3),
            "seconds": float(rng.exponential(20)) if rng.random() < 0.7 else None,
        }
        for number in range(count)
    ]


def ingest(root, spec, run_date):
    """Makes a run's examples and history tables; returns the records of its `eval` split."""
    out = root / str(run_date)
    window = (run_date - datetime.timedelta(days=1),)
    make_examples(
        RunPlan(spec, run_date, window),
        str(root / "logs"),
        str(root / "store"),
        {"train": str(out / "train"), "eval": str(out / "eval")},
        str(out / "quarantine"),
        lambda: beam.Pipeline(argv=["--direct_running_mode=in_memory"]),
        str(out / "history"),
    )
    files = sorted(map(str, (out / "eval").iterdir()))
    dataset = tf.data.TFRecordDataset(files, compression_type="GZIP")
    return [record.numpy() for record in dataset]


def without(records, names):
    result = []
    for record in records:
        example = tf.train.Example.FromString(record)
        for name in names:
            example.features.feature.pop(name, None)
        result.append(example.SerializeToString())
    return result


def as_named(records, spec):
    """Requests as JSON clients send them."""
    examples = [tf.train.Example.FromString(record).features.feature for record in records]
    named = {}
    for name, feature in requested_features(spec).items():
        kind, absent, dtype = "float_list", math.nan, tf.float32
        if feature.type == "categorical":
            kind, absent, dtype = ("bytes_list", b"", tf.string)
            if feature.dtype == "int":
                kind, absent, dtype = ("int64_list", -1, tf.int64)
        values = [[*getattr(example[name], kind).value] for example in examples]
        if feature.type != "history":
            values = [[*value, absent][0] for value in values]
        named[name] = tf.constant(values, dtype)
    return named


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    root = tmp_path_factory.mktemp("history")
    for day, date in enumerate(DAYS):
        folder = root / "logs" / str(date)
        folder.mkdir(parents=True)
        lines = [json.dumps(event) for event in make_events(day)]
        (folder / "part-0.jsonl").write_text("\n".join(lines))
    return root


def halved(answer):
    return lambda self, outputs: {k: v * 0.5 for k, v in answer(self, outputs).items()}


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
@pytest.mark.parametrize("serving", ["table", "request"])
def test_what_is_served_with_history_must_be_what_is_judged(serving, logs, tmp_path, monkeypatch):
    names = ("user_history", "author_history", "pair_history")
    spec = parse_spec(SPEC, "test", [f"features.{name}.serving={serving}" for name in names])
    records = ingest(logs, spec, DAYS[3])
    split = str(logs / str(DAYS[3]) / "eval")
    transform = write_transform_graph(spec, tmp_path / "graph", records=records)
    # The model carries the history of its own run date, its events that of the days before it.
    tables = load_tables(spec, str(logs / str(DAYS[3]) / "history"))
    model = build_model(spec)
    # Predictions below 0 seconds are served as 0, and an untrained model may have no others.
    model.get_layer(f"{HEAD}watch").bias.assign([5.0])
    export_model(model, transform, spec, str(tmp_path / "model"), tables)
    assert check(str(tmp_path / "model"), split, spec)["reasons"] == []
    monkeypatch.setattr(export._Ranker, "_answer", halved(export._Ranker._answer))
    export_model(model, transform, spec, str(tmp_path / "halved"), tables)
    reasons = check(str(tmp_path / "halved"), split, spec)["reasons"]
    assert sorted(line.split(" is ")[0] for line in reasons if "the evaluated" in line) == [
        f"{form}: {task}" for form in ("raw_features", "serving_default") for task in spec.tasks
    ]


@pytest.mark.slow
@pytest.mark.parametrize("serving", ["table", "request"])
def test_training_evaluation_and_serving_see_the_same_history(serving, logs, tmp_path):
    names = ("user_history", "author_history", "pair_history")
    spec = parse_spec(SPEC, "test", [f"features.{name}.serving={serving}" for name in names])
    # The model of a run serves the day after, whose own run then evaluates and trains on it.
    ingest(logs, spec, DAYS[2])
    records = ingest(logs, spec, DAYS[3])
    transform = write_transform_graph(spec, tmp_path / "graph", records=records)
    model = build_model(spec)
    tables = load_tables(spec, str(logs / str(DAYS[2]) / "history"))
    export_model(model, transform, spec, str(tmp_path / "model"), tables)
    loaded = tf.saved_model.load(str(tmp_path / "model"))

    raw = tf.io.parse_example(records, raw_feature_spec(spec))
    trained_on = model_inputs(transform.transform_features_layer()(raw), spec)
    history = np.concatenate([trained_on[name] for name in spec.dense if "__" in name], axis=1)
    assert history.std(axis=0).min() > 0
    expected = {n: np.ravel(v) for n, v in model(trained_on).items()}
    click = 1 / (1 + np.exp(-expected["click"]))
    evaluated = loaded.signatures["evaluate"](examples=tf.constant(records))
    np.testing.assert_allclose(evaluated["click"], click, rtol=1e-5)
    np.testing.assert_allclose(evaluated["watch"], expected["watch"], rtol=1e-4, atol=1e-6)

    unasked = [*spec.labels, *(names if serving == "table" else ())]
    assert set(requested_features(spec)) == set(spec.features) - set(unasked)
    requests = without(records, unasked)
    served = loaded.signatures["serving_default"](examples=tf.constant(requests))
    named = loaded.signatures["raw_features"](**as_named(requests, spec))
    seconds = np.maximum(np.expm1(expected["watch"]), 0)
    asked = loaded.signatures["evaluate"](examples=tf.constant(requests))
    np.testing.assert_allclose(asked["click"], click, rtol=1e-5)
    for answer in (served, named):
        np.testing.assert_allclose(answer["click"], click, rtol=1e-5)
        np.testing.assert_allclose(answer["watch"], seconds, rtol=1e-4, atol=1e-5)


def test_ids_that_the_table_lacks_have_zeros():
    spec = parse_spec(SPEC, "test")
    columns = spec.history_columns("pair_history")
    table = pa.table(
        {
            "user": ["a", "b"],
            "author": [7, 8],
            **{name: pa.array([1.0, 2.0], pa.float32()) for name in columns},
        }
    )
    lookup = HistoryLookup("pair_history", spec, table)
    raw = {
        "user": tf.sparse.from_dense([["b"], ["a"], ["c"], [""], ["a"]]),
        "author": tf.sparse.from_dense(tf.constant([[8], [8], [7], [7], [0]], tf.int64)),
    }
    found = lookup(raw)
    rows = tf.sparse.to_dense(found.pop("pair_history")).numpy()
    assert rows.tolist() == [[value] * len(columns) for value in (2.0, 0.0, 0.0, 0.0, 0.0)]
    assert not found


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_each_id_of_a_table_is_found(rows):
    spec = parse_spec(SPEC, "test", ["features.user_history.tasks=[]"])
    users = [f"user {number}" for number in range(rows)]
    counts = np.arange(1, rows + 1, dtype=np.float32)
    table = pa.table({"user": pa.array(users, pa.string()), "user_history__count": counts})
    asked = tf.constant([[user] for user in [*users, "nobody"]])
    found = HistoryLookup("user_history", spec, table)({"user": tf.sparse.from_dense(asked)})
    values = tf.sparse.to_dense(found["user_history"]).numpy().ravel()
    np.testing.assert_array_equal(values, [*counts, 0.0])


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match=r"user_history\.parquet: the table"):
        load_tables(parse_spec(SPEC, "test"), str(tmp_path))
