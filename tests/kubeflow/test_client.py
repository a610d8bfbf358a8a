import contextlib
import dataclasses
import datetime
import json
import re
import socket
import subprocess
import sys

import pytest
import yaml
from fake_kfp import FakeKfp, Fault
from typer.testing import CliRunner

from pipeline.cli.kubeflow_server import app
from pipeline.kubeflow.client import Deployment, failed
from pipeline.kubeflow.cron import check_cron
from pipeline.kubeflow.package import OVERRIDES, RunSettings, check_parameters, read_package
from pipeline.kubeflow.schedule import Schedule
from pipeline.kubeflow.server import Connection, connect
from schemas.errors import RankerError, SpecError

CRON = "0 0 3 * * *"
DAY = datetime.date(2026, 1, 5)
WEEK = [DAY + datetime.timedelta(days=day) for day in range(5)]
NOTHING = RunSettings()


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KF_PIPELINES_ENDPOINT", "KFP_TOKEN", "KFP_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake():
    with FakeKfp().serving() as server:
        yield server


@pytest.fixture
def deployment(fake):
    return deployment_on(fake)


def deployment_on(fake, events=None, lag_days=1, **options):
    server = connect(Connection(fake.url, **options), sleep=fake.advance)
    return Deployment(server, "ranker", lag_days, (events if events is not None else []).append)


@pytest.fixture
def package(tmp_path):
    return package_in(tmp_path, "ranker:1")


def package_in(folder, image, lag_days=1, run_date=""):
    inputs = {"run_date_lag_days": {"runtimeValue": {"constant": lag_days}}}
    parameters = {
        "run_date": {"parameterType": "STRING", "defaultValue": run_date},
        "logs_root": {"parameterType": "STRING", "defaultValue": "/data/logs"},
        "attempts": {"parameterType": "NUMBER_INTEGER", "defaultValue": 1},
    }
    spec = {
        "pipelineInfo": {"name": "ranker"},
        "schemaVersion": "2.1.0",
        "defaultPipelineRoot": "minio://bucket/artifacts",
        "deploymentSpec": {"executors": {"Plan": {"container": {"image": image}}}},
        "root": {
            "inputDefinitions": {"parameters": parameters},
            "dag": {"tasks": {"Plan": {"inputs": {"parameters": inputs}}}},
        },
    }
    path = folder / f"{image.replace(':', '-')}.yaml"
    path.write_text(yaml.safe_dump(spec))
    return read_package(str(path))


def made(fake, line):
    return sum(line == request for request in fake.requests)


# Packages.


def test_version_is_named_after_the_content(tmp_path):
    first, same, other = (package_in(tmp_path, image) for image in ("a:1", "a:1", "a:2"))
    assert first.version == same.version != other.version
    assert first.version.startswith("ranker-")


@pytest.mark.parametrize("content", ["", "a: [", "- 1", "pipelineInfo: {name: other}"])
def test_other_files_are_no_packages(tmp_path, content):
    path = tmp_path / "package.yaml"
    path.write_text(content)
    with pytest.raises(RankerError, match=r"package\.yaml"):
        read_package(str(path))


def test_parameters_are_held_against_the_package(package):
    given = {"logs_root": "gs://logs", "attempts": "3"}
    assert check_parameters(package, given) == {"logs_root": "gs://logs", "attempts": 3}
    with pytest.raises(RankerError, match=r"log_root: .* it has attempts, logs_root, run_date"):
        check_parameters(package, {"log_root": ""})
    with pytest.raises(RankerError, match="attempts: expected NUMBER_INTEGER, got 'many'"):
        check_parameters(package, {"attempts": "many"})


@pytest.mark.parametrize("overrides", ["training.epochs=2", "[1]", "null", '["training.epochs"]'])
def test_overrides_that_the_run_could_not_read_are_refused_at_once(package, overrides):
    declared = dataclasses.replace(package, parameters={**package.parameters, OVERRIDES: "STRING"})
    with pytest.raises(SpecError, match=r"overrides: expected a JSON list|FIELD\.FIELD=VALUE"):
        check_parameters(declared, {OVERRIDES: overrides})
    assert check_parameters(declared, {OVERRIDES: '["a=1"]'}) == {OVERRIDES: '["a=1"]'}


