import dataclasses
import datetime
import errno
import json
import os
import pathlib
import shutil

import hypothesis.strategies as st
import pytest
from executions import artifact
from hypothesis import given
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import standard_artifacts
from tfx.utils import io_utils

from components import artifacts, model_files, serving_store
from components.plan.executor import Executor
from components.plan.planning import make_plan
from components.plan.run_date import resolve_run_date
from components.run_plan import load_plan
from components.serving_store import ModelInfo, ServedVersion
from schemas.errors import RankerError, ServingStoreError, SpecError
from schemas.loading import parse_spec
from schemas.tfdv_schema import tfdv_schema

SPEC = """
name: test
features:
  user: {type: categorical, buckets: 10, embedding: 2}
  age: {type: dense}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: 0.5}}
  rate: {kind: regression, label: rating, gate: {max_rmse: 9}}
model: {preset: tiny}
training: {window_days: 3, exposures: 1.5}
serving: {score: click}
"""
FEATURE_ADDED = "features.topic={type: categorical, buckets: 4, embedding: 2}"
TASK_ADDED = "tasks.like={kind: binary, label: liked, gate: {min_auc: 0.5}}"


def spec_with(*overrides):
    return parse_spec(SPEC, "spec", overrides)


SPEC_NOW = spec_with()


def day(number):
    return datetime.date(2026, 1, 1) + datetime.timedelta(days=number)


def version(number, run_day, spec=SPEC_NOW, rolled_back_to=None, trained_through=None):
    return ServedVersion(
        number,
        f"serving/{number}",
        ModelInfo(
            run_date=day(run_day),
            trained_through=day(run_day - 1 if trained_through is None else trained_through),
            model_fingerprint=spec.model_fingerprint(),
            tasks_fingerprint=spec.tasks_fingerprint(),
            model_uri=f"model/{number}",
            rolled_back_to=rolled_back_to,
        ),
    )


UTC = datetime.timezone.utc

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
    plan = a_plan(spec=spec, base_trained_through=trained_through)
    share = plan.train_share(day(offset))
    if through is None or offset > through:
        assert share == 1.0
    else:
        assert share == spec.training.replay_share
        assert 0.0 <= share <= 1.0


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


def run_executor(
    folder, serving, run_date="2026-01-07", schedule_time="", overrides=(), spec_path=None
):
    if spec_path is None:
        spec_path = folder / "spec.yaml"
        folder.mkdir(exist_ok=True)
        spec_path.write_text(SPEC)
    outputs = {
        "plan": artifact(artifacts.RunPlan, folder / "plan"),
        "schema": artifact(standard_artifacts.Schema, folder / "schema"),
        "base_model": artifact(standard_artifacts.Model, folder / "base"),
        "baseline_model": artifact(standard_artifacts.Model, folder / "baseline"),
    }
    properties = {
        "spec_path": str(spec_path),
        "overrides": json.dumps(list(overrides)),
        "run_date": run_date,
        "schedule_time": schedule_time,
        "run_date_lag_days": 2,
        "serving_dir": str(serving),
    }
    Executor().Do({}, outputs, properties)
    return {name: item[0] for name, item in outputs.items()}


def files_under(folder):
    return sorted(
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
    )


