import collections
import datetime
import json
import os
import re
import shutil

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem
from executions import artifact
from tfx.orchestration import data_types
from tfx.types import artifact_utils, channel_utils, standard_artifacts

from components import artifacts, held_days
from components.daily_example_gen import day_store, ingest, splits
from components.daily_example_gen.component import DailyExampleGen
from components.daily_example_gen.day_store import DayStore, list_logs
from components.daily_example_gen.executor import Executor, make_examples
from components.daily_example_gen.fields import event_fields
from components.pusher.executor import newest_day
from components.run_plan import RunPlan
from components.smoothed_rates import Counter, Rates, event_buckets
from schemas.errors import BadDataError
from schemas.loading import parse_spec
from trainer_module.preprocessing import raw_feature_spec

SPEC = """
name: test
events: {max_quarantined: 0.1}
features:
  user: {type: categorical, buckets: 10, embedding: 2, required: true}
  topics: {type: categorical, multivalued: true, buckets: 10, embedding: 2}
  hour: {type: categorical, dtype: int, buckets: 24, embedding: 2}
  age: {type: dense}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: 0.5}}
  rate: {kind: regression, label: rating, optional: true, gate: {max_rmse: 9}}
model: {preset: tiny}
training: {window_days: 3, min_window_days: 2, exposures: 1.5}
serving: {score: click}
"""
DAYS = [datetime.date(2026, 1, day) for day in range(1, 5)]
RUN_DATE = DAYS[-1]


def make_pipeline():
    return beam.Pipeline(argv=["--runner=DirectRunner", "--direct_running_mode=in_memory"])


def no_pipeline():
    raise AssertionError("something was parsed")


def event(number, **changes):
    return {
        "event_id": f"e{number}",
        "user": f"u{number}",
        "topics": ["a", "b"],
        "hour": number % 24,
        "age": 1.5,
        "clicked": number % 2,
        "rating": 2.5 if number % 5 == 0 else None,
        **changes,
    }


def write_day(logs, date, lines, name="part-0.jsonl"):
    directory = logs / date.isoformat()
    directory.mkdir(parents=True, exist_ok=True)
    text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    (directory / name).write_text(text)
    return directory / name


def plan(base_trained_through=None, window=None, **overrides):
    spec = parse_spec(SPEC, "test", [f"{k.replace('__', '.')}={v}" for k, v in overrides.items()])
    return RunPlan(
        spec=spec,
        run_date=RUN_DATE,
        window=tuple(DAYS[:-1] if window is None else window),
        base_version=None if base_trained_through is None else 1,
        base_trained_through=base_trained_through,
    )


@pytest.fixture(scope="module")
def _template(tmp_path_factory):
    root = tmp_path_factory.mktemp("template")
    for i, date in enumerate(DAYS):
        write_day(root / "logs", date, [event(1000 * i + n) for n in range(100)])
    run(plan(), root, root / "out", make_pipeline)
    shutil.rmtree(root / "out")
    return root


@pytest.fixture
def root(_template, tmp_path):
    """Four days of 100 events in `logs`, all of them in `store`; times are kept."""
    shutil.copytree(_template, tmp_path / "root")
    return tmp_path / "root"


def run(plan, root, out=None, make_pipeline=no_pipeline, rates=None):
    out = out or root / "out"
    return make_examples(
        plan,
        str(root / "logs"),
        str(root / "store"),
        {"train": str(out / "Split-train"), "eval": str(out / "Split-eval")},
        str(out / "quarantine"),
        make_pipeline,
        rates_path=rates and str(rates),
    )


def records(directory):
    files = sorted(map(str, directory.glob("*")))
    raw = tf.data.TFRecordDataset(files, compression_type="GZIP") if files else []
    return [tf.train.Example.FromString(record.numpy()).features.feature for record in raw]


def users(directory):
    return [record["user"].bytes_list.value[0].decode() for record in records(directory)]


def stored(root, date):
    store = DayStore(str(root / "store"), plan().spec.events_fingerprint())
    return store.find(list_logs(str(root / "logs"), date))


def ingest_day(root, date, make_pipeline=make_pipeline, scheme=""):
    spec = plan().spec
    return ingest.ingest_days(
        f"{scheme}{root}/logs",
        [date],
        event_fields(spec),
        DayStore(f"{scheme}{root}/store", spec.events_fingerprint()),
        make_pipeline,
    ).get(date)