@pytest.mark.parametrize("cron", ["0 3 * * *", "@daily", "0 0 3 * * * *", "", "0 0 3 * * ;"])
def test_cron_has_six_fields(cron):
    with pytest.raises(RankerError, match="seconds first"):
        check_cron(cron)


@pytest.mark.parametrize(
    "cron", ["0 * * * * *", "0 0 * * * *", "0 0 3,15 * * *", "0 0 */6 * * *", "0 0 24 * * *"]
)
def test_cron_is_one_time_of_day(cron):
    with pytest.raises(RankerError, match="a day is run once"):
        check_cron(cron)


# Uploads.


def test_upload_makes_pipeline_and_version_with_the_package_as_it_is(fake, deployment, package):
    version = deployment.upload(package)
    assert version.uploaded
    assert fake.versions[version.version_id]["display_name"] == package.version
    with open(package.path, "rb") as file:
        assert fake.uploads[-1] == (package.version, file.read())


def test_same_package_is_uploaded_once(fake, deployment, package):
    first = deployment.upload(package)
    uploads = len(fake.uploads)
    second = deployment_on(fake).upload(package)
    assert not second.uploaded
    assert second.version_id == first.version_id
    assert len(fake.uploads) == uploads


def test_changed_package_is_a_new_version_of_the_same_pipeline(fake, deployment, tmp_path):
    versions = [deployment.upload(package_in(tmp_path, image)) for image in ("a:1", "a:2")]
    assert versions[0].pipeline_id == versions[1].pipeline_id
    assert versions[0].version_id != versions[1].version_id
    assert len(fake.pipelines) == 1


@pytest.mark.parametrize("path", ["upload$", "upload_version$"])
@pytest.mark.parametrize("kind", [500, 503, 429, "drop", "lose"])
def test_upload_survives_faults_without_a_second_copy(fake, deployment, package, path, kind):
    fake.faults.append(Fault(path, kind, times=2))
    deployment.upload(package)
    names = [version["display_name"] for version in fake.versions.values()]
    assert sorted(names) == ["ranker", package.version]


def test_pipeline_that_another_one_makes_meanwhile_is_taken(fake, deployment, package):
    def intrude(line):
        if line == "POST /pipelines/upload":
            fake.on_request = lambda line: None
            other = deployment_pipeline(fake)
            fake.pipelines[other["pipeline_id"]] = other

    fake.on_request = intrude
    version = deployment.upload(package)
    assert list(fake.pipelines) == [version.pipeline_id]


def deployment_pipeline(fake):
    return {
        "pipeline_id": "theirs",
        "display_name": "ranker",
        "created_at": fake.now,
        "namespace": "",
    }


def test_name_that_differs_in_case_is_another_pipeline(fake, deployment, package):
    fake.pipelines["theirs"] = {**deployment_pipeline(fake), "display_name": "Ranker"}
    assert deployment.upload(package).pipeline_id != "theirs"


# Runs.


def test_run_is_of_its_day_and_version(fake, deployment, package):
    settings = RunSettings({"logs_root": "gs://logs"}, service_account="trainer")
    run = deployment.start(package, DAY, settings)
    stored = fake.runs[run.run_id]
    assert run.name == "ranker-2026-01-05-1"
    assert run.date == DAY
    assert stored["runtime_config"]["parameters"] == {
        "run_date": "2026-01-05",
        "logs_root": "gs://logs",
    }
    assert stored["runtime_config"]["pipeline_root"] == package.pipeline_root
    assert stored["service_account"] == "trainer"
    version = fake.versions[stored["pipeline_version_reference"]["pipeline_version_id"]]
    assert version["display_name"] == package.version


