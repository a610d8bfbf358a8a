import collections
import datetime
import gzip
import itertools
import json
import os
import pathlib
import statistics

import numpy as np
import pytest

import schemas
from pipeline import simulate
from schemas.loading import load_spec

START = datetime.date(2026, 3, 2)  # a Monday
ROWS = 3000
DEMO = os.path.join(os.path.dirname(schemas.__file__), "demo.yaml")


@pytest.fixture(scope="module")
def days() -> list[simulate.Day]:
    return list(simulate.simulate_days(START, 7, ROWS, seed=1))


def auc(labels: list[int], scores: np.ndarray) -> float:
    ranks = np.argsort(np.argsort(scores)) + 1
    positive = np.array(labels) == 1
    n = positive.sum()
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(labels) - n)))


def read(folder: pathlib.Path) -> list[str]:
    return [
        line
        for path in sorted(folder.glob("*.jsonl.gz"))
        for line in gzip.decompress(path.read_bytes()).decode().splitlines()
    ]


def test_fields_are_those_of_the_demo_spec(days):
    spec = load_spec(DEMO)
    assert list(days[0].columns) == [spec.events.id, *spec.logged, *spec.labels]


def test_values_lie_in_the_domains_of_the_spec(days):
    spec = load_spec(DEMO)
    for day in days:
        for name in set(spec.dense) & set(spec.logged):
            assert min(day.columns[name]) >= spec.dense[name].minimum
        for name in ("clicked", "viewed_long", "liked", "shared"):
            assert set(day.columns[name]) == {0, 1}
        assert set(day.columns["hour"]) <= set(range(24))
        watched, length = np.array([day.columns[n] for n in ("watch_seconds", "item_length")])
        assert np.all(watched <= length)


def test_a_day_depends_on_seed_date_rows_and_start_alone(days):
    date = START + datetime.timedelta(days=2)
    assert simulate.simulate_day(date, ROWS, 1, START) == days[2].columns
    assert simulate.simulate_day(date, ROWS, 2, START) != days[2].columns


def test_a_day_before_the_start_is_refused():
    with pytest.raises(ValueError, match="before the start"):
        simulate.simulate_day(START - datetime.timedelta(days=1), ROWS, 0, START)


def test_clicks_can_be_ranked_but_not_perfectly(days):
    for day in days:
        assert 0.75 < auc(day.columns["clicked"], day.best["clicked"]) < 0.87


def test_the_best_predictions_are_the_means_of_the_labels(days):
    """Calibrated in each fifth of the predictions, as what the labels were drawn from is."""
    for name in days[0].best:
        labels = [value for day in days for value in day.columns[name]]
        known = np.array([value is not None for value in labels])
        label = np.array([0.0 if value is None else value for value in labels])[known]
        best = np.concatenate([day.best[name] for day in days])[known]
        if name == "watch_seconds":
            label = np.log1p(label)
        for part in np.array_split(np.argsort(best), 5):
            error = np.mean(label[part] - best[part])
            assert abs(error) < 4.0 * np.std(label[part]) / np.sqrt(len(part)) + 1e-3


def test_a_rarer_world_has_rarer_likes_and_one_with_more_drift_moves_more():
    def likes(shape):
        return np.mean([np.mean(d.columns["liked"]) for d in worlds[shape]])

    def movement(shape):
        rates = []
        for day in worlds[shape]:
            topic, clicked = np.array(day.columns["topic"]), np.array(day.columns["clicked"])
            rates.append([clicked[topic == t].mean() for t in ("animals", "games", "travel")])
        return np.nanstd(np.diff(np.array(rates), axis=0))

    shapes = [simulate.Shape(), simulate.Shape(rarity=3.0), simulate.Shape(drift=3.0)]
    worlds = {shape: list(simulate.simulate_days(START, 5, ROWS, 1, shape)) for shape in shapes}
    usual, rare, moving = shapes
    assert likes(rare) < 0.2 * likes(usual)
    assert movement(moving) > 1.3 * movement(usual)


def test_other_labels_go_along_with_clicks(days):
    columns = days[0].columns
    clicked = np.array(columns["clicked"], bool)
    for name in ("viewed_long", "liked", "shared", "watch_seconds"):
        values = np.array(columns[name])
        assert values[clicked].mean() > 1.3 * values[~clicked].mean()
    rated = [
        (click, rating)
        for click, rating in zip(clicked, columns["rating"], strict=True)
        if rating is not None
    ]
    assert 0.03 < len(rated) / len(clicked) < 0.3
    by_click = [[rating for click, rating in rated if click == want] for want in (True, False)]
    assert statistics.mean(by_click[0]) > statistics.mean(by_click[1])


