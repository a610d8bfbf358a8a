import re

import light
import pytest
from fake_kfp_http import Fault
from typer.testing import CliRunner

from pipeline.cli.kubeflow_server import app
from pipeline.kubeflow.server import Connection, connect

pytestmark = pytest.mark.usefixtures("no_settings_of_this_machine")


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
        (["schedule", "--cron", "0 * * * * *"], 2, "'*' is not a single second"),
        (["upload", "--host", "not a url"], 2, "'not a url' is not a URL"),
        (["upload", "--host", "ftp://host"], 2, "is not a URL"),
        (["upload", "--package", "nowhere.yaml"], 1, "cannot be read as a package"),
    ],
)
def test_bad_call_is_answered_before_the_sdk_is_imported(package, arguments, code, message):
    command, *rest = arguments
    # The last of two --package counts.
    done = light.call("kubeflow", command, "--package", package.path, *rest, without={"kfp"})
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