def test_day_under_way_is_not_run_again(fake, deployment, package):
    run = deployment.start(package, DAY, NOTHING)
    with pytest.raises(RankerError, match=f"2026-01-05: run ranker-2026-01-05-1 .{run.run_id}"):
        deployment.start(package, DAY, NOTHING)
    fake.advance(120)
    assert deployment.start(package, DAY, NOTHING).name == "ranker-2026-01-05-2"


def test_name_of_an_attempt_is_not_given_again(fake, deployment, package):
    for _ in range(2):
        run = deployment.start(package, DAY, NOTHING)
        fake.advance(120)
    fake.runs.pop(next(iter(fake.runs)))
    fake.faults.append(Fault("POST /runs", "lose"))
    again = deployment.start(package, DAY, NOTHING)
    assert again.run_id != run.run_id
    assert {item["display_name"] for item in fake.runs.values()} == {run.name, again.name}


def test_run_of_no_day_is_left_out(fake, deployment, package):
    run = deployment.start(package, DAY, NOTHING)
    fake.runs[run.run_id]["runtime_config"]["parameters"]["run_date"] = "yesterday"
    assert deployment.runs() == []
    deployment.start(package, DAY, NOTHING)


def test_scheduled_run_of_the_day_counts(fake, deployment, package):
    Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    fake.durations[""] = 3600
    fake.advance(15 * 3600 + 60)
    with pytest.raises(RankerError, match=r"2026-01-10: run .* is running"):
        deployment.start(package, datetime.date(2026, 1, 10), NOTHING)
    deployment.start(package, datetime.date(2026, 1, 9), NOTHING)


@pytest.mark.parametrize("lag_days", [0, 2])
def test_day_of_a_scheduled_run_is_its_time_less_the_lag(fake, tmp_path, lag_days):
    package = package_in(tmp_path, "ranker:1", lag_days)
    deployment = deployment_on(fake, lag_days=lag_days)
    Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    fake.advance(86_400)
    (run,) = deployment.runs()
    assert run.date == datetime.date(2026, 1, 11 - lag_days)


@pytest.mark.parametrize("kind", [500, 503, "drop", "lose"])
def test_lost_answer_makes_no_second_run(fake, deployment, package, kind):
    fake.faults.append(Fault("POST /runs", kind))
    run = deployment.start(package, DAY, NOTHING)
    assert list(fake.runs) == [run.run_id]


def test_lost_answer_is_followed_by_a_look_not_by_another_request(fake, deployment, package):
    fake.faults.append(Fault("POST /runs", "lose"))
    deployment.start(package, DAY, NOTHING)
    assert made(fake, "POST /runs") == 1


def test_server_that_stays_broken_is_an_error_in_the_end(fake, deployment, package):
    fake.faults.append(Fault("POST /runs", 503, times=100))
    before = fake.now
    with pytest.raises(RankerError, match=r"starting ranker-2026-01-05-1: .*HTTP 503: the server"):
        deployment.start(package, DAY, NOTHING)
    assert made(fake, "POST /runs") == 6
    assert fake.now - before == datetime.timedelta(seconds=1 + 2 + 4 + 8 + 16)
    assert not fake.runs


def test_nobody_listening_is_an_error(package, monkeypatch):
    with FakeKfp().serving() as fake:
        url = fake.url
    waits = []
    deployment = Deployment(connect(Connection(url), sleep=waits.append), "ranker", 1)
    with pytest.raises(RankerError, match="listing pipelines: the server did not do it"):
        deployment.upload(package)
    assert waits == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("status", [400, 403, 404, 412])
def test_refusal_is_final_and_says_what_the_server_says(fake, deployment, package, status):
    fake.faults.append(Fault("POST /runs", status))
    with pytest.raises(RankerError, match=rf"starting .* HTTP {status}: the server's fault"):
        deployment.start(package, DAY, NOTHING)
    assert made(fake, "POST /runs") == 1


def test_refused_upload_says_what_the_server_says(fake, deployment, package):
    fake.faults.append(Fault("upload$", 400))
    with pytest.raises(RankerError, match=r"ranker: HTTP 400: the server's fault$"):
        deployment.upload(package)