def test_topics_drift(days):
    def click_rates(day):
        topic, clicked = np.array(day.columns["topic"]), np.array(day.columns["clicked"])
        return np.array([clicked[topic == name].mean() for name in frequent])

    counts = collections.Counter(days[0].columns["topic"])
    frequent = [name for name, count in counts.most_common(8)]
    rates = [click_rates(day) for day in days]
    near = np.mean([np.abs(a - b).mean() for a, b in itertools.pairwise(rates)])
    far = np.mean([np.abs(a - b).mean() for a, b in zip(rates[:2], rates[-2:], strict=True)])
    assert far > near > 0.0


@pytest.mark.parametrize("field", ["user_id", "item_id"])
def test_ids_are_heavy_tailed_and_some_are_unseen_each_day(days, field):
    seen: set[str] = set()
    for day in days[:3]:
        seen.update(day.columns[field])
    today = days[3].columns[field]
    assert 0.01 < np.mean([value not in seen for value in today]) < 0.4
    counts = sorted(collections.Counter(today).values(), reverse=True)
    assert sum(counts[: len(counts) // 10]) > 0.25 * len(today)


def test_histories_hold_clicks_of_earlier_days_newest_first(days):
    clicked = collections.defaultdict(list)
    for day in days[:4]:
        columns = day.columns
        for user, item, click in zip(
            columns["user_id"], columns["item_id"], columns["clicked"], strict=True
        ):
            if click:
                clicked[user].insert(0, item)
    columns = days[4].columns
    for user, history in zip(columns["user_id"], columns["recent_items"], strict=True):
        assert len(history) <= simulate.HISTORY
        known = clicked[user][: simulate.HISTORY]
        assert history[: len(known)] == known  # behind them: clicks before the first day


def test_weekends_and_holidays_have_more_events(days):
    volume = [len(day.best["clicked"]) for day in days]
    assert min(volume[5:]) > max(volume[:5])
    labour_day = datetime.date(2026, 5, 1)  # a Friday
    thursday, friday = simulate.simulate_days(labour_day - datetime.timedelta(days=1), 2, 1000)
    assert simulate.is_holiday(friday.date)
    assert len(friday.best["clicked"]) > 1.1 * len(thursday.best["clicked"])


def test_logs_hold_the_simulated_events_plus_faults_and_duplicates(tmp_path, days):
    written = simulate.write_logs(
        str(tmp_path), START, 2, ROWS, seed=1, malformed=0.01, duplicates=0.02
    )
    assert [path.name for path in sorted(tmp_path.iterdir())] == [d.isoformat() for d in written]
    lines = read(tmp_path / START.isoformat())
    events, broken = [], 0
    for line in lines:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            broken += 1
            continue
        if "user_id" not in event or event["item_length"] == "n/a":
            broken += 1
        else:
            events.append(event)
    columns = days[0].columns
    unique = {event["event_id"]: event for event in events}
    assert written[START] == len(unique) == len(columns["event_id"])
    assert 0.003 * ROWS < broken < 0.03 * ROWS
    assert 0.005 * ROWS < len(events) - len(unique) < 0.05 * ROWS
    expected = {name: values[7] for name, values in columns.items()}
    assert unique[expected["event_id"]] == expected


def test_a_clean_log_has_one_line_per_event_in_order(tmp_path, days):
    simulate.write_logs(str(tmp_path), START, 1, ROWS, seed=1, malformed=0.0, duplicates=0.0)
    events = [json.loads(line) for line in read(tmp_path / START.isoformat())]
    assert [event["event_id"] for event in events] == days[0].columns["event_id"]


def test_days_can_be_added_to_logs_with_the_same_bytes(tmp_path):
    def content(root):
        return {
            str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.gz"))
        }

    whole, grown = tmp_path / "whole", tmp_path / "grown"
    simulate.write_logs(str(whole), START, 3, 500, seed=3)
    simulate.write_logs(str(grown), START, 2, 500, seed=3)
    simulate.write_logs(str(grown), START, 3, 500, seed=3, skip_days=2)
    assert content(whole) == content(grown)


def test_writing_again_with_fewer_parts_leaves_no_old_ones(tmp_path):
    simulate.write_logs(str(tmp_path), START, 1, 500, parts=4)
    simulate.write_logs(str(tmp_path), START, 1, 500, parts=2)
    names = sorted(path.name for path in (tmp_path / START.isoformat()).iterdir())
    assert names == ["part-0.jsonl.gz", "part-1.jsonl.gz"]
