"""What a run is given of its days: splits, rates, artifacts."""

import collections
import datetime
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from executions import artifact
from ingestion import (
    DAYS,
    RUN_DATE,
    event,
    make_pipeline,
    plan,
    records,
    run,
    stored,
    users,
    write_day,
)
from tfx.orchestration import data_types
from tfx.types import artifact_utils, channel_utils, standard_artifacts

from components import artifacts
from components.daily_example_gen import splits
from components.daily_example_gen.component import DailyExampleGen
from components.daily_example_gen.executor import Executor
from components.smoothed_rates import Counter, Rates, event_buckets
from schemas.errors import BadDataError
from trainer_module.preprocessing import raw_feature_spec


def test_train_is_the_window_and_eval_the_run_date(root):
    run(plan(), root)
    train, evaluated = users(root / "out/Split-train"), users(root / "out/Split-eval")
    assert sorted(train) == sorted(f"u{1000 * i + n}" for i in range(3) for n in range(100))
    assert sorted(evaluated) == sorted(f"u{3000 + n}" for n in range(100))


@pytest.mark.parametrize(("wanted", "events"), [(1, 1), (37, 37), (100, 100), (1000, 100)])
def test_sample_to_evaluate_on_has_the_size_it_says(root, wanted, events):
    result = run(plan(validation__max_eval_events=wanted), root)
    evaluated = users(root / "out/Split-eval")
    assert result.eval_events == len(evaluated) == events
    assert len(set(evaluated)) == events
    assert set(evaluated) <= {f"u{3000 + n}" for n in range(100)}


def test_example_holds_features_and_labels_as_logged(root):
    run(plan(), root)
    by_user = {r["user"].bytes_list.value[0]: r for r in records(root / "out/Split-eval")}
    record = by_user[b"u3005"]
    assert set(record) == {"user", "topics", "hour", "age", "clicked", "rating"}
    assert list(record["topics"].bytes_list.value) == [b"a", b"b"]
    assert list(record["hour"].int64_list.value) == [3005 % 24]
    assert list(record["age"].float_list.value) == [1.5]
    assert list(record["clicked"].float_list.value) == [1.0]
    assert list(record["rating"].float_list.value) == [2.5]
    assert by_user[b"u3001"]["rating"].WhichOneof("kind") is None


def test_events_are_shuffled_over_shards_and_no_event_is_in_two(root):
    day = stored(root, RUN_DATE)
    directory = root / "shards"
    directory.mkdir()
    order = []
    for number in range(len(day.manifest.shards)):
        shutil.copy(day.shard(number), directory / f"{number:05d}")
    order = users(directory)
    assert len(order) == len(set(order)) == 100
    assert order != sorted(order, key=lambda user: int(user[1:]))
    assert sum(count > 0 for count in day.manifest.shards) > 8