def test_requests_have_a_time_limit(fake, monkeypatch):
    monkeypatch.setattr("pipeline.kubeflow.server._TIMEOUT", (0.2, 0.2))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        server = connect(Connection(url), sleep=lambda seconds: None)
        monkeypatch.setattr("pipeline.kubeflow.server._ATTEMPTS", 1)
        with pytest.raises(RankerError, match="timed out"):
            Deployment(server, "ranker", 1).runs()


# Pages.


def test_every_page_is_read(fake, deployment, package):
    first = deployment.start(package, DAY, NOTHING)
    stored = fake.runs[first.run_id]
    for number in range(249):
        fake.runs[str(number)] = {**stored, "run_id": str(number), "display_name": f"x{number}"}
    assert len({run.run_id for run in deployment.runs()}) == 250


# Who may.


def test_token_and_namespace_go_along(package):
    with FakeKfp(token="secret", several_users=True).serving() as fake:
        deployment = deployment_on(fake, token="secret", namespace="team")
        deployment.start(package, DAY, NOTHING)
        Schedule(deployment, "daily").apply(package, CRON, NOTHING)
        owned = [*fake.pipelines.values(), *fake.experiments.values()]
        assert {item["namespace"] for item in owned} == {"team"}


def test_token_of_a_pod_is_read_anew_for_each_request(package, tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.write_text("old")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(path))
    with FakeKfp(token="old").serving() as fake:
        deployment = deployment_on(fake)
        deployment.upload(package)
        fake.token = "new"
        path.write_text("new")
        assert not deployment.upload(package).uploaded


def test_wrong_token_is_refused_at_once(package):
    with FakeKfp(token="secret").serving() as fake:
        with pytest.raises(RankerError, match=r"HTTP 401: Unauthenticated.*check the token"):
            deployment_on(fake, token="guess").upload(package)
        assert len(fake.requests) == 1


def test_namespace_without_a_host_is_refused():
    with pytest.raises(RankerError, match="no host"):
        connect(Connection(namespace="team"), sleep=lambda seconds: None)


# Backfills.


def fill(fake, deployment, package, **options):
    return deployment.backfill(package, WEEK, NOTHING, poll_seconds=10, **options)


def test_backfill_runs_the_days_in_order_one_at_a_time(fake, deployment, package):
    runs = fill(fake, deployment, package)
    assert fake.days() == [str(day) for day in WEEK]
    assert fake.most_at_once == 1
    assert not failed(WEEK, runs)


@pytest.mark.parametrize("parallel", [2, 3])
def test_backfill_in_parallel_is_bounded(fake, deployment, package, parallel):
    fake.durations[str(WEEK[0])] = 500
    fill(fake, deployment, package, parallel=parallel)
    assert fake.most_at_once == parallel
    assert fake.days() == [str(day) for day in WEEK]


def test_failed_day_ends_the_backfill(fake, deployment, package):
    fake.outcomes[str(WEEK[1])] = "FAILED"
    runs = fill(fake, deployment, package)
    assert fake.days() == [str(day) for day in WEEK[:2]]
    lines = failed(WEEK, runs)
    assert lines[0].startswith("2026-01-06: failed")
    assert lines[0].endswith(": step Trainer failed")
    assert lines[1:] == [f"{day}: not started" for day in WEEK[2:]]


def test_keep_going_goes_on_after_a_failed_day(fake, deployment, package):
    fake.outcomes[str(WEEK[1])] = "FAILED"
    runs = fill(fake, deployment, package, keep_going=True)
    assert fake.days() == [str(day) for day in WEEK]
    assert len(failed(WEEK, runs)) == 1


def test_parallel_days_under_way_are_awaited_after_a_failure(fake, deployment, package):
    fake.outcomes[str(WEEK[0])] = "FAILED"
    fake.durations[str(WEEK[1])] = 300
    runs = fill(fake, deployment, package, parallel=2)
    assert fake.days() == [str(day) for day in WEEK[:2]]
    assert runs[WEEK[1]].succeeded


