import dataclasses
import datetime
import json

import hypothesis.strategies as st
import pytest
from hypothesis import given
from planned import FEATURE_ADDED, SPEC_NOW, TASK_ADDED, day, spec_with, version

from components.plan.planning import make_plan
from components.run_plan import load_plan
from schemas.errors import RankerError

dates = st.dates(datetime.date(2000, 1, 1), datetime.date(2100, 1, 1))


@given(run_date=dates, window_days=st.integers(1, 60))
def test_window_is_the_days_just_before_the_run_date_oldest_first(run_date, window_days):
    window = make_plan(spec_with(f"training.window_days={window_days}"), run_date, []).window
    assert len(window) == window_days
    assert window[-1] == run_date - datetime.timedelta(days=1)
    assert window[0] == run_date - datetime.timedelta(days=window_days)
    assert list(window) == sorted(set(window))


@given(
    run_days=st.lists(st.integers(0, 6), max_size=6).map(sorted),
    run_day=st.integers(0, 8),
)
def test_weights_never_come_from_the_run_date_or_later(run_days, run_day):
    versions = [version(i + 1, d) for i, d in enumerate(run_days)]
    if versions and run_days[-1] > run_day:
        with pytest.raises(RankerError, match="is before that of the served version"):
            make_plan(SPEC_NOW, day(run_day), versions)
        return
    plan = make_plan(SPEC_NOW, day(run_day), versions)
    earlier = [item for item in versions if item.info.run_date < day(run_day)]
    assert plan.base_version == (earlier[-1].version if earlier else None)
    assert plan.baseline_version == (versions[-1].version if versions else None)
    assert plan.warm_start == bool(earlier)
    assert plan.warm_start == (plan.base_trained_through is not None)
    if plan.warm_start:
        assert plan.base_trained_through < plan.run_date


@pytest.mark.parametrize(
    ("versions", "run_day", "base", "baseline", "trained_through"),
    [
        pytest.param([], 5, None, None, None, id="first day"),
        pytest.param([version(1, 5)], 6, 1, 1, 4, id="day after a push"),
        pytest.param([version(1, 5)], 9, 1, 1, 4, id="after blocked or failed days"),
        pytest.param([version(1, 5)], 5, None, 1, None, id="same day again, nothing older"),
        pytest.param([version(1, 5), version(2, 6)], 6, 1, 2, 4, id="same day again"),
        pytest.param(
            [version(1, 5), version(2, 6), version(3, 6)], 6, 1, 3, 4, id="same day a third time"
        ),
        pytest.param(
            [version(1, 5), version(2, 6), version(3, 5, rolled_back_to=1)],
            7,
            3,
            3,
            4,
            id="next day after a rollback",
        ),
        pytest.param(
            [version(1, 5), version(2, 6), version(3, 5, rolled_back_to=1)],
            6,
            3,
            3,
            4,
            id="the day that was rolled back again",
        ),
    ],
)
def test_start_and_baseline_follow_from_what_was_pushed(
    versions, run_day, base, baseline, trained_through
):
    plan = make_plan(SPEC_NOW, day(run_day), versions)
    assert plan.base_version == base
    assert plan.baseline_version == baseline
    seen = {version.version: version.info.seen for version in versions}
    assert plan.baseline_seen == seen.get(baseline, {})
    assert plan.base_trained_through == (None if trained_through is None else day(trained_through))
    word = (
        "cold start: there is no version of an earlier day"
        if base is None
        else "warm start from version"
    )
    assert plan.start_reason.startswith(word)


@pytest.mark.parametrize("left_out", [0, 1, 7])
def test_days_that_left_the_window_unseen_are_told(left_out):
    newest_seen = version(1, 5).info.trained_through
    unseen = SPEC_NOW.training.window_days + left_out
    run_date = newest_seen + datetime.timedelta(days=unseen + 1)
    plan = make_plan(SPEC_NOW, run_date, [version(1, 5)])
    assert len([date for date in plan.window if date > newest_seen]) == unseen - left_out
    told = f"; {left_out} days since have left the window and are not trained on"
    assert plan.start_reason.endswith(told if left_out else f"trained through {newest_seen}")


def test_older_date_than_the_served_one_is_refused_with_what_to_do():
    with pytest.raises(
        RankerError, match=r"2026-01-05 is before .* version 2 \(2026-01-06\); roll back"
    ):
        make_plan(SPEC_NOW, day(4), [version(1, 4), version(2, 5)])


def of_ranker(name, item):
    return dataclasses.replace(item, info=dataclasses.replace(item.info, ranker=name))


def test_another_rankers_serving_folder_is_refused_with_what_to_do():
    assert make_plan(SPEC_NOW, day(5), [of_ranker(SPEC_NOW.name, version(1, 4))]).warm_start
    message = (
        rf"version 2 is of the ranker 'search', and the spec's name is '{SPEC_NOW.name}': .*"
        "Give another serving folder, or, if it is the same ranker, keep its name"
    )
    with pytest.raises(RankerError, match=message):
        make_plan(SPEC_NOW, day(5), [version(1, 3), of_ranker("search", version(2, 4))])


