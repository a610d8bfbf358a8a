"""History features joined with encoded days: against a reference over the logs themselves."""

import datetime
import json
import math
import shutil

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from components.daily_example_gen import history_join
from components.daily_example_gen.executor import make_examples
from components.daily_example_gen.shards import read_records
from components.run_plan import RunPlan
from schemas.loading import parse_spec

SPEC = """
name: test
events: {max_duplicates: 0.5}
features:
  user: {type: categorical, buckets: 10, embedding: 2}
  author: {type: categorical, dtype: int, buckets: 10, embedding: 2}
  age: {type: dense}
  user_history: {type: history, of: user, days: 3, prior_strength: 5}
  pair_history: {type: history, of: [user, author], days: 2, tasks: [click]}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: 0.5}}
  watch: {kind: regression, label: seconds, transform: log1p, optional: true, gate: {max_rmse: 9}}
model: {preset: tiny}
training: {window_days: 2}
serving: {score: click}
"""
DAYS = [datetime.date(2026, 1, day) for day in range(1, 7)]
RUN_DATE = DAYS[-1]
MISSING = (None, "", -1)
COLUMNS = {
    "user_history": (
        "user_history__count",
        "user_history__click__rate",
        "user_history__watch__rate",
    ),
    "pair_history": ("pair_history__count", "pair_history__click__rate"),
}


def make_pipeline():
    return beam.Pipeline(argv=["--runner=DirectRunner", "--direct_running_mode=in_memory"])


def make_events(day, count=60):
    """Some users and authors are missing, so are labels; -1 is a missing author, too."""
    rng = np.random.default_rng(day)
    return [
        {
            "event_id": f"{day}-{number}",
            "user": [None, "", "a", "b", "ü", "d"][rng.integers(6)],
            "author": [None, -1, 7, 8][rng.integers(4)],
            "age": float(number),
            "clicked": int(rng.random() < 0.3),
            "seconds": float(rng.exponential(20)) if rng.random() < 0.7 else None,
        }
        for number in range(count)
    ]


def write_day(logs, date, events):
    folder = logs / str(date)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(event) for event in events]
    (folder / "part-0.jsonl").write_text("\n".join(lines) + "\n")


def plan(run_date=RUN_DATE, *overrides):
    spec = parse_spec(SPEC, "test", overrides)
    window = tuple(run_date - datetime.timedelta(days=day) for day in (2, 1))
    return RunPlan(spec, run_date, window)


def run(root, run_plan=None, make_pipeline=make_pipeline):
    out = root / "out"
    shutil.rmtree(out, ignore_errors=True)
    return make_examples(
        run_plan or plan(),
        str(root / "logs"),
        str(root / "store"),
        {"train": str(out / "train"), "eval": str(out / "eval")},
        str(out / "quarantine"),
        make_pipeline,
        str(out / "history"),
    )


def encoded(root, split):
    """Columns of each encoded event, by day and age, which numbers a day's events."""
    result = {}
    for path in sorted((root / "out" / split).iterdir()):
        for record in tf.data.TFRecordDataset(str(path), compression_type="GZIP"):
            feature = tf.train.Example.FromString(record.numpy()).features.feature
            key = path.name[:10], int(feature["age"].float_list.value[0])
            result[key] = {
                column: value
                for name, columns in COLUMNS.items()
                for column, value in zip(columns, feature[name].float_list.value, strict=True)
            }
    return result


def reference(days, date, event):
    """An event's history by plain arithmetic over the events of the days before."""
    values = {}
    for name, keys, length, strength in (
        ("user_history", ("user",), 3, 5.0),
        ("pair_history", ("user", "author"), 2, 4.0),
    ):
        own_id = [None if event[key] in MISSING else event[key] for key in keys]
        past = [
            e
            for day, events in days.items()
            if 1 <= (date - day).days <= length
            for e in events
            if all(e[key] not in MISSING for key in keys)
        ]
        own = [e for e in past if [e[key] for key in keys] == own_id]
        values[f"{name}__count"] = len(own)
        prior = (sum(e["clicked"] for e in past) + 0.5) / (len(past) + 1)
        added = strength / math.sqrt(prior * (1 - prior))
        rate = (sum(e["clicked"] for e in own) + added * prior) / (len(own) + added)
        values[f"{name}__click__rate"] = math.log(rate / (1 - rate) / (prior / (1 - prior)))
        if name == "user_history":
            times = [math.log1p(e["seconds"]) for e in past if e["seconds"] is not None]
            mine = [math.log1p(e["seconds"]) for e in own if e["seconds"] is not None]
            mean = sum(times) / max(len(times), 1)
            smoothed = (sum(mine) + strength * mean) / (len(mine) + strength)
            values[f"{name}__watch__rate"] = smoothed - mean
    return values