def test_backfill_goes_on_where_it_stopped(fake, deployment, package):
    fake.outcomes[str(WEEK[2])] = "FAILED"
    fill(fake, deployment, package)
    fake.outcomes.clear()
    runs = fill(fake, deployment_on(fake), package)
    assert fake.days() == [str(day) for day in [*WEEK[:3], *WEEK[2:]]]
    assert not failed(WEEK, runs)


def test_backfill_that_is_done_starts_nothing(fake, deployment, package):
    fill(fake, deployment, package)
    posts = made(fake, "POST /runs")
    assert not failed(WEEK, fill(fake, deployment, package))
    assert made(fake, "POST /runs") == posts


def test_later_failure_does_not_undo_a_day_that_succeeded(fake, deployment, package):
    fill(fake, deployment, package)
    fake.outcomes[str(WEEK[0])] = "FAILED"
    deployment.start(package, WEEK[0], NOTHING)
    fake.advance(120)
    assert not failed(WEEK, fill(fake, deployment, package))


def test_day_found_under_way_is_awaited(fake, deployment, package):
    deployment.start(package, WEEK[3], NOTHING)
    runs = fill(fake, deployment, package)
    assert fake.days() == [str(WEEK[3]), *(str(day) for day in WEEK if day != WEEK[3])]
    assert fake.most_at_once == 1
    assert not failed(WEEK, runs)


def test_backfill_survives_faults_of_the_server(fake, deployment, package):
    fake.faults += [
        Fault("GET /runs/", "drop", times=4),
        Fault("POST /runs", "lose", times=2),
        Fault("GET /runs$", 500, times=3),
        Fault("GET /runs/", 503, times=3),
    ]
    assert not failed(WEEK, fill(fake, deployment, package))
    assert fake.days() == [str(day) for day in WEEK]


def test_run_that_does_not_end_is_given_up(fake, deployment, package, monkeypatch):
    fake.durations[str(DAY)] = 1e9
    deployment.start(package, DAY, NOTHING)
    with pytest.raises(RankerError, match=r"no end of ranker-2026-01-05-1 .* after 2.0 hours"):
        fill(fake, deployment, package, timeout_seconds=7200)


def test_progress_is_told(fake, package):
    events = []
    fill(fake, deployment_on(fake, events), package)
    told = [line for line in events if line.startswith("2026-01-05")]
    assert [line.split(",")[0].split(" (")[0] for line in told] == [
        "2026-01-05: started ranker-2026-01-05-1",
        "2026-01-05: running",
        "2026-01-05: succeeded",
    ]


def test_unknown_parameter_starts_nothing(fake, deployment, package):
    with pytest.raises(RankerError, match="no such run parameter"):
        deployment.backfill(package, WEEK, RunSettings({"log_root": "x"}))
    assert not fake.requests


# Schedules.


def triggered(fake):
    """The times for which schedules made runs."""
    return [run["scheduled_at"] for run in fake.runs.values() if "recurring_run_id" in run]


def daily(*dates):
    return [datetime.datetime(2026, 1, d, 3, tzinfo=datetime.timezone.utc) for d in dates]


def test_schedule_is_daily_without_catching_up(fake, deployment, package):
    settings = RunSettings({"logs_root": "gs://logs"}, service_account="trainer")
    schedule_id, changed = Schedule(deployment, "daily").apply(package, CRON, settings)
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
    first, _ = Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    before = json.dumps(fake.schedules, default=str)
    assert Schedule(deployment_on(fake), "daily").apply(package, CRON, NOTHING) == (first, False)
    assert json.dumps(fake.schedules, default=str) == before


@pytest.mark.parametrize("change", ["cron", "version", "parameters", "account"])
def test_changed_schedule_is_replaced(fake, deployment, package, tmp_path, change):
    first, _ = Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    other = package_in(tmp_path, "ranker:2") if change == "version" else package
    cron = "0 30 4 * * *" if change == "cron" else CRON
    settings = RunSettings(
        {"logs_root": "gs://new"} if change == "parameters" else {},
        "trainer" if change == "account" else None,
    )
    second, changed = Schedule(deployment, "daily").apply(other, cron, settings)
    assert changed
    assert first != second
    assert {key: item["status"] for key, item in fake.schedules.items()} == {second: "ENABLED"}