# Splits


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


# The day store


def test_stored_days_are_not_parsed_again(root):
    run(plan(), root)
    run(plan(base_trained_through=DAYS[2]), root, root / "again")


@pytest.mark.parametrize("change", ["same size", "late file", "removed file"])
def test_changed_day_alone_is_parsed_again_and_its_old_form_removed(root, monkeypatch, change):
    before = stored(root, DAYS[1]).directory
    late = write_day(root / "logs", DAYS[1], [event(7777)], "part-1.jsonl")
    if change == "late file":
        expected = 101
    else:
        before = ingest_day(root, DAYS[1]).directory
        expected = 100
        if change == "removed file":
            late.unlink()
        else:
            expected = 101
            write_day(root / "logs", DAYS[1], [event(8888)], "part-1.jsonl")
    parsed = []
    original = ingest.pieces_of
    monkeypatch.setattr(
        ingest, "pieces_of", lambda logs: parsed.append(logs.date) or original(logs)
    )
    result = run(plan(), root, make_pipeline=make_pipeline)
    assert set(parsed) == {DAYS[1]}
    assert result.days[DAYS[1]].manifest.events == expected
    if change == "same size":
        assert "u8888" in users(root / "out/Split-train")
        assert "u7777" not in users(root / "out/Split-train")
    assert not os.path.exists(before)
    assert len(list((root / "store").glob(f"*/{DAYS[1]}/*"))) == 1


def test_events_encoded_otherwise_are_stored_apart(root):
    changed = plan(features__age__required="true")
    run(changed, root, make_pipeline=make_pipeline)
    run(changed, root, root / "again")
    run(plan(), root, root / "third")


def test_killed_run_leaves_no_day_that_looks_whole(root, monkeypatch):
    path = write_day(root / "logs", DAYS[0], [event(1)])

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(day_store, "_publish", die)
    with pytest.raises(KeyboardInterrupt):
        ingest_day(root, DAYS[0])
    assert stored(root, DAYS[0]) is None
    monkeypatch.undo()
    assert ingest_day(root, DAYS[0]).manifest.events == 1
    assert path.exists()
    assert not list((root / "store").glob("*/.work/*"))


def test_of_two_runs_storing_a_day_at_once_both_get_a_whole_one(root, monkeypatch):
    write_day(root / "logs", DAYS[0], [event(n) for n in range(20)])
    publish = day_store._publish

    def publish_second(staged, final):
        if not os.path.exists(final):
            shutil.copytree(staged, final)
        publish(staged, final)

    monkeypatch.setattr(day_store, "_publish", publish_second)
    day = ingest_day(root, DAYS[0])
    assert day.manifest.events == 20
    assert len(os.listdir(day.directory)) == 16 + 2


def test_logs_that_change_while_they_are_read_are_an_error(root, monkeypatch):
    write_day(root / "logs", DAYS[0], [event(1)])
    original = ingest._run

    def run_slowly(*args):
        result = original(*args)
        write_day(root / "logs", DAYS[0], [event(2)], "part-9.jsonl")
        return result

    monkeypatch.setattr(ingest, "_run", run_slowly)
    with pytest.raises(BadDataError, match="changed while they were read"):
        ingest_day(root, DAYS[0])


@pytest.mark.parametrize("name", ["b.jsonl", "b.csv", "b.jsonl.gz", "b.parquet"])
def test_log_that_goes_before_it_is_read_is_a_change_too(root, monkeypatch, name):
    path = write_day(root / "logs", DAYS[0], [event(1)], name)
    original = ingest._run

    def run_late(*args):
        path.unlink()
        return original(*args)

    monkeypatch.setattr(ingest, "_run", run_late)
    with pytest.raises(BadDataError, match=rf"{DAYS[0]}: .* while they were read\. Run again"):
        ingest_day(root, DAYS[0])


def test_work_left_by_a_killed_run_is_removed_after_days(root):
    old = next((root / "store").glob("*")) / ".work" / "20200101T000000-dead"
    old.mkdir(parents=True)
    (old / "x.arrow").write_text("")
    write_day(root / "logs", DAYS[0], [event(1)])
    ingest_day(root, DAYS[0])
    assert not old.exists()


