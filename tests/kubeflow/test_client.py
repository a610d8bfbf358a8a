import datetime
import socket

import pytest
from deployments import DAY, NOTHING, TO_ITS_TIME, deployment_on, package_in, scheduled
from fake_kfp import FakeKfp
from fake_kfp_http import Fault

from pipeline.kubeflow.client import Deployment
from pipeline.kubeflow.package import RunSettings
from pipeline.kubeflow.server import Connection, connect
from schemas.errors import RankerError

pytestmark = pytest.mark.usefixtures("no_settings_of_this_machine")


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
    scheduled(deployment, package)
    fake.durations[""] = 3600
    fake.advance(TO_ITS_TIME + 60)
    with pytest.raises(RankerError, match=r"2026-01-10: run .* is running"):
        deployment.start(package, datetime.date(2026, 1, 10), NOTHING)
    deployment.start(package, datetime.date(2026, 1, 9), NOTHING)


@pytest.mark.parametrize("lag_days", [0, 2])
def test_day_of_a_scheduled_run_is_its_time_less_the_lag(fake, tmp_path, lag_days):
    package = package_in(tmp_path, "ranker:1", lag_days)
    deployment = deployment_on(fake, lag_days=lag_days)
    scheduled(deployment, package)
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
    assert fake.requests.count("POST /runs") == 1


def test_server_that_stays_broken_is_an_error_in_the_end(fake, deployment, package):
    fake.faults.append(Fault("POST /runs", 503, times=100))
    before = fake.now
    with pytest.raises(RankerError, match=r"starting ranker-2026-01-05-1: .*HTTP 503: the server"):
        deployment.start(package, DAY, NOTHING)
    assert fake.requests.count("POST /runs") == 6
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
    assert fake.requests.count("POST /runs") == 1


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


def test_every_page_is_read(fake, deployment, package):
    first = deployment.start(package, DAY, NOTHING)
    stored = fake.runs[first.run_id]
    for number in range(249):
        fake.runs[str(number)] = {**stored, "run_id": str(number), "display_name": f"x{number}"}
    assert len({run.run_id for run in deployment.runs()}) == 250


def test_token_and_namespace_go_along(package):
    with FakeKfp(token="secret", several_users=True).serving() as fake:
        deployment = deployment_on(fake, token="secret", namespace="team")
        deployment.start(package, DAY, NOTHING)
        scheduled(deployment, package)
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


def test_connecting_sends_nothing(fake):
    connect(Connection(fake.url), sleep=fake.advance)
    assert not fake.requests
