import contextlib
import datetime
import json
import re

import pytest
from deployments import CRON, DAY, TO_ITS_TIME, deployment_on, package_in, scheduled
from fake_kfp_http import Fault

from pipeline.kubeflow.package import RunSettings
from pipeline.kubeflow.schedule import Schedule
from schemas.errors import RankerError


def statuses(fake):
    """Of the schedules, by their ids."""
    return {key: item["status"] for key, item in fake.schedules.items()}


def triggered(fake):
    """The times for which schedules made runs."""
    return [run["scheduled_at"] for run in fake.runs.values() if "recurring_run_id" in run]


def daily(*dates):
    return [datetime.datetime(2026, 1, d, 3, tzinfo=datetime.timezone.utc) for d in dates]


def test_schedule_is_daily_without_catching_up(fake, deployment, package):
    settings = RunSettings({"logs_root": "gs://logs"}, service_account="trainer")
    schedule_id, changed = scheduled(deployment, package, settings=settings)
    assert changed
    stored = fake.schedules[schedule_id]
    body = stored["body"]
    assert stored["status"] == "ENABLED"
    assert (stored["max_concurrency"], body["no_catchup"]) == (1, True)
    assert body["trigger"] == {"cron_schedule": {"cron": CRON}}
    assert body["runtime_config"] == {
        "parameters": {"logs_root": "gs://logs"},
        "pipeline_root": package.pipeline_root,
    }
    assert body["service_account"] == "trainer"
    fake.advance(2 * 86_400)
    assert triggered(fake) == daily(11, 12)


def test_same_schedule_changes_nothing(fake, deployment, package):
    first, _ = scheduled(deployment, package)
    before = json.dumps(fake.schedules, default=str)
    assert scheduled(deployment_on(fake), package) == (first, False)
    assert json.dumps(fake.schedules, default=str) == before


@pytest.mark.parametrize("change", ["cron", "version", "parameters", "account"])
def test_changed_schedule_is_replaced(fake, deployment, package, newer, change):
    first, _ = scheduled(deployment, package)
    other = newer if change == "version" else package
    cron = "0 30 4 * * *" if change == "cron" else CRON
    settings = RunSettings(
        {"logs_root": "gs://new"} if change == "parameters" else {},
        "trainer" if change == "account" else None,
    )
    second, changed = scheduled(deployment, other, cron, settings)
    assert changed
    assert first != second
    assert statuses(fake) == {second: "ENABLED"}


def test_old_schedule_is_quiet_before_the_new_one_may_run(fake, deployment, package, newer):
    scheduled(deployment, package)
    states = []
    fake.on_request = lambda line: states.append([s["status"] for s in fake.schedules.values()])
    scheduled(deployment, newer)
    assert ["ENABLED", "DISABLED"] in states
    assert ["DISABLED", "DISABLED"] in states
    assert ["ENABLED", "ENABLED"] not in states


STEPS = (
    "GET /pipelines$",
    "GET /recurringruns$",
    "POST /recurringruns$",
    ":disable$",
    "GET /runs$",
    ":enable$",
    "DELETE /recurringruns",
)


@pytest.mark.parametrize("when", STEPS)
@pytest.mark.parametrize("seconds", [-3, 0, 7, 40])
def test_time_that_comes_during_a_replacement_is_run_once(
    fake, deployment, package, newer, when, seconds
):
    scheduled(deployment, package)

    def come(line):
        if re.search(when, line):
            fake.on_request = lambda line: None
            due = fake.now.replace(hour=3, minute=0, second=0)
            due += datetime.timedelta(days=due < fake.now)
            fake.advance((due - fake.now).total_seconds() + seconds)

    fake.durations[""] = 5
    fake.on_request = come
    try:
        scheduled(deployment, newer)
    except RankerError:
        # Its run is under way.
        fake.advance(60)
        scheduled(deployment, newer)
    fake.advance(12 * 3600)
    assert triggered(fake) == daily(11)
    assert [item["status"] for item in fake.schedules.values()] == ["ENABLED"]


def test_time_that_comes_while_none_is_enabled_is_run_once(fake, deployment, package, newer):
    scheduled(deployment, package)
    fake.advance(TO_ITS_TIME - 10)
    scheduled(deployment, newer)
    fake.advance(3600)
    assert triggered(fake) == daily(11)


def test_schedule_whose_run_is_under_way_is_not_replaced(fake, deployment, package, newer):
    first, _ = scheduled(deployment, package)
    fake.durations[""] = 7200
    fake.advance(TO_ITS_TIME + 60)
    with pytest.raises(RankerError, match=r"daily: its run .* of 2026-01-10 is running"):
        scheduled(deployment, newer)
    assert statuses(fake) == {first: "ENABLED"}


