from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import quality
from examples import frames
from examples.kuairand import convert, recent, source
from schemas.loading import load_spec
from trainer_module import signatures

USERS, VIDEOS, DAYS, A_DAY = 12, 8, 5, 60
SPEC = load_spec(str(quality.SPEC))
LABELS = list(SPEC.labels)


def a_log(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = DAYS * A_DAY
    log = pd.DataFrame(
        {
            "user_id": rng.integers(USERS, size=rows),
            "video_id": rng.integers(VIDEOS, size=rows),
            "date": 20220430,
            "hourmin": rng.integers(24, size=rows) * 100,
            "time_ms": 1_651_300_000_000 + np.arange(rows) * 1000,
            "tab": rng.integers(3, size=rows),
            "duration_ms": rng.choice([0, 10_000, 60_000], size=rows),
            "play_time_ms": rng.integers(150_000, size=rows),
            "comment_stay_time": rng.choice([0, 500], size=rows),
            "is_rand": 0,
        }
    )
    for name in ("is_click", "long_view", "is_like", "is_profile_enter"):
        log[name] = rng.integers(2, size=rows)
    dates = [20220429, 20220430, 20220501, 20220503, 20220504]
    return log.assign(date=np.repeat(dates, A_DAY))


def users() -> pd.DataFrame:
    table = pd.DataFrame({"user_id": range(USERS), "user_active_degree": "full_active"})
    numbers = ["is_live_streamer", "is_video_author", "follow_user_num", "fans_user_num"]
    table[[*numbers, "friend_user_num", "register_days"]] = 1
    table[list(source.ONE_HOTS)] = 2.0
    table.loc[3, "onehot_feat4"] = np.nan
    return table


def videos() -> pd.DataFrame:
    table = pd.DataFrame({"video_id": range(VIDEOS), "video_type": "NORMAL", "upload_type": "Web"})
    table["author_id"] = 100 + table["video_id"] // 2
    table["music_id"] = 7
    table["music_type"] = [9.0] * (VIDEOS - 1) + [np.nan]
    table["server_width"], table["server_height"] = 720.0, 1280.0
    table["tag"] = ["39", "39,68", np.nan, "3", "3", "6", "6", "20"]
    return table


@pytest.fixture
def folder(tmp_path):
    a_log().to_csv(tmp_path / "log_standard_pure.csv.gz", index=False)
    users().to_csv(tmp_path / "user_features_pure.csv", index=False)
    videos().to_csv(tmp_path / "video_features_basic_pure.csv", index=False)
    return tmp_path


def events_with(folder, log: pd.DataFrame) -> pd.DataFrame:
    log.to_csv(folder / "log_standard_pure.csv.gz", index=False)
    return convert.events_of(source.read_impressions(str(folder))).set_index("event_id")


def test_every_field_of_the_spec_is_written(folder):
    logs = folder / "logs"
    assert convert.main(["--source", str(folder), "--logs", str(logs)]) == 0
    days = ["2022-04-29", "2022-04-30", "2022-05-01", "2022-05-03", "2022-05-04"]
    assert sorted(path.name for path in logs.iterdir()) == days
    written = pq.read_schema(str(logs / days[0] / "part-0.parquet")).names
    needed = {SPEC.events.id, *SPEC.logged, *SPEC.labels}
    assert needed <= set(written)
    assert sum(pq.read_metadata(str(p)).num_rows for p in logs.glob("*/*")) == DAYS * A_DAY
    assert {path.name for path in logs.glob("*/*")} == {"part-0.parquet"}


def test_no_feature_looks_at_its_own_day_or_later(folder):
    log = a_log()
    before = events_with(folder, log)
    for date in log["date"].unique():
        changed, other = log.copy(), a_log(seed=1)
        later = changed["date"] >= date
        outcomes = ["play_time_ms", "comment_stay_time", "is_click", "long_view", "is_like"]
        changed.loc[later, [*outcomes, "is_profile_enter"]] = other[later]
        after = events_with(folder, changed)
        until = before["date"] <= pd.to_datetime(str(date))
        pd.testing.assert_frame_equal(
            before[until].drop(columns=LABELS), after[until].drop(columns=LABELS)
        )


def test_rows_that_come_later_change_nothing_before_them(folder):
    log = a_log()
    whole = events_with(folder, log)
    for date in log["date"].unique():
        until = events_with(folder, log[log["date"] <= date])
        pd.testing.assert_frame_equal(until, whole.loc[until.index])


def test_rates_count_the_days_before(folder):
    log = a_log()
    events = frames.with_history(events_with(folder, log).reset_index(), SPEC)
    row = events[events["date"] == "2022-05-04"].iloc[0]
    past = log[(log["user_id"] == row["user_id"]) & (log["date"] < 20220504)]
    assert row["user_history__count"] == len(past)
    strength = SPEC.history["user_history"].prior_strength
    overall = (log[log["date"] < 20220504]["is_click"].sum() + 0.5) / (4 * A_DAY + 1)
    strength /= np.sqrt(overall * (1 - overall))
    rate = (past["is_click"].sum() + strength * overall) / (len(past) + strength)
    log_odds = [np.log(share / (1 - share)) for share in (rate, overall)]
    assert row["user_history__click__rate"] == pytest.approx(log_odds[0] - log_odds[1], rel=1e-5)


def test_arrays_hold_every_input_and_label_of_every_event(folder):
    events = frames.with_history(events_with(folder, a_log()).reset_index(), SPEC)
    found = frames.transformed(events, SPEC)
    assert set(SPEC.inputs) <= set(found)
    assert {len(values) for values in found.values()} == {DAYS * A_DAY}
    np.testing.assert_allclose(
        found["user_history__count"][:, 0], np.log1p(events["user_history__count"]), rtol=1e-6
    )
    masked = found[signatures.weight_key("watch_ratio")][:, 0] == 0
    np.testing.assert_array_equal(masked, events["label_watch_ratio"].isna())
    assert (np.bincount(found["day"]) == A_DAY).all()


def test_the_first_day_has_no_past(folder):
    events = frames.with_history(events_with(folder, a_log()).reset_index(), SPEC)
    first = events[events["date"] == "2022-04-29"]
    assert (first[[name for name in SPEC.inputs if "__" in name]] == 0).all(axis=None)
    assert first["recent_videos"].map(len).eq(0).all()


def test_recent_lists_are_distinct_newest_first_and_of_past_days():
    rows = pd.DataFrame(
        {
            "user_id": [1, 1, 1, 2, 1, 1, 1],
            "date": pd.to_datetime(["2022-05-01"] * 4 + ["2022-05-02"] * 2 + ["2022-05-04"]),
            "video_id": [10, 11, 10, 12, 13, 14, 15],
        }
    )
    chosen = pd.Series([True, True, True, True, True, False, True])
    lists = recent.last_chosen(rows, chosen, "video_id", size=2)
    assert lists.tolist() == [[], [], [], [], [10, 11], [10, 11], [13, 10]]


def test_relogged_rows_keep_the_longest_play(folder):
    log = a_log()
    first = log.iloc[[0]]
    shorter = first.assign(play_time_ms=0, is_click=0, hourmin=2300)
    longest = first.assign(play_time_ms=200_000, is_click=1)
    events = events_with(folder, pd.concat([log, log.iloc[5:9], longest, shorter]))
    assert len(events) == len(log)
    assert events.index.is_unique
    kept = events.loc[f"{first['user_id'].item()}-{first['video_id'].item()}-1651300000000"]
    assert kept["label_play_seconds"] == 200.0
    assert kept["label_click"] == 1


def test_watch_ratio_is_masked_where_the_duration_is_unknown(folder):
    log = a_log()
    events = events_with(folder, log)
    masked = events["label_watch_ratio"].isna()
    assert masked.sum() == (log["duration_ms"] == 0).sum() > 0
    assert masked.equals(events["duration_seconds"].isna())
    assert events["label_watch_ratio"].max() == 2.0
    assert events["label_play_seconds"].notna().all()
    convert.write_logs(events.reset_index(), str(folder / "logs"))
    table = pq.read_table(str(folder / "logs" / "2022-04-29" / "part-0.parquet"))
    nulls = table["label_watch_ratio"].null_count
    assert nulls == (log["duration_ms"].iloc[:A_DAY] == 0).sum()


def test_missing_categories_are_null_and_tags_are_lists(folder):
    events = events_with(folder, a_log())
    assert events.loc[events["user_id"] == 3, "onehot_4"].isna().all()
    assert events.loc[events["video_id"] == 1, "tags"].iloc[0] == ["39", "68"]
    assert events.loc[events["video_id"] == 2, "tags"].iloc[0] == []


def test_two_log_files_are_put_together(folder):
    log = a_log()
    whole = events_with(folder, log)
    log.iloc[:100].to_csv(folder / "log_standard_a.csv", index=False)
    parts = events_with(folder, log.iloc[100:])
    pd.testing.assert_frame_equal(whole, parts)


def test_missing_file_is_named(folder, capsys):
    (folder / "user_features_pure.csv").unlink()
    assert convert.main(["--source", str(folder), "--logs", str(folder / "logs")]) == 11
    assert "user_features*.csv" in capsys.readouterr().err
    assert not (folder / "logs").exists()


def test_missing_column_is_named(folder, capsys):
    videos().drop(columns="tag").to_csv(folder / "video_features_basic_pure.csv", index=False)
    assert convert.main(["--source", str(folder), "--logs", str(folder / "logs")]) == 11
    error = capsys.readouterr().err
    assert "video_features_basic_pure.csv: column 'tag' missing" in error


def test_value_that_is_no_number_is_named_with_its_line(folder, capsys):
    text = a_log().astype({"play_time_ms": object})
    text.loc[4, "play_time_ms"] = "n/a"
    with gzip.open(folder / "log_standard_pure.csv.gz", "wt") as file:
        text.to_csv(file, index=False)
    assert convert.main(["--source", str(folder), "--logs", str(folder / "logs")]) == 11
    assert ":6: column 'play_time_ms'" in capsys.readouterr().err


def test_benchmark_skips_without_data(capsys, tmp_path):
    assert quality.main([]) == 0
    assert quality.main(["--source", str(tmp_path / "absent")]) == 0
    assert capsys.readouterr().out.count("skipped") == 2


def test_benchmark_scores_rankers_on_the_same_days_and_keeps_each_ones_result(folder, capsys):
    results = folder / "quality.json"
    arguments = ["--source", str(folder), "--results", str(results)]
    days = ["--days", "2022-05-03", "2022-05-04"]
    assert quality.main([*arguments, *days, "--rankers", "rates", "lightgbm"]) == 0
    assert quality.main([*arguments, *days, "--rankers", "rates"]) == 0
    output = capsys.readouterr().out
    assert "| lightgbm | 0." in output
    assert "± " not in output  # One seed has no spread.
    entries = {entry["ranker"]: entry for entry in json.loads(results.read_text())}
    assert set(entries) == {"rates", "lightgbm"}
    (rates,), (trees,) = (entries[name]["seeds"] for name in ("rates", "lightgbm"))
    assert set(rates["mean"]) == {n for n, task in SPEC.tasks.items() if task.kind == "binary"}
    assert set(trees["mean"]) == set(SPEC.tasks)
    assert 0.2 < rates["per user"]["click"] < 0.8


def test_benchmark_takes_the_pipelines_own_results(folder, capsys):
    metrics = {
        name: {"auc": 0.75} if task.kind == "binary" else {"rmse": 1.25}
        for name, task in SPEC.tasks.items()
    }
    content = [
        {"run_date": day, "metrics": {"candidate": dict(metrics)}}
        for day in ("2022-05-03", "2022-05-04")
    ]
    status = folder / "status.json"
    status.write_text(json.dumps(content))
    arguments = ["--source", str(folder), "--results", str(folder / "quality.json")]
    arguments += ["--rankers", "backfill", "--status", str(status)]
    assert quality.main(arguments) == 0
    assert "| backfill | 0.7500 |" in capsys.readouterr().out
    # A day before those counts if asked for.
    assert quality.main([*arguments, "--days", "2022-05-01", "2022-05-04"]) == 11
    assert "on 2022-05-01" in capsys.readouterr().err
    del content[1]["metrics"]["candidate"]["like"]
    status.write_text(json.dumps(content))
    assert quality.main(arguments) == 11
    assert "no auc of 'like'" in capsys.readouterr().err


def test_each_day_is_predicted_by_a_model_that_has_not_seen_it(monkeypatch):
    class Recorded:
        def __init__(self, *_):
            self.seen = set()

        def train(self, days, replay=()):
            assert self.seen.isdisjoint(days)
            assert set(replay) <= self.seen
            self.seen |= set(days)

        def predict(self, day):
            assert self.seen == set(range(day))
            return {"click": np.full(1, day)}

    monkeypatch.setattr(quality, "Ranker", Recorded)
    days = {number: pd.Timestamp("2022-04-25") + pd.Timedelta(days=number) for number in (5, 8)}
    found = quality.ours({}, SPEC, days, 0)
    assert {day: values["click"][0] for day, values in found.items()} == {
        day: number for number, day in days.items()
    }


def test_trees_learn_from_days_before_the_predicted_one_alone(folder):
    events = frames.with_history(events_with(folder, a_log()).reset_index(), SPEC)
    day = pd.Timestamp("2022-05-03")
    first = quality.Trees(events, SPEC, 1).predict("click", day, quality.TREES)
    changed = events.copy()
    changed.loc[changed["date"] >= day, "label_click"] = 1
    second = quality.Trees(changed, SPEC, 1).predict("click", day, quality.TREES)
    np.testing.assert_array_equal(first, second)


def test_search_chooses_on_its_days_by_models_of_the_days_before_them(folder, capsys):
    events = frames.with_history(events_with(folder, a_log()).reset_index(), SPEC)
    day = pd.Timestamp("2022-05-01")
    # Something to learn: late hours are clicked more.
    late = np.random.default_rng(4).normal(events["hour"], 6) > 12
    events["label_click"] = late.astype(events["label_click"].dtype)
    chosen = quality.Trees(events, SPEC, 1).search([day], 3)
    assert set(chosen) == set(SPEC.tasks)
    predicted = quality.Trees(events, SPEC, 1).predict("click", day, chosen["click"])
    reached = roc_auc_score(late[events["date"] == day], predicted)
    assert reached > 0.7
    assert f"{chosen['click']} reach {reached:.4f}" in capsys.readouterr().err
    outcomes = list(SPEC.labels)
    changed = events.copy()
    changed.loc[changed["date"] > day, outcomes] = 1
    assert quality.Trees(changed, SPEC, 1).search([day], 3) == chosen


def test_auc_within_users_is_the_mean_of_each_ones_by_events():
    rng = np.random.default_rng(3)
    user, label = rng.integers(8, size=200), rng.integers(2, size=200)
    label[user == 0] = 1  # One who lacks a class does not count.
    prediction = rng.integers(5, size=200)
    own = [np.flatnonzero(user == number) for number in range(1, 8)]
    expected = np.average(
        [roc_auc_score(label[rows], prediction[rows]) for rows in own], weights=list(map(len, own))
    )
    assert quality.auc_within(user, label, prediction) == pytest.approx(expected)


def test_interval_is_students_of_the_mean():
    # Of 1, 2, 3: standard error 0.577, and 4.303 of them to each side.
    assert quality.interval([1.0, 2.0, 3.0]) == pytest.approx(2.484, abs=1e-3)
    assert np.isnan(quality.interval([1.0]))


@pytest.mark.parametrize(("auc", "code"), [(0.7, 0), (0.6985, 0), (0.6975, 1)])
def test_short_form_fails_where_auc_has_fallen(auc, code, tmp_path, monkeypatch, capsys):
    results = tmp_path / "quality.json"
    arguments = ["--short", "--results", str(results)]
    found = {"click": 0.7, "long_view": 0.7, "like": 0.7, "share": 0.7, "watch_time": 1.0}

    def measure(*_):
        return {"mean": found}

    monkeypatch.setattr(quality, "measure", measure)
    assert quality.main(arguments) == 11  # Nothing is recorded.
    assert quality.main([*arguments, "--record"]) == 0
    found.update(dict.fromkeys(("click", "long_view", "like", "share"), auc))
    assert quality.main(arguments) == code
    assert ("below" in capsys.readouterr().err) == bool(code)


def test_auc_counts_ties_by_half():
    task = SPEC.tasks["click"]
    label = np.array([0.0, 1.0, 0.0, 1.0, np.nan])
    assert quality.metric(task, label, np.array([1.0, 1.0, 0.0, 2.0, 9.0])) == pytest.approx(0.875)


def test_trees_get_no_label_and_no_id(folder):
    events = frames.with_history(events_with(folder, a_log()).reset_index(), SPEC)
    inputs = quality.tree_inputs(events, SPEC)
    assert not {*LABELS, "user_id", "video_id", "event_id", "date"} & set(inputs)
    assert {"first_tag", "tab", "user_tab_history__click__rate"} <= set(inputs)