class ObjectStore(LocalFileSystem):
    """`objects://<local path>`: no directories to make, no renaming of directories."""

    @classmethod
    def scheme(cls):
        return "objects"

    @staticmethod
    def _key(url):
        return url.removeprefix("objects://")

    def _list(self, dir_or_prefix):
        for directory, _, names in os.walk(self._key(dir_or_prefix)):
            for path in (os.path.join(directory, name) for name in names):
                url = "objects://" + path
                yield FileMetadata(url, os.path.getsize(path), os.path.getmtime(path))

    def _path_open(self, path, *args, **kwargs):
        return super()._path_open(self._key(path), *args, **kwargs)

    def create(self, path, *args, **kwargs):
        return super().create(self._key(path), *args, **kwargs)

    def exists(self, path):
        return os.path.isfile(self._key(path)) or path.endswith("/")

    def rename(self, source_file_names, destination_file_names):
        self.copy(source_file_names, destination_file_names)
        self.delete(source_file_names)

    def copy(self, source_file_names, destination_file_names):
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            assert os.path.isfile(self._key(source))
            os.makedirs(os.path.dirname(self._key(destination)), exist_ok=True)
            shutil.copy(self._key(source), self._key(destination))

    def delete(self, paths):
        for path in paths:
            os.remove(self._key(path))


def test_logs_and_store_may_be_remote(root):
    def ingest_remotely(make_pipeline):
        return make_examples(
            plan(),
            f"objects://{root}/logs",
            f"objects://{root}/remote",
            {"train": str(root / "out/Split-train"), "eval": f"objects://{root}/out/Split-eval"},
            str(root / "out/quarantine"),
            make_pipeline,
        )

    result = ingest_remotely(make_pipeline)
    assert result.total("events") == 400
    former = result.days[DAYS[0]].directory.removeprefix("objects://")
    assert len(os.listdir(former)) == 16 + 2
    assert len(users(root / "out/Split-train")) == 300
    assert len(users(root / "out/Split-eval")) == 100
    shutil.rmtree(root / "out")
    ingest_remotely(no_pipeline)
    write_day(root / "logs", DAYS[0], [event(1)])
    shutil.rmtree(root / "out")
    assert ingest_remotely(make_pipeline).total("events") == 301
    assert not os.path.isdir(former) or not os.listdir(former)
    assert not [path for path in (root / "remote").glob("*/.work/*/*") if path.is_file()]


def test_held_days_may_be_remembered_remotely(tmp_path):
    store = f"objects://{tmp_path}/store"
    assert held_days.list_held(store) == []
    assert held_days.find(store, DAYS[0]) is None
    days = [held_days.HeldDay(date, "c", 1, ("click",), RUN_DATE) for date in DAYS[:3]]
    for day in days:
        held_days.save(store, day)
    assert held_days.list_held(store) == days
    assert held_days.release(store, DAYS[1]).released
    assert held_days.forget_before(store, DAYS[1]) == [DAYS[0]]
    assert held_days.list_held(store) == [days[2]]


@pytest.mark.parametrize("scheme", ["", "objects://"])
def test_path_with_the_characters_of_a_pattern_is_taken_as_it_is(tmp_path, scheme):
    root = tmp_path / "br[ab]*?"
    write_day(root / "logs", DAYS[0], [event(1)])
    write_day(tmp_path / "bra*?" / "logs", DAYS[0], [event(1)], "other.jsonl")
    assert ingest_day(root, DAYS[0], scheme=scheme).manifest.events == 1
    write_day(root / "logs", DAYS[0], [event(2), event(3)])
    day = ingest_day(root, DAYS[0], scheme=scheme)
    assert [file["name"] for file in day.manifest.files] == ["part-0.jsonl"]
    stored_files = [path for path in (root / "store").rglob("*") if path.is_file()]
    assert len(stored_files) == 16 + 2
    assert not [path for path in stored_files if ".work" in path.parts]


# Duplicates, empty files, other files