def push_version(folder, serving, run_day=5, spec=SPEC_NOW):
    model = folder / "model"
    for name in ("saved_model.pb", "variables/v", "assets.extra/training_state/state.npz"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(name)
    files = model_files.digests(str(model), model_files.list_files(str(model)))
    info = dataclasses.replace(version(1, run_day, spec).info, files=files)
    served = serving_store.served_version(str(serving))
    before = served.version if served else None
    return serving_store.push(str(model), str(serving), info, 5, served_before=before)


def test_first_run_writes_plan_schema_and_notes_on_what_is_absent(tmp_path):
    done = run_executor(tmp_path / "run", tmp_path / "serving", overrides=["training.seed=7"])
    plan = load_plan(done["plan"].uri)
    assert plan == make_plan(spec_with("training.seed=7"), datetime.date(2026, 1, 7), [])
    assert done["plan"].get_string_custom_property("run_date") == "2026-01-07"
    assert done["plan"].get_string_custom_property("start") == plan.start_reason
    assert done["plan"].get_string_custom_property("baseline") == plan.baseline_reason
    schema = io_utils.parse_pbtxt_file(
        os.path.join(done["schema"].uri, "schema.pbtxt"), schema_pb2.Schema()
    )
    assert schema == tfdv_schema(plan.spec)
    for name, reason in (
        ("base_model", plan.start_reason),
        ("baseline_model", plan.baseline_reason),
    ):
        assert files_under(done[name].uri) == ["ABSENT"]
        with open(os.path.join(done[name].uri, "ABSENT")) as file:
            assert file.read() == reason


def test_later_run_gets_the_training_state_to_start_from_and_the_model_to_compare_with(tmp_path):
    serving = tmp_path / "serving"
    push_version(tmp_path, serving)
    done = run_executor(tmp_path / "run", serving)
    assert files_under(done["base_model"].uri) == [
        "Format-Serving/assets.extra/training_state/state.npz"
    ]
    assert files_under(done["baseline_model"].uri) == [
        "Format-Serving/saved_model.pb",
        "Format-Serving/variables/v",
    ]
    for name in ("base_model", "baseline_model"):
        assert done[name].get_string_custom_property("copy_of").endswith("/1")
    assert done["plan"].get_string_custom_property("base_model") == "model/1"
    assert load_plan(done["plan"].uri).served_version == 1


@pytest.mark.parametrize("links", [True, False])
def test_served_model_is_linked_and_copied_only_where_that_cannot_be(tmp_path, monkeypatch, links):
    serving = tmp_path / "serving"
    push_version(tmp_path, serving)
    if not links:

        def no_links(source, target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "link", no_links)
    done = run_executor(tmp_path / "run", serving)
    name = "variables/v"
    taken = pathlib.Path(done["baseline_model"].uri) / "Format-Serving" / name
    assert taken.samefile(serving / "1" / name) == links
    assert taken.read_text() == name
    # What a run took outlives the version.
    shutil.rmtree(serving)
    assert taken.read_text() == name


def test_changed_model_is_compared_with_but_not_started_from_the_served_one(tmp_path):
    serving = tmp_path / "serving"
    push_version(tmp_path, serving)
    done = run_executor(tmp_path / "run", serving, overrides=[FEATURE_ADDED])
    assert files_under(done["base_model"].uri) == ["ABSENT"]
    assert "Format-Serving/saved_model.pb" in files_under(done["baseline_model"].uri)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"run_date": "tomorrow"}, RankerError, r"'tomorrow': expected a day as YYYY-MM-DD"),
        ({"run_date": "2026-01-01"}, RankerError, r"is before that of the served version 1"),
        ({"overrides": ["training.speed=9"]}, SpecError, r"training\.speed: no such field"),
        ({"spec_path": "nowhere.yaml"}, SpecError, r"nowhere\.yaml: cannot be read"),
    ],
)
def test_run_that_cannot_be_planned_fails_with_a_readable_error(tmp_path, changes, error, message):
    serving = tmp_path / "serving"
    push_version(tmp_path, serving)
    with pytest.raises(error, match=message):
        run_executor(tmp_path / "run", serving, **changes)


def test_served_version_that_cannot_be_told_stops_the_run(tmp_path):
    serving = tmp_path / "serving"
    pushed = push_version(tmp_path, serving)
    os.remove(os.path.join(pushed.path, serving_store.VERSION_FILE))
    with pytest.raises(ServingStoreError, match="cannot tell what this version is"):
        run_executor(tmp_path / "run", serving)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_a_pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [flip_a_bit, cut, pathlib.Path.unlink, replace_by_a_pipe])
@pytest.mark.parametrize(
    "file", ["saved_model.pb", "variables/v", "assets.extra/training_state/state.npz"]
)
def test_damaged_served_version_is_named_with_the_file_and_the_rollback_that_helps(
    tmp_path, file, damage
):
    serving = tmp_path / "serving"
    push_version(tmp_path, serving, run_day=4)
    broken = pathlib.Path(push_version(tmp_path, serving, run_day=5).path, file)
    damage(broken)
    with pytest.raises(ServingStoreError) as caught:
        run_executor(tmp_path / "run", serving)
    message = str(caught.value)
    assert message.startswith("the SERVED model is broken, version 2: ")
    faults = ("is missing", "has other content", "cannot be read (it is no file)")
    assert any(f"{broken}: {fault}" in message for fault in faults)
    assert "`steadyrank rollback 1` serves version 1, which is whole" in message
    serving_store.rollback(str(serving), 1)
    done = run_executor(tmp_path / "again", serving)
    assert load_plan(done["plan"].uri).base_version == 3