def test_old_schedule_is_quiet_before_the_new_one_may_run(fake, deployment, package, tmp_path):
    Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    states = []
    fake.on_request = lambda line: states.append([s["status"] for s in fake.schedules.values()])
    Schedule(deployment, "daily").apply(package_in(tmp_path, "ranker:2"), CRON, NOTHING)
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
    fake, deployment, package, tmp_path, when, seconds
):
    Schedule(deployment, "daily").apply(package, CRON, NOTHING)

    def come(line):
        if re.search(when, line):
            fake.on_request = lambda line: None
            due = fake.now.replace(hour=3, minute=0, second=0)
            due += datetime.timedelta(days=due < fake.now)
            fake.advance((due - fake.now).total_seconds() + seconds)

    fake.durations[""] = 5
    fake.on_request = come
    new = package_in(tmp_path, "ranker:2")
    try:
        Schedule(deployment, "daily").apply(new, CRON, NOTHING)
    except RankerError:
        # Its run is under way.
        fake.advance(60)
        Schedule(deployment, "daily").apply(new, CRON, NOTHING)
    fake.advance(12 * 3600)
    assert triggered(fake) == daily(11)
    assert [item["status"] for item in fake.schedules.values()] == ["ENABLED"]


def test_time_that_comes_while_none_is_enabled_is_run_once(fake, deployment, package, tmp_path):
    Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    fake.advance(15 * 3600 - 10)
    Schedule(deployment, "daily").apply(package_in(tmp_path, "ranker:2"), CRON, NOTHING)
    fake.advance(3600)
    assert triggered(fake) == daily(11)


def test_schedule_whose_run_is_under_way_is_not_replaced(fake, deployment, package, tmp_path):
    first, _ = Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    fake.durations[""] = 7200
    fake.advance(15 * 3600 + 60)
    with pytest.raises(RankerError, match=r"daily: its run .* of 2026-01-10 is running"):
        Schedule(deployment, "daily").apply(package_in(tmp_path, "ranker:2"), CRON, NOTHING)
    assert {key: item["status"] for key, item in fake.schedules.items()} == {first: "ENABLED"}


def test_run_that_the_old_schedule_makes_at_the_last_moment_is_kept(
    fake, deployment, package, tmp_path
):
    Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    fake.advance(15 * 3600 - 3)
    fake.durations[""] = 7200
    new = package_in(tmp_path, "ranker:2")

    def come(line):
        if line.endswith(":disable"):
            fake.on_request = lambda line: None
            fake.advance(10)

    fake.on_request = come
    schedule_id, _ = Schedule(deployment, "daily").apply(new, CRON, NOTHING)
    fake.advance(3600)
    assert triggered(fake) == daily(11)
    assert [run["state"] for run in fake.runs.values()] == ["RUNNING"]
    fake.advance(7200)
    assert Schedule(deployment, "daily").apply(new, CRON, NOTHING) == (schedule_id, True)
    assert list(fake.schedules) == [schedule_id]
    assert [run["state"] for run in fake.runs.values()] == ["SUCCEEDED"]


@pytest.mark.parametrize("step", range(1, 16))
def test_interrupted_replacement_is_finished_by_the_same_call(
    fake, deployment, package, tmp_path, step
):
    Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    new = package_in(tmp_path, "ranker:2")
    deployment.upload(new)
    fake.requests.clear()

    def stop(line):
        if len(fake.requests) > step:
            fake.faults.append(Fault(".", 403))

    fake.on_request = stop
    with contextlib.suppress(RankerError):
        Schedule(deployment, "daily").apply(new, CRON, NOTHING)
    fake.on_request = lambda line: None
    fake.faults.clear()
    # A day goes by before somebody looks.
    fake.advance(86_400)
    schedule_id, _ = Schedule(deployment_on(fake), "daily").apply(new, CRON, NOTHING)
    fake.advance(86_400)
    times = triggered(fake)
    assert len(set(times)) == len(times)
    assert times[-1] == daily(12)[0]
    assert daily(11)[0] in times
    assert {k: item["status"] for k, item in fake.schedules.items()} == {schedule_id: "ENABLED"}