def test_last_event_in_file_order_counts_of_those_with_one_id(root):
    write_day(root / "logs", DAYS[0], [event(1, user="b1"), event(2, user="b2")], "b.jsonl")
    write_day(
        root / "logs", DAYS[0], [event(1, user="a1"), event(3, user="x"), event(3)], "a.jsonl"
    )
    (root / f"logs/{DAYS[0]}/part-0.jsonl").unlink()
    day = ingest_day(root, DAYS[0])
    assert (day.manifest.events, day.manifest.duplicates) == (3, 2)
    run(plan(events__max_duplicates=0.5), root)
    train = users(root / "out/Split-train")
    assert {"b1", "b2", "u3"} <= set(train)
    assert not {"a1", "x"} & set(train)


def test_files_that_each_number_their_own_events_are_an_error_that_names_two_of_them(root):
    for hour in range(24):
        lines = [event(n, user=f"u{hour}") for n in range(50)]
        write_day(root / "logs", DAYS[2], lines, f"hour-{hour:02d}.jsonl")
    (root / f"logs/{DAYS[2]}/part-0.jsonl").unlink()
    with pytest.raises(BadDataError) as error:
        run(plan(), root, make_pipeline=make_pipeline)
    message = str(error.value)
    assert "1 150 of 1 200 events were left out" in message
    assert "95.8 %), limit 10 %" in message
    assert re.search(r'"e\d+" in hour-00.jsonl, and again in hour-23.jsonl', message)
    allowed = run(plan(events__max_duplicates=0.96), root)
    assert allowed.total("duplicates") == 1150
    (note,) = [note for note in allowed.notes if "left out" in note]
    assert note.startswith(f"{DAYS[2]}: 1 150 of 1 200 events")


@pytest.mark.parametrize(("repeats", "fails"), [(11, False), (12, True)])
def test_share_of_duplicates_is_of_all_events_of_the_day(root, repeats, fails):
    lines = [event(n) for n in range(100)] + [event(n, user="new") for n in range(repeats)]
    write_day(root / "logs", RUN_DATE, lines)
    if fails:
        with pytest.raises(BadDataError, match=r'\n  "e\d+" in part-0.jsonl\n'):
            run(plan(), root, make_pipeline=make_pipeline)
    else:
        assert run(plan(), root, make_pipeline=make_pipeline).eval_events == 100


def test_formats_mix_in_a_day_and_ids_compare_as_text(root):
    write_day(root / "logs", DAYS[0], [event(0, event_id=7)])
    write_day(root / "logs", DAYS[0], ["event_id,user,clicked", "7,u,1", "8,v,0"], "q.csv")
    day = ingest_day(root, DAYS[0])
    assert (day.manifest.events, day.manifest.duplicates) == (2, 1)


def test_fields_without_values_and_cut_lists_and_files_without_events_are_noted(root):
    events = [event(n, age=None, topics=["t"] * (3 if n < 5 else 2)) for n in range(50)]
    write_day(root / "logs", RUN_DATE, [{**e, "ages": 1.0} for e in events])
    write_day(root / "logs", RUN_DATE, ["event_id,user,clicked"], "header.csv")
    limited = plan(features__topics__max_length=2)
    result = run(limited, root, make_pipeline=make_pipeline)
    notes = [note for note in result.notes if str(RUN_DATE) in note]
    assert notes == [
        f"{root}/logs/{RUN_DATE}/header.csv: no events in its 1 lines",
        f"{RUN_DATE}: 5 lists of 'topics' were cut to the 2 elements of its max_length",
        f"{RUN_DATE}: no event has a value of 'age'",
    ]
    for record in records(root / "out/Split-eval"):
        assert list(record["topics"].bytes_list.value) == [b"t", b"t"]
    stored_notes = run(limited, root, root / "again").notes
    assert stored_notes == result.notes


def test_list_of_very_many_ids_is_cut_by_default(root):
    write_day(root / "logs", RUN_DATE, [event(1, topics=[f"t{n}" for n in range(250_000)])])
    run(plan(), root, make_pipeline=make_pipeline)
    (record,) = records(root / "out/Split-eval")
    assert len(record["topics"].bytes_list.value) == 1000