def test_of_damaged_versions_none_is_advised(tmp_path):
    serving = tmp_path / "serving"
    for run_day in (4, 5):
        flip_a_bit(
            pathlib.Path(push_version(tmp_path, serving, run_day=run_day).path, "variables/v")
        )
    with pytest.raises(ServingStoreError, match="No other version is whole"):
        run_executor(tmp_path / "run", serving)


def test_version_of_before_there_were_digests_is_taken_if_its_files_are_there(tmp_path):
    serving = tmp_path / "serving"
    path = pathlib.Path(push_version(tmp_path, serving).path)
    info = json.loads((path / serving_store.VERSION_FILE).read_text())
    for field in ("files", "digest", "made_from"):
        del info[field]
    (path / serving_store.VERSION_FILE).write_text(json.dumps(info))
    done = run_executor(tmp_path / "run", serving)
    assert load_plan(done["plan"].uri).base_version == 1
    (path / "assets.extra/training_state/state.npz").unlink()
    with pytest.raises(ServingStoreError, match=r"SERVED model .*training_state: is missing"):
        run_executor(tmp_path / "again", serving)


NOW = datetime.datetime(2026, 1, 10, 0, 30, tzinfo=UTC)
MACRO = "{{$.pipeline_job_schedule_time_utc}}"


@pytest.mark.parametrize(
    ("given_date", "schedule_time", "lag_days", "expected"),
    [
        pytest.param("2026-01-03", "2026-01-09T06:00:00Z", 1, "2026-01-03", id="given"),
        pytest.param("", "2026-01-09T06:00:00Z", 1, "2026-01-08", id="schedule"),
        pytest.param(" ", "2026-01-09T06:00:00.25Z", 0, "2026-01-09", id="fraction of a second"),
        pytest.param("", "2026-01-09T01:00:00+02:00", 1, "2026-01-07", id="another time zone"),
        pytest.param("", "", 1, "2026-01-09", id="today"),
        pytest.param("", MACRO, 3, "2026-01-07", id="macro that the back end does not know"),
        pytest.param("", "[[ScheduledTime]]", 1, "2026-01-09", id="macro of version 1"),
    ],
)
def test_run_date_is_the_given_one_else_the_schedules_else_todays(
    given_date, schedule_time, lag_days, expected
):
    assert str(resolve_run_date(given_date, schedule_time, lag_days, NOW)) == expected


@given(time=st.datetimes(timezones=st.timezones()), lag_days=st.integers(0, 30))
def test_any_schedule_time_is_read_as_its_utc_day(time, lag_days):
    try:
        expected = time.astimezone(UTC).date() - datetime.timedelta(days=lag_days)
    except OverflowError:
        return
    if time.utcoffset().seconds % 60 == 0:
        assert resolve_run_date("", time.isoformat(), lag_days, NOW) == expected


@pytest.mark.parametrize(
    ("given_date", "schedule_time", "message"),
    [
        ("03.01.2026", "", r"run date '03\.01\.2026': expected a day as YYYY-MM-DD"),
        ("", "six o'clock", r"schedule time \"six o'clock\": expected a time as"),
    ],
)
def test_date_that_cannot_be_read_is_refused(given_date, schedule_time, message):
    with pytest.raises(RankerError, match=message):
        resolve_run_date(given_date, schedule_time, 1, NOW)


@pytest.mark.parametrize(
    ("given_date", "schedule_time", "told"),
    [
        ("2026-01-07", "", False),
        ("", "2026-01-09T06:00:00Z", False),
        pytest.param("", "", True, id="an empty time, as Kubeflow Pipelines 2.16 gives it"),
        pytest.param("", MACRO, True, id="the macro as it was"),
    ],
)
def test_day_taken_from_the_clock_is_said_aloud(tmp_path, caplog, given_date, schedule_time, told):
    run_executor(
        tmp_path / "run", tmp_path / "serving", run_date=given_date, schedule_time=schedule_time
    )
    assert ("the day was taken from the clock" in caplog.text) is told


def test_run_without_a_date_is_planned_for_the_schedules(tmp_path):
    done = run_executor(
        tmp_path / "run", tmp_path / "serving", run_date="", schedule_time="2026-01-09T06:00:00Z"
    )
    assert load_plan(done["plan"].uri).run_date == datetime.date(2026, 1, 7)
    assert done["plan"].get_string_custom_property("run_date") == "2026-01-07"