@pytest.mark.parametrize("kind", [500, "drop", "lose"])
@pytest.mark.parametrize("request_", ["POST /recurringruns$", ":enable$", ":disable$", "DELETE "])
def test_replacement_survives_faults(fake, deployment, package, tmp_path, kind, request_):
    Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    fake.faults.append(Fault(request_, kind, times=2))
    second, _ = Schedule(deployment, "daily").apply(package_in(tmp_path, "ranker:2"), CRON, NOTHING)
    assert {key: item["status"] for key, item in fake.schedules.items()} == {second: "ENABLED"}


def test_going_back_to_older_settings_works(fake, deployment, package, tmp_path):
    other = package_in(tmp_path, "ranker:2")
    for wanted in (package, other, package):
        schedule_id, changed = Schedule(deployment, "daily").apply(wanted, CRON, NOTHING)
        assert changed
        fake.advance(86_400)
    assert list(fake.schedules) == [schedule_id]
    assert triggered(fake) == daily(11, 12, 13)


def test_refused_replacement_leaves_the_old_schedule(fake, deployment, package, tmp_path):
    first, _ = Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    fake.faults.append(Fault("POST /recurringruns$", 400))
    with pytest.raises(RankerError, match="creating schedule daily: HTTP 400"):
        Schedule(deployment, "daily").apply(package_in(tmp_path, "ranker:2"), CRON, NOTHING)
    assert {key: item["status"] for key, item in fake.schedules.items()} == {first: "ENABLED"}


def test_schedule_of_one_day_is_refused(fake, deployment, package):
    with pytest.raises(RankerError, match="run_date"):
        Schedule(deployment, "daily").apply(package, CRON, RunSettings({"run_date": "2026-01-05"}))
    assert not fake.requests


def test_package_of_one_day_is_not_scheduled(fake, deployment, tmp_path):
    package = package_in(tmp_path, "ranker:1", run_date="2026-01-05")
    with pytest.raises(RankerError, match="its run_date is 2026-01-05"):
        Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    assert not fake.requests


def test_pause_and_resume(fake, deployment, package):
    Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    Schedule(deployment, "daily").set_enabled(False)
    fake.advance(3 * 86_400)
    assert triggered(fake) == []
    Schedule(deployment, "daily").set_enabled(True)
    fake.advance(60)
    assert triggered(fake) == daily(13)


def test_paused_schedule_is_enabled_by_scheduling(fake, deployment, package):
    first, _ = Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    Schedule(deployment, "daily").set_enabled(False)
    assert Schedule(deployment, "daily").apply(package, CRON, NOTHING) == (first, True)
    assert fake.schedules[first]["status"] == "ENABLED"


def test_unschedule_deletes_it_once_idle(fake, deployment, package):
    Schedule(deployment, "daily").apply(package, CRON, NOTHING)
    fake.durations[""] = 7200
    fake.advance(15 * 3600 + 60)
    with pytest.raises(RankerError, match="would be lost"):
        Schedule(deployment, "daily").delete()
    fake.advance(7200)
    Schedule(deployment, "daily").delete()
    assert not fake.schedules
    assert [run["state"] for run in fake.runs.values()] == ["SUCCEEDED"]


@pytest.mark.parametrize("name", ["daily", "Daily"])
def test_schedule_that_is_not_there_is_an_error(fake, deployment, package, name):
    Schedule(deployment, "DAILY").apply(package, CRON, NOTHING)
    with pytest.raises(RankerError, match=f"{name}: pipeline ranker has no such schedule"):
        Schedule(deployment, name).set_enabled(False)


def test_connecting_sends_nothing(fake):
    connect(Connection(fake.url), sleep=fake.advance)
    assert not fake.requests


# Commands.


@pytest.fixture
def command(fake, package, monkeypatch):
    monkeypatch.setattr("time.sleep", fake.advance)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", fake.url)

    def call(*arguments):
        return CliRunner().invoke(app, [*arguments, "--package", package.path])

    return call