def test_run_that_the_old_schedule_makes_at_the_last_moment_is_kept(
    fake, deployment, package, newer
):
    scheduled(deployment, package)
    fake.advance(TO_ITS_TIME - 3)
    fake.durations[""] = 7200

    def come(line):
        if line.endswith(":disable"):
            fake.on_request = lambda line: None
            fake.advance(10)

    fake.on_request = come
    schedule_id, _ = scheduled(deployment, newer)
    fake.advance(3600)
    assert triggered(fake) == daily(11)
    assert [run["state"] for run in fake.runs.values()] == ["RUNNING"]
    fake.advance(7200)
    assert scheduled(deployment, newer) == (schedule_id, True)
    assert list(fake.schedules) == [schedule_id]
    assert [run["state"] for run in fake.runs.values()] == ["SUCCEEDED"]


@pytest.mark.parametrize("step", range(1, 16))
def test_interrupted_replacement_is_finished_by_the_same_call(
    fake, deployment, package, newer, step
):
    scheduled(deployment, package)
    deployment.upload(newer)
    fake.requests.clear()

    def stop(line):
        if len(fake.requests) > step:
            fake.faults.append(Fault(".", 403))

    fake.on_request = stop
    with contextlib.suppress(RankerError):
        scheduled(deployment, newer)
    fake.on_request = lambda line: None
    fake.faults.clear()
    # A day goes by before somebody looks.
    fake.advance(86_400)
    schedule_id, _ = scheduled(deployment_on(fake), newer)
    fake.advance(86_400)
    times = triggered(fake)
    assert len(set(times)) == len(times)
    assert times[-1] == daily(12)[0]
    assert daily(11)[0] in times
    assert statuses(fake) == {schedule_id: "ENABLED"}


@pytest.mark.parametrize("kind", [500, "drop", "lose"])
@pytest.mark.parametrize("request_", ["POST /recurringruns$", ":enable$", ":disable$", "DELETE "])
def test_replacement_survives_faults(fake, deployment, package, newer, kind, request_):
    scheduled(deployment, package)
    fake.faults.append(Fault(request_, kind, times=2))
    second, _ = scheduled(deployment, newer)
    assert statuses(fake) == {second: "ENABLED"}


def test_going_back_to_older_settings_works(fake, deployment, package, newer):
    for wanted in (package, newer, package):
        schedule_id, changed = scheduled(deployment, wanted)
        assert changed
        fake.advance(86_400)
    assert list(fake.schedules) == [schedule_id]
    assert triggered(fake) == daily(11, 12, 13)


def test_refused_replacement_leaves_the_old_schedule(fake, deployment, package, newer):
    first, _ = scheduled(deployment, package)
    fake.faults.append(Fault("POST /recurringruns$", 400))
    with pytest.raises(RankerError, match="creating schedule daily: HTTP 400"):
        scheduled(deployment, newer)
    assert statuses(fake) == {first: "ENABLED"}


def test_schedule_of_one_day_is_refused(fake, deployment, package):
    with pytest.raises(RankerError, match="run_date"):
        scheduled(deployment, package, settings=RunSettings({"run_date": str(DAY)}))
    assert not fake.requests


def test_package_of_one_day_is_not_scheduled(fake, deployment, tmp_path):
    package = package_in(tmp_path, "ranker:1", run_date="2026-01-05")
    with pytest.raises(RankerError, match="its run_date is 2026-01-05"):
        scheduled(deployment, package)
    assert not fake.requests


def test_pause_and_resume(fake, deployment, package):
    scheduled(deployment, package)
    Schedule(deployment, "daily").set_enabled(False)
    fake.advance(3 * 86_400)
    assert triggered(fake) == []
    Schedule(deployment, "daily").set_enabled(True)
    fake.advance(60)
    assert triggered(fake) == daily(13)


def test_paused_schedule_is_enabled_by_scheduling(fake, deployment, package):
    first, _ = scheduled(deployment, package)
    Schedule(deployment, "daily").set_enabled(False)
    assert scheduled(deployment, package) == (first, True)
    assert fake.schedules[first]["status"] == "ENABLED"


def test_unschedule_deletes_it_once_idle(fake, deployment, package):
    scheduled(deployment, package)
    fake.durations[""] = 7200
    fake.advance(TO_ITS_TIME + 60)
    with pytest.raises(RankerError, match="would be lost"):
        Schedule(deployment, "daily").delete()
    fake.advance(7200)
    Schedule(deployment, "daily").delete()
    assert not fake.schedules
    assert [run["state"] for run in fake.runs.values()] == ["SUCCEEDED"]


@pytest.mark.parametrize("name", ["daily", "Daily"])
def test_schedule_that_is_not_there_is_an_error(fake, deployment, package, name):
    Schedule(deployment, "DAILY").apply(package, CRON, RunSettings())
    with pytest.raises(RankerError, match=f"{name}: pipeline ranker has no such schedule"):
        Schedule(deployment, name).set_enabled(False)