def test_same_logs_give_the_same_shards_in_the_same_order(root, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(root / "logs", other / "logs")
    run(plan(), root)
    run(plan(), other, make_pipeline=make_pipeline)
    for split in ("Split-train", "Split-eval"):
        assert users(root / "out" / split) == users(other / "out" / split)


def test_warm_start_takes_new_days_whole_and_a_share_of_seen_ones(root):
    result = run(plan(base_trained_through=DAYS[1]), root)
    shards = {day.date: len(day.shards) for day in result.training}
    assert shards == {DAYS[0]: 4, DAYS[1]: 4, DAYS[2]: 16}
    names = collections.Counter(p.name[:10] for p in (root / "out/Split-train").glob("*"))
    assert names == {date.isoformat(): count for date, count in shards.items()}
    assert len(users(root / "out/Split-train")) == sum(day.events for day in result.training)


def test_replayed_shards_rotate_until_all_of_a_day_were_seen():
    day = DAYS[0]
    chosen = [
        splits.choose_shards(16, 0.25, day, day + datetime.timedelta(days=age), seed=0)
        for age in range(1, 5)
    ]
    assert [len(shards) for shards in chosen] == [4] * 4
    assert sorted(shard for shards in chosen for shard in shards) == list(range(16))


@pytest.mark.parametrize(
    ("shards", "share", "count"), [(16, 0.0, 0), (16, 1.0, 16), (16, 0.01, 1), (30, 0.1, 3)]
)
def test_share_of_shards_is_rounded_up(shards, share, count):
    chosen = splits.choose_shards(shards, share, DAYS[0], RUN_DATE, seed=3)
    assert len(chosen) == len(set(chosen)) == count
    assert chosen == splits.choose_shards(shards, share, DAYS[0], RUN_DATE, seed=3)


def test_artifact_files_are_hard_links_into_the_store(root):
    run(plan(), root)
    day = stored(root, RUN_DATE)
    linked = root / f"out/Split-eval/{RUN_DATE}-00003-of-00016.gz"
    assert os.path.samefile(linked, day.shard(3))


def predicted(path, spec, records):
    buckets = event_buckets(tf.io.parse_example(records, raw_feature_spec(spec)), spec)
    rates = Rates.load(str(path), spec)
    return rates.predict({name: v.numpy() for name, v in buckets.items()}, len(records))


@pytest.mark.parametrize("seen", [None, DAYS[2]], ids=["trained on now", "trained on before"])
def test_run_date_whose_events_a_training_day_has_is_an_error(root, seen):
    """A delivery that was copied: in another order, from another file."""
    copied = [event(1000 * 1 + n) for n in range(100)]
    (root / "logs" / str(RUN_DATE) / "part-0.jsonl").unlink()
    write_day(root / "logs", RUN_DATE, copied[::-1], "again.jsonl")
    message = rf"{RUN_DATE}: has the same events as {DAYS[1]}, which .* Deliver the day's own logs"
    with pytest.raises(BadDataError, match=message):
        run(plan(seen), root, make_pipeline=make_pipeline)
    assert not (root / "out").exists()
    # The same ids, as logs have them that count from 0 each day, and one event that differs.
    copied[50]["clicked"] = 1 - copied[50]["clicked"]
    write_day(root / "logs", RUN_DATE, copied, "again.jsonl")
    run(plan(seen), root, make_pipeline=make_pipeline)


def test_rates_are_of_the_whole_window_whatever_is_trained_on(root, monkeypatch):
    spec = plan().spec
    result = run(plan(), root, rates=root / "cold.npz")
    shards = [str(path) for path in (root / "out/Split-train").iterdir()]
    assert sum(day.events for day in result.training) == 300
    Rates.of(Counter(spec).count(shards, 10_000), spec).save(str(root / "all.npz"))
    events = list(tf.data.TFRecordDataset(shards, "GZIP").as_numpy_iterator())
    shutil.rmtree(root / "out")

    # A day's events are counted once.
    def no_count(*_):
        raise AssertionError

    monkeypatch.setattr(Counter, "count", no_count)
    warm = run(plan(base_trained_through=DAYS[1]), root, rates=root / "warm.npz")
    assert sum(day.events for day in warm.training) < 300
    expected = predicted(root / "all.npz", spec, events)
    assert np.ptp(expected["click"]) > 0.01
    for name in ("cold.npz", "warm.npz"):
        for task, answer in predicted(root / name, spec, events).items():
            np.testing.assert_allclose(answer, expected[task], rtol=1e-5)


def test_executor_describes_the_examples_as_tfx_example_gen_does(root):
    plan().save(str(root / "plan"))
    given = {
        "plan": artifact(artifacts.RunPlan, root / "plan"),
        "baseline_model": [standard_artifacts.Model()],
    }
    outputs = {
        "examples": artifact(standard_artifacts.Examples, root / "examples"),
        "quarantine": artifact(artifacts.QuarantinedEvents, root / "quarantine"),
        "history": artifact(artifacts.HistoryTables, root / "history"),
    }
    properties = {"logs_root": str(root / "logs"), "day_store": str(root / "store")}
    Executor().Do(given, outputs, properties)
    (examples,) = outputs["examples"]
    assert artifact_utils.decode_split_names(examples.split_names) == ["train", "eval"]
    assert examples.get_string_custom_property("payload_format") == "FORMAT_TF_EXAMPLE"
    assert examples.get_string_custom_property("file_format") == "tfrecords_gzip"
    assert examples.span == (RUN_DATE - datetime.date(1970, 1, 1)).days
    assert examples.get_int_custom_property("train_events") == 300
    assert examples.get_int_custom_property("eval_events") == 100
    seen = json.loads(examples.get_string_custom_property("seen"))
    assert list(seen) == [str(date) for date in DAYS]
    assert len(set(seen.values())) == len(DAYS)
    names = [path.name for path in (root / "examples/Split-train").iterdir()]
    assert len(names) == 48
    assert {name[:10] for name in names} == {str(date) for date in DAYS[:3]}
    assert sorted(p.name for p in (root / "quarantine").iterdir()) == [
        f"{date}.jsonl" for date in DAYS
    ]


def test_component_takes_runtime_parameters():
    component = DailyExampleGen(
        plan=channel_utils.as_channel([artifacts.RunPlan()]),
        baseline_model=channel_utils.as_channel([standard_artifacts.Model()]),
        logs_root=data_types.RuntimeParameter(name="logs", ptype=str),
        day_store="store",
    )
    assert set(component.outputs) == {"examples", "quarantine", "history"}
    assert isinstance(component.exec_properties["logs_root"], data_types.RuntimeParameter)