@pytest.mark.parametrize(
    ("change", "warm", "compared"),
    [
        ("training.learning_rate=0.5", True, True),
        ("training.window_days=9", True, True),
        ("tasks.click.gate.min_auc=0.9", True, True),
        ("tasks.click.loss_weight=3", True, True),
        ("features.age.maximum=99", True, True),
        ("model.dropout=0.1", True, True),
        ("serving.score=click * 2", True, True),
        (FEATURE_ADDED, False, True),
        ("features.user.buckets=11", False, True),
        ("features.user.embedding=3", False, True),
        ("features.age.scale=log1p", False, True),
        ("model.preset=laptop", False, True),
        (TASK_ADDED, False, False),
        ("tasks.rate.transform=log1p", False, False),
        ("tasks.click.label=tapped", False, False),
    ],
)
def test_change_of_the_spec_decides_on_warm_start_and_comparison(change, warm, compared):
    plan = make_plan(spec_with(change), day(6), [version(3, 5)])
    assert plan.warm_start == warm
    if not warm:
        assert plan.base_trained_through is None
        assert plan.start_reason == (
            "cold start: the spec's features, tasks or model differ from those of version 3, "
            "so its weights have another meaning"
        )
    assert (plan.baseline_version == 3) == compared
    if not compared:
        assert plan.baseline_reason == (
            "absolute bounds only: the tasks differ from those of the served version 3"
        )


def test_changed_spec_starts_cold_even_if_an_older_version_would_fit():
    versions = [version(1, 4), version(2, 5, spec=spec_with(FEATURE_ADDED))]
    plan = make_plan(SPEC_NOW, day(6), versions)
    assert not plan.warm_start
    assert plan.baseline_version == 2


def test_cold_start_can_be_forced():
    spec = spec_with("training.warm_start=false")
    plan = make_plan(spec, day(6), [version(1, 5)])
    assert not plan.warm_start
    assert "training.warm_start is false" in plan.start_reason
    assert plan.train_share(day(3)) == 1.0


def a_plan(**changes):
    return dataclasses.replace(make_plan(SPEC_NOW, day(6), [version(3, 5)]), **changes)


@pytest.mark.parametrize(
    "plan",
    [
        a_plan(),
        make_plan(SPEC_NOW, day(6), []),
        make_plan(spec_with(TASK_ADDED, "training.window_days=1"), day(6), [version(2, 5)]),
        a_plan(start_reason='reason with\nlines, "quotes" and ünïcode'),
    ],
    ids=["warm", "first", "changed", "any text"],
)
def test_saved_plan_is_read_back_as_it_was(tmp_path, plan):
    plan.save(str(tmp_path / "plan"))
    loaded = load_plan(str(tmp_path / "plan"))
    assert loaded == plan
    assert loaded.spec.model_fingerprint() == plan.spec.model_fingerprint()


def test_plan_of_a_day_that_an_older_version_began_is_read(tmp_path):
    a_plan().save(str(tmp_path))
    file = tmp_path / "plan.json"
    content = json.loads(file.read_text())
    del content["base_seen"], content["baseline_seen"]
    file.write_text(json.dumps({**content, "base_missed": ["2026-01-02"]}))
    assert load_plan(str(tmp_path)) == a_plan(base_seen={}, baseline_seen={})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"run_date": 5}'])
def test_damaged_plan_is_named(tmp_path, content):
    a_plan().save(str(tmp_path))
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(RankerError, match=r"plan\.json: damaged .*Run the day again"):
        load_plan(str(tmp_path))


@given(
    window_days=st.integers(1, 20),
    exposures=st.floats(1, 30),
    offset=st.integers(-30, 30),
    through=st.none() | st.integers(-30, 30),
)
def test_unseen_days_count_in_full_and_seen_ones_by_the_replay_share(
    window_days, exposures, offset, through
):
    spec = spec_with(f"training.window_days={window_days}", f"training.exposures={exposures!r}")
    trained_through = None if through is None else day(through)
    seen = {str(day(number)): "files" for number in range(-30, 31) if number != -3}
    plan = a_plan(spec=spec, base_trained_through=trained_through, base_seen=seen)
    share = plan.train_share(day(offset))
    if through is None or offset > through or offset == -3:
        assert share == 1.0
    else:
        assert share == spec.training.replay_share
        assert 0.0 <= share <= 1.0


@pytest.mark.parametrize(
    ("seen", "missed"),
    [
        ([2, 3, 4, 5, 6], []),
        ([2, 4, 6], [3, 5]),
        ([4, 6], [5]),  # what lies before, earlier versions may have seen
        ([], []),  # a version from before it was kept
    ],
)
def test_days_that_a_version_lacked_are_told_from_those_before_its_own(seen, missed):
    spec = spec_with("training.window_days=6")
    served = version(1, 6)
    info = dataclasses.replace(served.info, seen={str(day(number)): "files" for number in seen})
    plan = make_plan(spec, day(7), [dataclasses.replace(served, info=info)])
    assert list(filter(plan.base_missed, plan.window)) == list(map(day, missed))
    cold = make_plan(spec_with("training.warm_start=false"), day(7), [served])
    assert not any(map(cold.base_missed, cold.window))


@given(window_days=st.integers(2, 30), exposures=st.floats(1, 5))
def test_event_is_seen_exposures_times_over_its_stay_in_the_window(window_days, exposures):
    spec = spec_with(f"training.window_days={window_days}", f"training.exposures={exposures!r}")
    event_day = day(0)
    seen = 0.0
    for run_day in range(1, window_days + 1):
        plan = make_plan(spec, day(run_day), [version(1, run_day - 1)])
        assert event_day in plan.window
        trained_through = day(run_day - 2)
        seen += dataclasses.replace(plan, base_trained_through=trained_through).train_share(
            event_day
        )
    assert seen == pytest.approx(min(exposures, window_days))
