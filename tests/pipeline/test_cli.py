import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import light
import pytest
from planted_runs import Store
from typer.testing import CliRunner

from components import held_days, serving_store
from pipeline import daily, notify
from pipeline.cli import app, tables
from pipeline.workspace import LOCK_FILE, Workspace
from schemas.errors import BadDataError, ExitCode, RankerError, SpecError
from schemas.loading import load_spec

DEMO = str(Path(__file__).parents[2] / "schemas" / "demo.yaml")
RUN = ["run", "2026-01-03", "--logs", "logs", "--spec", DEMO]
BACKFILL = ["backfill", "2026-01-03", "2026-01-04", "--logs", "logs", "--spec", DEMO]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def text_of(result):
    parts = [result.output]
    if getattr(result, "stderr_bytes", None):
        parts.append(result.stderr)
    return re.sub(r"\x1b\[[0-9;]*m", "", " ".join(parts))


def _push(workspace, day, model_uri):
    (workspace / "model").mkdir()
    (workspace / "model" / "saved_model.pb").touch()
    info = serving_store.ModelInfo(day, day, "m", "t", model_uri)
    model, serving = str(workspace / "model"), str(workspace / "serving")
    serving_store.push(model, serving, info, 2, served_before=None)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["run", "--help"], 0),
        (["backfill", "--help"], 0),
        (["rollback", "--help"], 0),
        (["nothing"], 2),
        (["run", "yesterday", "--logs", "l", "--spec", "s"], 2),
        (["rollback", "first"], 2),
        (["run", "2026-01-03", "--logs", "l", "--spec", "nowhere.yaml"], 3),
        (["run", "2026-01-03", "--logs", "l", "--spec", DEMO, "--set", "model.depth=1"], 3),
        (["risk", "--help"], 0),
        (["risk", "yesterday", *RUN[2:]], 2),
        (["risk", *RUN[1:], "--optimizer", "sgd"], 2),
        (["risk", *RUN[1:], "--seeds", "5", "--budget", "4"], 2),
        (["risk", *RUN[1:-1], "nowhere.yaml"], 3),
        (["risk", *RUN[1:], "--set", "training.rate=1"], 3),
    ],
)
def test_help_and_bad_calls_answer_without_tensorflow(arguments, code):
    heavy = {"tensorflow", "tfx", "apache_beam", "ml_metadata", "matplotlib"}
    done = light.call(*arguments, without=heavy)
    assert done.returncode == code, done.stderr