def test_empty_and_unknown_files_are_noted_and_markers_are_not(root):
    for name in ("empty.jsonl", "readme.txt", "_SUCCESS", ".hidden.jsonl"):
        write_day(root / "logs", RUN_DATE, [], name)
    result = run(plan(), root, make_pipeline=make_pipeline)
    notes = "\n".join(result.notes)
    assert "empty.jsonl: empty" in notes
    assert "readme.txt: ignored" in notes
    assert "_SUCCESS" not in notes
    assert ".hidden" not in notes
    assert result.eval_events == 100


@pytest.mark.parametrize("scheme", ["", "objects://"])
def test_what_is_no_file_in_a_day_is_noted(root, scheme):
    day = root / "logs" / str(DAYS[0])
    for path in ("hour=01/part-0.jsonl", "x.parquet/part-0.parquet", "_temporary/0.jsonl"):
        (day / path).parent.mkdir()
        (day / path).write_text("")
    expected = ["hour=01", "x.parquet"]
    if not scheme:
        (day / "link.jsonl").symlink_to(day / "gone.jsonl")
        expected.insert(1, "link.jsonl")
    logs = list_logs(f"{scheme}{root}/logs", DAYS[0])
    assert [file.name for file in logs.files] == ["part-0.jsonl"]
    assert [note.partition(": ignored, it is no file")[0] for note in logs.notes] == [
        f"{scheme}{day}/{name}" for name in expected
    ]