@pytest.fixture(scope="module")
def _made(tmp_path_factory):
    root = tmp_path_factory.mktemp("history")
    for day, date in enumerate(DAYS):
        write_day(root / "logs", date, make_events(day))
    run(root)
    return root


@pytest.fixture
def root(_made, tmp_path):
    shutil.copytree(_made, tmp_path / "root")
    return tmp_path / "root"


def assert_as_of_the_day_before(root, days, splits=("train", "eval"), run_date=RUN_DATE):
    for split in splits:
        found = encoded(root, split)
        dates = [run_date] if split == "eval" else list(plan(run_date).window)
        assert len(found) == sum(len(days[date]) for date in dates)
        for (day, number), values in found.items():
            date = datetime.date.fromisoformat(day)
            expected = reference(days, date, days[date][number])
            for name, value in expected.items():
                assert values[name] == pytest.approx(value, rel=1e-5, abs=1e-6)


def forbid(monkeypatch, *names):
    for name in names:

        def fail(*_, name=name):
            raise AssertionError(f"{name} was called")

        monkeypatch.setattr(history_join, name, fail)


def days_of(root):
    lines = {
        date: (root / f"logs/{date}/part-0.jsonl").read_text().splitlines()
        for date in DAYS
        if (root / f"logs/{date}").exists()
    }
    return {date: [json.loads(line) for line in content] for date, content in lines.items()}


def test_events_have_the_history_of_the_days_before_their_own(root):
    assert_as_of_the_day_before(root, days_of(root))


def test_a_planted_leak_is_seen(root, monkeypatch):
    """The same assertions fail once a day counts among the days before it."""

    def leaking(date, count):
        return [date - datetime.timedelta(days=day) for day in range(count)]

    shutil.rmtree(root / "store")
    monkeypatch.setattr(history_join, "_days_before", leaking)
    run(root)
    with pytest.raises(AssertionError):
        assert_as_of_the_day_before(root, days_of(root))


def test_a_table_of_the_events_own_day_is_refused(root):
    table = pq.read_table(root / "out/history/user_history.parquet")
    history_join.check_before(table, RUN_DATE + datetime.timedelta(days=1), "user_history")
    with pytest.raises(ValueError, match="would leak"):
        history_join.check_before(table, RUN_DATE + datetime.timedelta(days=2), "user_history")
    unmarked = table.replace_schema_metadata(None)
    with pytest.raises(ValueError, match="unknown day"):
        history_join.check_before(unmarked, RUN_DATE, "user_history")


def test_labels_that_only_their_own_day_knows_are_not_foretold(tmp_path):
    """Each day deals every user a new coin: its own labels would foretell it, the past cannot."""
    rng = np.random.default_rng(0)
    for day, date in enumerate(DAYS):
        coins = rng.integers(2, size=100)
        events = [
            {**event, "user": f"u{n % 100}", "clicked": int(coins[n % 100])}
            for n, event in enumerate(make_events(day, 1000))
        ]
        write_day(tmp_path / "logs", date, events)
    run(tmp_path)
    labels = {
        (str(RUN_DATE), n): event["clicked"] for n, event in enumerate(days_of(tmp_path)[RUN_DATE])
    }
    rates = {
        key: values["user_history__click__rate"]
        for key, values in encoded(tmp_path, "eval").items()
    }
    correlation = np.corrcoef([[labels[key], rates[key]] for key in labels], rowvar=False)[0, 1]
    assert abs(correlation) < 0.35


def test_each_day_is_counted_and_joined_once(root, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in (root / "store").rglob("*") if p.is_file()}
    forbid(monkeypatch, "_count_shard", "_make_table", "_join_shard")
    run(root)
    after = {p: p.stat().st_mtime_ns for p in (root / "store").rglob("*") if p.is_file()}
    assert after == before
    assert_as_of_the_day_before(root, days_of(root))


@pytest.mark.slow
def test_ingestion_leaves_what_history_needs_so_that_no_shard_is_decoded(root, monkeypatch):
    shutil.rmtree(root / "store")
    columns = history_join._columns

    def only_of_nothing(records, *arguments):
        assert not records
        return columns(records, *arguments)

    monkeypatch.setattr(history_join, "_columns", only_of_nothing)
    run(root)
    assert_as_of_the_day_before(root, days_of(root))


def test_a_day_that_was_ingested_without_history_is_decoded_and_counts_alike(root):
    left = {path: pq.read_table(path) for path in (root / "store").rglob("shard-*.parquet")}
    assert sum(table.num_rows for table in left.values()) == 60 * len(DAYS)
    for path in (*left, *(root / "store").rglob("totals-*.parquet")):
        path.unlink()
    for path in (root / "store").glob("*-*"):
        shutil.rmtree(path)
    run(root)
    assert_as_of_the_day_before(root, days_of(root))
    for path, table in left.items():
        assert not table.num_rows or pq.read_table(path).equals(table)