@pytest.fixture
def in_memory():
    """A folder where a year of transactions does not wait for the disk, if there is one."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield Path(path)


def test_status_of_a_year_and_a_refused_rollback_take_no_tensorflow_and_seconds(in_memory):
    store = Store(str(in_memory / "metadata.sqlite"))
    first = datetime.date(2025, 1, 1)
    for day in range(365):
        date = str(first + datetime.timedelta(day))
        store.run(f"r{day}", date, version=day + 1, base=f"r{day - 1}" if day else None)
    _push(in_memory, first, "model/r0")
    for arguments, code, text in (
        (["status"], 0, "2025-12-31"),
        (["status", "--json"], 0, '"r364"'),
        (["rollback", "7"], 1, "no version 7"),
    ):
        done = light.call(*arguments, "-w", in_memory, without={"tensorflow", "apache_beam"})
        assert (done.returncode, text in done.stdout + done.stderr) == (code, True), done.stderr
        assert float(done.stderr.split()[-1]) < 6.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "2026-01-03", "--spec", DEMO], "--logs"),
        (["backfill", "2026-01-04", "2026-01-03", "-l", "l", "-s", DEMO], "is before"),
        (["run", "2026-13-01", "-l", "l", "-s", DEMO], "2026-13-01"),
        (["simulate", "-l", "l", "--start", "2026-01-01", "--days", "0"], "--days"),
        (["simulate", "-l", "l", "--start", "2026-01-01", "--seed", "-1"], "--seed"),
        (["simulate", "-l", "l", "--start", "9999-12-30"], "leave the calendar"),
        (["simulate", "-l", "l", "--start", "0001-01-01"], "leave the calendar"),
        (["rollback", "1", "--keep-versions", "1"], "--keep-versions"),
        *(
            ([*command, "-w", "gs://bucket/work"], "is a URL")
            for command in (["status"], ["rollback", "1"], ["demo"], RUN, ["risk", *RUN[1:]])
        ),
    ],
)
def test_bad_call_names_the_argument(arguments, message):
    result = invoke(*arguments)
    assert result.exit_code == ExitCode.USAGE
    assert message in text_of(result)


@pytest.mark.parametrize(
    ("spec", "overrides", "message"),
    [
        ("name: [", [], "not valid YAML"),
        ("name: test", [], "features"),
        (None, ["training.batch_size=none"], "training.batch_size"),
        (None, ["learning_rate"], "expected FIELD.FIELD=VALUE"),
    ],
)
def test_bad_spec_is_told_before_anything_runs(tmp_path, spec, overrides, message):
    path = tmp_path / "spec.yaml"
    path.write_text(Path(DEMO).read_text() if spec is None else spec)
    options = [item for override in overrides for item in ("--set", override)]
    work = tmp_path / "work"
    result = invoke("run", "2026-01-03", "-l", "logs", "-s", path, "-w", work, *options)
    assert result.exit_code == ExitCode.BAD_SPEC
    assert message in text_of(result)
    assert not work.exists()


@pytest.mark.parametrize(
    "code", [ExitCode.PUSHED, ExitCode.BLOCKED, ExitCode.BAD_DATA, ExitCode.FAILED]
)
@pytest.mark.parametrize("arguments", [RUN, BACKFILL], ids=["run", "backfill"])
def test_exit_code_is_that_of_the_days(tmp_path, monkeypatch, arguments, code):
    monkeypatch.setattr(daily, "run_day", lambda *_: daily.DayResult(code, None, "the log"))
    result = invoke(*arguments, "-w", tmp_path)
    assert result.exit_code == code
    assert ("the log" in text_of(result)) == (code in (ExitCode.BAD_DATA, ExitCode.FAILED))


@pytest.mark.parametrize("error", [BadDataError, SpecError, RankerError])
def test_error_for_people_ends_with_its_message_and_code(tmp_path, monkeypatch, error):
    def run_day(*_):
        raise error("what, where, what to do")

    monkeypatch.setattr(daily, "run_day", run_day)
    result = invoke(*RUN, "-w", tmp_path)
    assert result.exit_code == error.exit_code
    assert "error: what, where, what to do" in text_of(result)


def test_day_that_cannot_begin_is_told_by_its_own_date(tmp_path, monkeypatch):
    def run_day(request, lock, on_progress):
        if request.run_date == "2026-01-04":
            raise RankerError("the disk is full")
        return daily.DayResult(ExitCode.PUSHED, None, "")

    told = []
    monkeypatch.setattr(daily, "run_day", run_day)
    monkeypatch.setattr(
        notify, "after_day", lambda space, spec, date, run, reason: told.append((date, reason))
    )
    assert invoke(*BACKFILL, "-w", tmp_path).exit_code == ExitCode.FAILED
    assert told[1:] == [("2026-01-04", "the disk is full")]


NO_FOLDER = (RUN, ["demo"], ["rollback", "1"], ["status"], ["simulate", "--start", "2026-01-01"])


@pytest.mark.parametrize("command", NO_FOLDER, ids=lambda command: command[0])
@pytest.mark.parametrize("path", ["/proc/nowhere", "FILE"])
def test_path_that_can_be_no_folder_is_an_error_that_names_it(tmp_path, command, path):
    file = tmp_path / "file"
    file.write_text("content")
    path = path.replace("FILE", str(file))
    result = invoke(*command, "-l" if command[0] == "simulate" else "-w", path)
    assert result.exit_code == ExitCode.FAILED
    (line,) = result.output.splitlines()
    assert line.startswith(f"error: {path}")
    assert file.read_text() == "content"


@pytest.mark.parametrize("command", [["status"], ["rollback", "1"]], ids=lambda command: command[0])
def test_workspace_that_is_not_there_is_not_made(tmp_path, command):
    result = invoke(*command, "-w", tmp_path / "wrok")
    assert result.exit_code == ExitCode.FAILED
    assert "no workspace there" in text_of(result)
    assert not (tmp_path / "wrok").exists()


@pytest.mark.parametrize("command", [["status"], RUN], ids=lambda command: command[0])
def test_damaged_metadata_is_named(tmp_path, command):
    (tmp_path / "metadata.sqlite").write_text("no database, " * 100)
    result = invoke(*command, "-w", tmp_path)
    assert result.exit_code == ExitCode.FAILED
    assert f"error: {tmp_path}/metadata.sqlite: cannot be read" in text_of(result)


def test_day_that_dies_early_says_its_last_words(tmp_path, monkeypatch):
    (tmp_path / "log").write_text("Traceback ...\nImportError: no module\n")
    day = daily.DayResult(ExitCode.FAILED, None, str(tmp_path / "log"))
    monkeypatch.setattr(daily, "run_day", lambda *_: day)
    text = text_of(invoke(*RUN, "-w", tmp_path))
    assert "died before its first component: ImportError: no module" in text


@pytest.mark.parametrize("command", [["status"], ["rollback", "1"]], ids=lambda command: command[0])
def test_libraries_print_nothing(served, command):
    env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *command, "-w", str(served)],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


def test_run_asks_for_the_day_with_absolute_paths_and_its_overrides(tmp_path, monkeypatch):
    asked = []

    def run_day(request, lock, on_progress):
        asked.append(request)
        return daily.DayResult(ExitCode.PUSHED, None, "")

    monkeypatch.setattr(daily, "run_day", run_day)
    monkeypatch.chdir(tmp_path)
    override = "training.learning_rate=0.5"
    invoke(*BACKFILL, "-w", "work", "--set", override, "--beam-arg", "--runner=FlinkRunner")
    assert [request.run_date for request in asked] == ["2026-01-03", "2026-01-04"]
    assert {request.workspace for request in asked} == {str(tmp_path / "work")}
    assert {request.logs_root for request in asked} == {str(tmp_path / "logs")}
    assert {request.overrides for request in asked} == {(override,)}
    assert {request.beam_args for request in asked} == {("--runner=FlinkRunner",)}


def test_remote_paths_stay_as_they_are(tmp_path, monkeypatch):
    asked = []

    def run_day(request, lock, on_progress):
        asked.append(request.logs_root)
        return daily.DayResult(ExitCode.PUSHED, None, "")

    monkeypatch.setattr(daily, "run_day", run_day)
    invoke("run", "2026-01-03", "-l", "gs://bucket/logs", "-s", DEMO, "-w", tmp_path)
    assert asked == ["gs://bucket/logs"]


def test_status_before_the_first_run_says_so(tmp_path):
    result = invoke("status", "-w", tmp_path)
    assert (result.exit_code, "no runs yet" in text_of(result)) == (0, True)
    assert json.loads(invoke("status", "-w", tmp_path, "--json").output) == []


def test_status_says_that_the_history_of_a_served_version_is_lost(tmp_path):
    _push(tmp_path, datetime.date(2026, 1, 3), "model/r1")
    text = text_of(invoke("status", "-w", tmp_path))
    assert "version 1 is served" in text
    assert "lost or replaced" in text


def test_status_shows_runs_verdicts_versions_and_lineage(tmp_path):
    store = Store(str(tmp_path / "metadata.sqlite"))
    store.run("r1", "2026-01-03", version=1, auc=0.625)
    store.run("r2", "2026-01-04", end="blocked", reasons="click: auc is [bad]", base="r1")
    _push(tmp_path, datetime.date(2026, 1, 3), "model/r1")

    text = text_of(invoke("status", "-w", tmp_path))
    for word in ("0.625", "pushed", "BLOCKED", "v1", "click: auc is [bad]", "serving version 1"):
        assert word in text
    assert "from the run of 2026-01-03 (r1)" in text

    first, second = json.loads(invoke("status", "-w", tmp_path, "--json").output)
    assert (first["outcome"], first["version"]) == ("pushed", 1)
    assert (second["outcome"], second["reasons"]) == ("blocked", ["click: auc is [bad]"])


def test_status_tells_where_tensorboard_finds_the_runs(tmp_path):
    Store(str(tmp_path / "metadata.sqlite")).run("r1", "2026-01-06", version=1)
    assert "tensorboard" not in text_of(invoke("status", "-w", tmp_path))
    folder = tmp_path / "artifacts" / "Trainer" / "model_run"
    folder.mkdir(parents=True)
    text = text_of(invoke("status", "-w", tmp_path))
    assert f"tensorboard --logdir {folder}" in "".join(text.splitlines())


def test_held_day_that_the_newest_run_noted_is_told_once(tmp_path, monkeypatch):
    Store(str(tmp_path / "metadata.sqlite")).run("r1", "2026-01-06", version=1)
    day = datetime.date(2026, 1, 5)
    held = held_days.HeldDay(day, "c", 1, ("click: AUC 0.5",))
    held_days.save(Workspace(str(tmp_path)).day_store, held)
    monkeypatch.setattr(tables, "run_facts", lambda run: [f"  DailyExampleGen: {held}"])
    assert text_of(invoke("status", "-w", tmp_path)).count("2026-01-05: held") == 1


def test_held_day_is_in_status_until_it_is_released(tmp_path):
    Store(str(tmp_path / "metadata.sqlite")).run("r1", "2026-01-06", version=1)
    day = datetime.date(2026, 1, 5)
    held_days.save(
        Workspace(str(tmp_path)).day_store,
        held_days.HeldDay(day, "c", 1, ("click: AUC 0.5",)),
    )
    text = text_of(invoke("status", "-w", tmp_path))
    assert "2026-01-05: held, not trained on" in text
    assert "click: AUC 0.5" in text
    result = invoke("release", "2026-01-05", "-w", tmp_path)
    assert (result.exit_code, "the next run trains on it in full" in text_of(result)) == (0, True)
    assert "2026-01-05" not in text_of(invoke("status", "-w", tmp_path))
    result = invoke("release", "2026-01-05", "-w", tmp_path)
    assert result.exit_code == ExitCode.FAILED
    assert "2026-01-05 is not held; held days: none" in text_of(result)


@pytest.fixture
def served(tmp_path):
    day = datetime.date(2026, 1, 3)
    (tmp_path / "model").mkdir()
    for before, content in ((None, "first"), (1, "second")):
        (tmp_path / "model" / "saved_model.pb").write_text(content)
        info = serving_store.ModelInfo(day, day, "m", "t", content)
        serving_store.push(
            str(tmp_path / "model"), str(tmp_path / "serving"), info, 5, served_before=before
        )
    return tmp_path


def test_rollback_serves_the_old_version_again(served):
    result = invoke("rollback", "1", "-w", served)
    assert result.exit_code == 0
    assert "version 3 serves what version 1 did" in text_of(result)
    assert (served / "serving" / "3" / "saved_model.pb").read_text() == "first"


@pytest.mark.parametrize(
    ("version", "message"), [("2", "is being served already"), ("9", "no version 9")]
)
def test_rollback_that_cannot_be_done_fails_with_the_reason(served, version, message):
    result = invoke("rollback", version, "-w", served)
    assert result.exit_code == ExitCode.FAILED
    assert message in text_of(result)


def test_rollback_waits_for_no_run_but_refuses_beside_one(served):
    with daily.locked(Workspace(str(served))):
        result = invoke("rollback", "1", "-w", served)
    assert result.exit_code == ExitCode.FAILED
    assert "another run is under way" in text_of(result)


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """What an earlier demo has left."""
    (tmp_path / ".demo").touch()
    (tmp_path / "metadata.sqlite").touch()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "old").touch()
    monkeypatch.setattr("pipeline.simulate.write_logs", lambda *_, **__: None)
    return tmp_path


def test_demo_in_use_is_not_deleted(demo):
    with daily.locked(Workspace(str(demo))):
        result = invoke("demo", "-w", demo)
    assert result.exit_code == ExitCode.FAILED
    assert "another run is under way" in text_of(result)
    assert (demo / "logs" / "old").exists()


def test_demo_replaces_an_earlier_one_under_its_lock(demo, monkeypatch):
    seen = []

    def run_day(request, lock, on_progress):
        with pytest.raises(RankerError, match="another run"):
            daily.locked(Workspace(str(demo))).__enter__()
        assert os.path.samestat(os.fstat(lock), os.stat(demo / LOCK_FILE))
        seen.append(sorted(os.listdir(demo)))
        return daily.DayResult(ExitCode.PUSHED, None, "")

    monkeypatch.setattr(daily, "run_day", run_day)
    assert invoke("demo", "-w", demo).exit_code == 0
    assert seen == [[".demo", LOCK_FILE]] * 5


def test_demos_blocked_day_differs_from_the_next_in_the_rule_alone(demo, monkeypatch):
    specs = []

    def run_day(request, lock, on_progress):
        specs.append(load_spec(request.spec_path, request.overrides))
        return daily.DayResult(ExitCode.PUSHED, None, "")

    monkeypatch.setattr(daily, "run_day", run_day)
    assert invoke("demo", "-w", demo).exit_code == 0
    untreated = [spec.training.optimizer.rule == "" for spec in specs]
    assert untreated == [False, False, True, False, False]
    clipped = specs[2].training.optimizer.model_copy(update={"name": "clippy_adagrad"})
    training = specs[2].training.model_copy(update={"optimizer": clipped})
    assert specs[2].model_copy(update={"training": training}) == specs[3] == specs[4]
    assert len({spec.training.learning_rate for spec in specs}) == 1
    assert specs[0].training.learning_rate <= 1.0


def test_demo_deletes_no_folder_but_one_of_a_demo(tmp_path):
    precious = tmp_path / "metadata.sqlite"
    precious.write_text("runs")
    result = CliRunner().invoke(app, ["demo", "--workspace", str(tmp_path)])
    assert result.exit_code == 1
    assert "not left by a demo" in result.output
    assert precious.read_text() == "runs"
    assert os.listdir(tmp_path) == ["metadata.sqlite"]