def test_day_that_cannot_be_listed_is_an_error_and_no_gap(root, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(BadDataError, match=rf"{DAYS[0]}: cannot be listed \(Permission denied\)"):
        list_logs(str(root / "logs"), DAYS[0])


@pytest.mark.parametrize("date", [DAYS[1], RUN_DATE])
def test_day_of_nothing_but_subdirectories_says_so(root, date):
    day = root / "logs" / str(date)
    (day / "hour=01").mkdir()
    (day / "part-0.jsonl").rename(day / "hour=01" / "part-0.jsonl")
    if date == RUN_DATE:
        with pytest.raises(BadDataError, match=r"no log files.*\n.*hour=01: ignored"):
            run(plan(), root)
        return
    assert f"{day}/hour=01: ignored" in "\n".join(run(plan(), root).notes)
    with pytest.raises(BadDataError, match=r"min_window_days.*\n.*hour=01: ignored"):
        run(plan(training__min_window_days=3), root, root / "again")


def test_file_name_that_is_no_utf8_is_shown_with_its_bytes(root):
    name, other = (os.fsdecode(b"part-\xff" + suffix) for suffix in (b".jsonl", b".txt"))
    write_day(root / "logs", RUN_DATE, [event(1), "oops"], name)
    write_day(root / "logs", RUN_DATE, [], other)
    result = run(plan(), root, make_pipeline=make_pipeline)
    manifest = result.days[RUN_DATE].manifest
    (line,) = (root / f"out/quarantine/{RUN_DATE}.jsonl").read_bytes().splitlines()
    assert json.loads(line)["file"] == f"{root}/logs/{RUN_DATE}/part-\\xff.jsonl"
    assert manifest.events == 101
    assert "part-\\xff.jsonl:2: not valid JSON" in manifest.reasons[0]
    assert "part-\\xff.txt: ignored" in "\n".join(result.notes)


def test_large_file_is_cut_into_ranges_with_line_numbers_of_the_file(root, monkeypatch):
    monkeypatch.setattr(ingest, "_PIECE_BYTES", 1000)
    lines = [event(n) for n in range(100)]
    lines[57] = "oops"
    path = write_day(root / "logs", DAYS[0], lines)
    assert len(ingest.pieces_of(list_logs(str(root / "logs"), DAYS[0]))) > 5
    day = ingest_day(root, DAYS[0])
    assert day.manifest.events == 99
    with open(day.quarantine, encoding="utf-8") as file:
        (record,) = map(json.loads, file)
    assert record["file"] == str(path)
    assert record["line"] == 58
    assert record["raw"] == "oops"


# Bad data


def test_malformed_lines_below_the_limit_are_counted_and_quarantined(root):
    lines = [event(n) for n in range(99)]
    lines.insert(11, event(500, age="n/a"))
    path = write_day(root / "logs", DAYS[2], lines)
    result = run(plan(), root, make_pipeline=make_pipeline)
    assert (result.total("quarantined"), result.total("events")) == (1, 399)
    (line,) = (root / f"out/quarantine/{DAYS[2]}.jsonl").read_text().splitlines()
    reason = "field 'age': expected a number, got \"n/a\""
    assert json.loads(line) == {
        "file": str(path),
        "line": 12,
        "reason": reason,
        "raw": json.dumps(event(500, age="n/a")),
        "kind": "expected a number",
        "field": "age",
    }


def test_malformed_lines_above_the_limit_fail_the_run_and_stay_in_the_store(root):
    path = write_day(root / "logs", DAYS[2], [event(1), "oops", event(2, clicked=3)])
    with pytest.raises(BadDataError) as error:
        run(plan(), root, make_pipeline=make_pipeline)
    message = str(error.value)
    assert "2 of 3 lines are malformed (66.7 %, limit 10 %)" in message
    assert f"{path}:3: field 'clicked': expected 0 or 1, got 3" in message
    quarantine = stored(root, DAYS[2]).quarantine
    assert quarantine in message
    with open(quarantine, encoding="utf-8") as file:
        assert len(file.readlines()) == 2
    with pytest.raises(BadDataError, match="2 of 3 lines"):
        run(plan(), root)
    assert run(plan(events__max_quarantined=1.0), root).total("quarantined") == 2


@pytest.mark.parametrize("how", ["missing", "empty directory", "empty file"])
def test_run_date_without_events_is_an_error(root, how):
    shutil.rmtree(root / f"logs/{RUN_DATE}")
    if how == "empty directory":
        (root / f"logs/{RUN_DATE}").mkdir()
    if how == "empty file":
        write_day(root / "logs", RUN_DATE, [])
    with pytest.raises(BadDataError, match=rf"{RUN_DATE}: .* no (log files|events)"):
        run(plan(), root, make_pipeline=make_pipeline)


@pytest.mark.parametrize("gap", [1, 2])
@pytest.mark.parametrize("how", ["missing", "empty file"])
def test_gap_in_the_window_is_noted_and_the_run_goes_on(root, how, gap):
    shutil.rmtree(root / f"logs/{DAYS[gap]}")
    if how == "empty file":
        write_day(root / "logs", DAYS[gap], [])
    result = run(plan(), root, make_pipeline=make_pipeline)
    others = [date for date in DAYS[:3] if date != DAYS[gap]]
    assert [day.date for day in result.training] == others
    assert f"{DAYS[gap]}: no events, a gap in the window" in result.notes
    # A later run tells by the shards which days were trained on: this one is still to come.
    assert newest_day(str(root / "out" / "Split-train")) == others[-1]


def test_fewer_window_days_than_wanted_are_an_error_that_names_them(root):
    for date in DAYS[:2]:
        shutil.rmtree(root / f"logs/{date}")
    with pytest.raises(BadDataError, match=r"1 of the 3 days .* 2026-01-01, 2026-01-02"):
        run(plan(), root)


def test_nothing_to_train_on_is_an_error(root):
    with pytest.raises(BadDataError, match="no events to train on"):
        run(plan(base_trained_through=DAYS[2], training__exposures=1.0), root)


@pytest.mark.parametrize(("fewest", "what"), [(101, "100 events"), (1, None)])
def test_too_few_events_on_the_run_date_are_an_error(root, fewest, what):
    limited = plan(validation__min_events=fewest)
    if what is None:
        run(limited, root)
    else:
        with pytest.raises(BadDataError, match=f"{RUN_DATE}: {what}, fewer than the {fewest}"):
            run(limited, root)


def test_too_few_events_to_train_on_are_an_error(root):
    limited = plan(DAYS[2], validation__min_events=90, training__exposures=1.01)
    with pytest.raises(BadDataError, match="events to train on before"):
        run(limited, root)


def test_corrupt_file_is_an_error_and_other_days_are_kept(root):
    (root / f"logs/{DAYS[0]}/cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00")
    write_day(root / "logs", DAYS[1], [event(n) for n in range(50)])
    with pytest.raises(BadDataError, match=r"cut\.jsonl\.gz: the gzip stream breaks off"):
        run(plan(), root, make_pipeline=make_pipeline)
    assert stored(root, DAYS[0]) is None
    assert stored(root, DAYS[1]).manifest.events == 50


# What the model must beat


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


# The TFX component


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