@pytest.mark.slow
def test_a_late_day_counts_for_the_days_after_it(root):
    days = days_of(root)
    days[DAYS[1]] = make_events(77)
    write_day(root / "logs", DAYS[1], days[DAYS[1]])
    run(root)
    assert_as_of_the_day_before(root, days)


def test_a_day_without_logs_counts_for_none(root):
    days = days_of(root)
    shutil.rmtree(root / f"logs/{DAYS[2]}")
    del days[DAYS[2]]
    run(root)
    assert_as_of_the_day_before(root, days)


@pytest.mark.slow
def test_of_events_with_one_id_the_last_counts(root):
    days = days_of(root)
    events = days[DAYS[2]]
    write_day(
        root / "logs", DAYS[2], [{**event, "clicked": 1, "user": "b"} for event in events] + events
    )
    run(root)
    assert_as_of_the_day_before(root, days)


def test_the_next_runs_events_have_what_the_models_table_holds(root):
    spec = plan().spec
    tables = {n: pq.read_table(root / f"out/history/{n}.parquet") for n in spec.history}
    tomorrow = RUN_DATE + datetime.timedelta(days=1)
    events = make_events(6)
    write_day(root / "logs", tomorrow, events)
    run(root, plan(tomorrow))
    rows = {
        name: {tuple(row[key] for key in spec.history[name].of): row for row in table.to_pylist()}
        for name, table in tables.items()
    }
    found = encoded(root, "eval")
    assert len(found) == len(events)
    for (_, number), values in found.items():
        for name, feature in spec.history.items():
            row = rows[name].get(tuple(events[number][key] for key in feature.of), {})
            for column in spec.history_columns(name):
                assert values[column] == row.get(column, 0.0)


def test_the_next_runs_events_are_joined_with_the_tables_that_were_made_to_serve_with(root):
    def tables():
        return {p: pq.read_table(p) for p in (root / "store").rglob("history-*.parquet")}

    def days(found):
        return {table.schema.metadata[b"before"].decode() for table in found.values()}

    tomorrow = RUN_DATE + datetime.timedelta(days=1)
    assert days(tables()) == {str(tomorrow)}
    column = next(iter(plan().spec.history_columns("user_history")))
    for path, table in tables().items():
        if column in table.column_names:
            marked = pa.array([7.25] * len(table), table.schema.field(column).type)
            place = table.column_names.index(column)
            pq.write_table(table.set_column(place, table.schema.field(column), marked), path)
    write_day(root / "logs", tomorrow, make_events(6))
    run(root, plan(tomorrow))
    assert 7.25 in {values[column] for values in encoded(root, "eval").values()}
    # What was used is gone; the newest is kept for the day after.
    assert days(tables()) == {str(tomorrow + datetime.timedelta(days=1))}


def test_settings_of_history_parse_no_log_again(root, monkeypatch):
    changed = plan(
        RUN_DATE, "features.user_history.prior_strength=9", "features.pair_history.days=3"
    )
    store = root / "store" / changed.spec.events_fingerprint()
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*.gz")}
    forbid(monkeypatch, "_count_shard")
    run(root, changed)
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*.gz")} == before


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-9], lambda b: b[:40] + b"x" * 60])
def test_damaged_totals_are_named_and_made_again_once_they_are_gone(root, damage):
    tomorrow = RUN_DATE + datetime.timedelta(days=1)
    write_day(root / "logs", tomorrow, make_events(6))
    day = root / "store" / plan().spec.events_fingerprint() / str(RUN_DATE)
    totals = sorted(day.rglob("totals-*.parquet"))[0]
    kept = totals.read_bytes()
    totals.write_bytes(damage(kept))
    with pytest.raises(Exception, match=f"{totals.name}: damaged .*remove it"):
        run(root, plan(tomorrow))
    totals.unlink()
    run(root, plan(tomorrow))
    assert pq.read_table(totals).equals(pq.read_table(pa.BufferReader(kept)))


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-9], lambda b: b[:-8] + b"x" * 8])
def test_damaged_shard_is_named_and_its_day_made_again_once_it_is_gone(root, damage):
    changed = plan(RUN_DATE, "features.pair_history.days=3")
    day = root / "store" / changed.spec.events_fingerprint() / str(RUN_DATE)
    shard = max(day.rglob("*.gz"), key=lambda path: path.stat().st_size)
    content = shard.read_bytes()
    kept = [tf.train.Example.FromString(record) for record in read_records(str(shard))]
    shard.write_bytes(damage(content))
    with pytest.raises(Exception, match=f"{shard.name}: damaged .*Remove its folder"):
        run(root, changed)
    shutil.rmtree(shard.parent)
    run(root, changed)
    (made,) = day.rglob(shard.name)
    assert [tf.train.Example.FromString(record) for record in read_records(str(made))] == kept
