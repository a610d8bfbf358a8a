import collections
import datetime
import gzip
import itertools
import json
import os
import pathlib

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


def values(day: simulate.Day, field: str) -> np.ndarray:
    """A field's values; NaN where there is none."""
    return day.columns[field].to_numpy()


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    ranks = np.argsort(np.argsort(scores)) + 1
    positive = labels == 1
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
    assert days[0].columns.column_names == [spec.events.id, *spec.logged, *spec.labels]


def test_values_lie_in_the_domains_of_the_spec(days):
    spec = load_spec(DEMO)
    for day in days:
        for name in set(spec.dense) & set(spec.logged):
            assert min(values(day, name)) >= spec.dense[name].minimum
        for name in ("clicked", "viewed_long", "liked", "shared"):
            assert set(values(day, name)) == {0, 1}
        assert set(values(day, "hour")) <= set(range(24))
        watched, length = values(day, "watch_seconds"), values(day, "item_length")
        assert np.all(watched <= length)


def test_a_day_depends_on_seed_date_rows_and_start_alone(days):
    same, other = (list(simulate.simulate_days(START, 3, ROWS, seed))[2] for seed in (1, 2))
    assert same.columns == days[2].columns
    assert other.columns != days[2].columns


def test_clicks_can_be_ranked_but_not_perfectly(days):
    for day in days:
        assert 0.75 < auc(values(day, "clicked"), day.best["clicked"]) < 0.87


def test_the_best_predictions_are_the_means_of_the_labels(days):
    """Calibrated in each fifth of the predictions, as what the labels were drawn from is."""
    for name in days[0].best:
        label = np.concatenate([values(day, name) for day in days])
        known = np.isfinite(label)
        label = label[known]
        best = np.concatenate([day.best[name] for day in days])[known]
        if name == "watch_seconds":
            label = np.log1p(label)
        for part in np.array_split(np.argsort(best), 5):
            error = np.mean(label[part] - best[part])
            assert abs(error) < 4.0 * np.std(label[part]) / np.sqrt(len(part)) + 1e-3


def test_a_rarer_world_has_rarer_likes_and_one_with_more_drift_moves_more():
    def likes(shape):
        return np.mean([np.mean(values(d, "liked")) for d in worlds[shape]])

    def movement(shape):
        rates = []
        for day in worlds[shape]:
            topic, clicked = values(day, "topic"), values(day, "clicked")
            rates.append([clicked[topic == t].mean() for t in ("animals", "games", "travel")])
        return np.nanstd(np.diff(np.array(rates), axis=0))

    shapes = [simulate.Shape(), simulate.Shape(rarity=3.0), simulate.Shape(drift=3.0)]
    worlds = {shape: list(simulate.simulate_days(START, 5, ROWS, 1, shape)) for shape in shapes}
    usual, rare, moving = shapes
    assert likes(rare) < 0.2 * likes(usual)
    assert movement(moving) > 1.3 * movement(usual)


def test_other_labels_go_along_with_clicks(days):
    clicked = values(days[0], "clicked") == 1
    for name in ("viewed_long", "liked", "shared", "watch_seconds"):
        label = values(days[0], name)
        assert label[clicked].mean() > 1.3 * label[~clicked].mean()
    rating = values(days[0], "rating")
    assert 0.03 < np.isfinite(rating).mean() < 0.3
    assert np.nanmean(rating[clicked]) > np.nanmean(rating[~clicked])


def test_topics_drift(days):
    def click_rates(day):
        topic, clicked = values(day, "topic"), values(day, "clicked")
        return np.array([clicked[topic == name].mean() for name in frequent])

    counts = collections.Counter(values(days[0], "topic"))
    frequent = [name for name, count in counts.most_common(8)]
    rates = [click_rates(day) for day in days]
    near = np.mean([np.abs(a - b).mean() for a, b in itertools.pairwise(rates)])
    far = np.mean([np.abs(a - b).mean() for a, b in zip(rates[:2], rates[-2:], strict=True)])
    assert far > near > 0.0


@pytest.mark.parametrize("field", ["user_id", "item_id"])
def test_ids_are_heavy_tailed_and_some_are_unseen_each_day(days, field):
    seen: set[str] = set()
    for day in days[:3]:
        seen.update(values(day, field))
    today = values(days[3], field)
    assert 0.01 < np.mean([value not in seen for value in today]) < 0.4
    counts = sorted(collections.Counter(today).values(), reverse=True)
    assert sum(counts[: len(counts) // 10]) > 0.25 * len(today)


def test_histories_hold_clicks_of_earlier_days_newest_first(days):
    clicked = collections.defaultdict(list)
    for day in days[:4]:
        ids, labels = (values(day, "user_id"), values(day, "item_id")), values(day, "clicked")
        for user, item, click in zip(*ids, labels, strict=True):
            if click:
                clicked[user].insert(0, item)
    recent = days[4].columns["recent_items"].to_pylist()
    for user, history in zip(values(days[4], "user_id"), recent, strict=True):
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
    unique = {event["event_id"]: event for event in events}
    assert written[START] == len(unique) == days[0].columns.num_rows
    assert 0.003 * ROWS < broken < 0.03 * ROWS
    assert 0.005 * ROWS < len(events) - len(unique) < 0.05 * ROWS
    (expected,) = days[0].columns.slice(7, 1).to_pylist()
    assert unique[expected["event_id"]] == expected


def test_a_clean_log_has_one_line_per_event_in_order(tmp_path, days):
    simulate.write_logs(str(tmp_path), START, 1, ROWS, seed=1, malformed=0.0, duplicates=0.0)
    events = [json.loads(line) for line in read(tmp_path / START.isoformat())]
    assert events == days[0].columns.to_pylist()


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