def test_commands_upload_schedule_pause_resume_and_delete(fake, command, package):
    assert package.version in command("upload").output
    assert command("schedule", "--cron", "0 30 4 * * *").exit_code == 0
    (schedule,) = fake.schedules.values()
    assert schedule["body"]["display_name"] == "ranker-daily"
    assert schedule["body"]["trigger"]["cron_schedule"]["cron"] == "0 30 4 * * *"
    assert "unchanged" in command("schedule", "--cron", "0 30 4 * * *").output
    assert command("pause").exit_code == 0
    assert schedule["status"] == "DISABLED"
    assert command("resume").exit_code == 0
    assert schedule["status"] == "ENABLED"
    assert command("unschedule").exit_code == 0
    assert not fake.schedules


@pytest.mark.parametrize(("outcome", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 1)])
def test_submit_waits_and_says_how_it_ended(fake, command, outcome, code):
    fake.outcomes["2026-01-05"] = outcome
    result = command("submit", "2026-01-05", "-p", "logs_root=gs://logs")
    assert result.exit_code == code
    assert f"2026-01-05: {outcome.lower()}" in result.output
    (run,) = fake.runs.values()
    assert run["runtime_config"]["parameters"]["logs_root"] == "gs://logs"


def test_submit_need_not_wait(fake, command):
    assert command("submit", "2026-01-05", "--no-wait").exit_code == 0
    assert len(fake.under_way()) == 1


def test_backfill_lists_what_is_left(fake, command):
    fake.outcomes["2026-01-06"] = "FAILED"
    result = command("backfill", "2026-01-05", "2026-01-07")
    assert result.exit_code == 1
    assert "2 of 3 days not done" in result.output
    assert "2026-01-07: not started" in result.output


def test_refusal_is_a_message_and_an_exit_code(fake, command):
    fake.faults.append(Fault("GET /pipelines", 403))
    result = command("upload")
    assert result.exit_code == 1
    assert "error: listing pipelines: HTTP 403: the server's fault" in result.output
    assert "Traceback" not in result.output


def test_token_comes_from_the_environment(fake, command, monkeypatch):
    fake.token = "secret"
    assert command("upload").exit_code == 1
    monkeypatch.setenv("KFP_TOKEN", "secret")
    assert command("upload").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["submit", "2026-01-05", "-p", "logs_root"], 2, "expected NAME=VALUE"),
        (["submit", "2026-01-05", "-p", "log_root=x"], 1, "no such run parameter"),
        (["backfill", "2026-01-05", "2026-01-04"], 2, "2026-01-04 is before 2026-01-05"),
        (["schedule", "--cron", "0 3 * * *"], 2, "seconds first"),
        (["schedule", "--cron", "0 * * * * *"], 2, "'*' is no single second"),
        (["upload", "--host", "not a url"], 2, "'not a url' is not a URL"),
        (["upload", "--host", "ftp://host"], 2, "is not a URL"),
        (["upload", "--package", "nowhere.yaml"], 1, "cannot be read as a package"),
    ],
)
def test_bad_call_is_answered_before_the_sdk_is_imported(package, arguments, code, message):
    script = (
        "import sys\nfrom pipeline.cli.kubeflow_server import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "finally:\n    assert 'kfp' not in sys.modules, 'AssertionError'\n"
    )
    # The last of two --package counts.
    command = [sys.executable, "-c", script, arguments[0], "--package", package.path]
    done = subprocess.run([*command, *arguments[1:]], capture_output=True, text=True, check=False)
    assert "AssertionError" not in done.stderr
    assert done.returncode == code
    assert message in re.sub(r"[\s│]+", " ", done.stderr)


def test_missing_host_is_told_at_once(package, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    result = CliRunner().invoke(app, ["upload", "--package", package.path])
    assert result.exit_code == 1
    assert "no host was given" in result.output


def test_host_that_is_the_sdks_own_default_may_be_given():
    server = connect(Connection("http://localhost"), lambda seconds: None)
    assert server.client is not None
