"""Whole runs through the command line.

A day pushed, a day blocked, a day of bad data that is taken away, a day pushed over the gap that
it leaves, a rollback, and that day again with another model. Then the day after the gap once more,
killed and run again: `make test` kills it in one component, `make kill-check` in all of them.
"""

import contextlib
import datetime
import gzip
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ml_metadata.proto.metadata_store_pb2 import Execution
from short_days import DIVERGING, write_spec

from pipeline import lineage
from pipeline.html_report.collect import collect
from pipeline.simulate import write_logs
from pipeline.workspace import Workspace

pytestmark = pytest.mark.slow

START = datetime.date(2026, 1, 1)
PUSHED, BLOCKED, BAD, NEXT = "2026-01-03", "2026-01-04", "2026-01-05", "2026-01-06"
ROLLBACK, AGAIN = "rollback", "again"
OTHER_MODEL = "model.tower=[6]"

COMPONENTS = (
    "Plan",
    "DailyExampleGen",
    "StatisticsGen",
    "ExampleValidator",
    "Transform",
    "Trainer",
    "ServingCheck",
    "Evaluator",
    "Pusher",
)
asked_for = pytest.mark.skipif("KILL_CHECK" not in os.environ, reason="make kill-check asks for it")
MOMENTS = [
    pytest.param(
        component,
        share,
        id=f"{component} {share:.0%}",
        marks=() if (component, share) == ("Trainer", 0.5) else asked_for,
    )
    for component in COMPONENTS
    for share in (0.0, 0.5)
] + [pytest.param("Pusher", None, id="after the push", marks=asked_for)]


def _command(python, *arguments):
    return [python, "-m", "pipeline.cli", *arguments]


def _steadyrank(python, *arguments):
    command = _command(python, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    return done.returncode, done.stdout + done.stderr


def _content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def days(tmp_path_factory, warm_python_path):
    """Runs the days; returns exit code and output of each, what was served, and its model's files.

    The first day's processes are those of a user; the others have the libraries imported.
    """
    root = tmp_path_factory.mktemp("days")
    logs, spec, workspace = root / "logs", root / "spec.yaml", root / "work"
    write_logs(str(logs), START, 6, 3000, seed=0)
    write_spec(spec)
    bad = logs / BAD
    shutil.rmtree(bad)
    bad.mkdir()
    with gzip.open(bad / "part-0.jsonl.gz", "wt") as file:
        file.write('{"event_id": "e1", "user_id": 7\n' * 50)
    where = ("--logs", str(logs), "--spec", str(spec), "--workspace", str(workspace))
    diverging = [argument for item in DIVERGING for argument in ("--set", item)]
    results, runs = {}, {}

    def run(day, *extra, python=warm_python_path, name=None):
        code, output = _steadyrank(python, "run", day, *where, *extra)
        store = lineage.open_store(Workspace(str(workspace)).metadata_path)
        runs[name or day] = lineage.latest_run(store, day)
        uri = runs[name or day].model_uri
        # Later runs may remove it: `retention`.
        model = {path.name for path in Path(uri).rglob("*")} if uri else set()
        results[name or day] = (code, output, _content(workspace / "serving"), model)

    run(PUSHED, python=sys.executable)
    run(BLOCKED, *diverging)
    run(BAD)
    shutil.rmtree(bad)
    shutil.copytree(workspace, root / "before_next", symlinks=True)
    run(NEXT)
    code, output = _steadyrank(sys.executable, "rollback", "1", "--workspace", str(workspace))
    results[ROLLBACK] = (code, output, _content(workspace / "serving"), set())
    run(NEXT, "--set", OTHER_MODEL, name=AGAIN)
    return results, runs, workspace, where


def test_good_day_is_pushed_as_version_1(days):
    results, _, workspace, _ = days
    code, output, served, _ = results[PUSHED]
    assert code == 0, output
    assert {path.parts[0] for path in served} == {"1", ".lock"}
    info = json.loads((workspace / "serving/1/assets.extra/version.json").read_text())
    assert info["run_date"] == PUSHED
    assert info["trained_through"] == "2026-01-02"


def test_diverged_day_is_blocked_and_the_served_version_is_untouched(days):
    results, runs, _, _ = days
    code, output, served, model = results[BLOCKED]
    assert code == 10, output
    assert served == results[PUSHED][2]
    run = runs[BLOCKED]
    assert run.outcome == "blocked"
    assert "training diverged: attempt 3" in run.reasons[0]
    assert "warm start from version 1" in run.start
    assert "NOT_EXPORTED" in model
    assert "saved_model.pb" not in model


def test_bad_data_stops_the_run_before_training_and_says_where(days):
    results, runs, _, _ = days
    code, output, served, _ = results[BAD]
    assert code == 11, output
    assert "part-0.jsonl.gz:1" in output
    assert served == results[PUSHED][2]
    run = runs[BAD]
    assert run.outcome == "failed"
    assert "Trainer" not in run.components
    assert "malformed" in run.reasons[0]


def _version(workspace, number):
    path = workspace / "serving" / str(number) / "assets.extra" / "version.json"
    return json.loads(path.read_text())


def test_day_after_a_gap_starts_from_version_1_is_compared_with_it_and_pushed_as_2(days):
    results, runs, workspace, _ = days
    code, output, served, _ = results[NEXT]
    assert code == 0, output
    assert {path.parts[0] for path in served} == {"1", "2", ".lock"}
    assert _of_version(served, "1") == _of_version(results[PUSHED][2], "1")
    run = runs[NEXT]
    assert run.outcome == "pushed"
    assert "warm start from version 1" in run.start
    # The score's figures are of its change.
    assert run.metrics["candidate"].keys() - run.metrics["baseline"].keys() == {"score"}
    assert f"DailyExampleGen: {BAD}: no events, a gap in the window" in run.notes
    assert _version(workspace, 2)["trained_through"] == BLOCKED


def test_rollback_serves_version_1_again_as_version_3(days):
    results, _, _, _ = days
    code, output, served, _ = results[ROLLBACK]
    assert code == 0, output
    assert output == "version 3 serves what version 1 did\n"
    old, new = (_of_version(served, version) for version in "13")
    assert old.keys() == new.keys()
    assert {name for name in old if old[name] != new[name]} <= {"assets.extra/version.json"}


def _of_version(served, version):
    return {
        "/".join(path.parts[1:]): content
        for path, content in served.items()
        if path.parts[0] == version
    }


def test_same_day_with_another_model_starts_cold_and_is_pushed_over_the_rollback(days):
    results, runs, workspace, _ = days
    code, output, _, _ = results[AGAIN]
    assert code == 0, output
    assert runs[AGAIN].outcome == "pushed"
    assert "cold start: the spec's features, tasks or model differ" in runs[AGAIN].start
    # The tasks are the same, so what is served is still what it has to be as good as.
    assert runs[AGAIN].metrics["baseline"]
    assert _version(workspace, 4)["run_date"] == NEXT


def test_days_are_encoded_once(days):
    _, _, workspace, _ = days
    # Events, and the same events with their history.
    stores = list((workspace / "day_store").iterdir())
    assert len(stores) == 2
    for store in stores:
        encoded = sorted(path.name for path in store.glob("2026-*"))
        assert encoded[:4] == ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]
        assert len(list((store / "2026-01-03").iterdir())) == 1


def test_backfill_leaves_out_days_with_a_verdict(days, warm_python_path):
    _, _, workspace, where = days
    before = len(list((workspace / "run_logs").iterdir()))
    code, _ = _steadyrank(warm_python_path, "backfill", PUSHED, BLOCKED, *where)
    assert code == 10
    assert len(list((workspace / "run_logs").iterdir())) == before


def test_status_shows_days_and_the_served_model(days):
    _, _, workspace, _ = days
    code, output = _steadyrank(sys.executable, "status", "--workspace", str(workspace))
    assert code == 0
    assert "BLOCKED" in output
    assert "serving version 4" in output
    assert f"from the run of {NEXT}" in output
    command = [sys.executable, "-m", "pipeline.cli", "status", "-w", str(workspace), "--json"]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    assert [run["outcome"] for run in json.loads(output)] == [
        "pushed",
        "blocked",
        "failed",
        "pushed",
        "pushed",
    ]


def test_report_shows_the_days_with_the_steps_of_their_trainings(days):
    _, _, workspace, _ = days
    found = collect(Workspace(str(workspace)))
    assert found.unread == ()
    assert [day.outcome for day in found.days] == ["pushed", "blocked", "failed", "pushed"]
    pushed, blocked, after = found.trainings
    assert [attempt.verdict for attempt in blocked.attempts] == ["diverged"] * 3
    for training in (pushed, blocked, after):
        assert all(attempt.statistics.step for attempt in training.attempts)
    assert {drift.field for drift in found.drift} >= {"device", "topic", "item_length"}
    page = (workspace / "report.html").read_text("utf-8")
    assert all(f'id="day-{day}"' in page for day in (PUSHED, BLOCKED, BAD, NEXT))


def test_run_says_where_it_is_and_names_its_tensorboard_runs_by_day(days):
    results, _, workspace, _ = days
    assert f"{PUSHED}: DailyExampleGen, " in results[PUSHED][1]
    assert f"{PUSHED}: Trainer, " in results[PUSHED][1]
    written = (workspace / "artifacts" / "Trainer" / "model_run").glob("*/*/*")
    assert sorted("/".join(path.parts[-2:]) for path in written) == [
        f"{PUSHED}/attempt_1",
        *(f"{BLOCKED}/attempt_{number}" for number in (1, 2, 3)),
        *[f"{NEXT}/attempt_1"] * 2,
    ]


def test_served_model_answers_json_clients(days):
    import tensorflow as tf

    _, _, workspace, _ = days
    model = tf.saved_model.load(str(workspace / "serving" / "1"))
    answer = model.signatures["raw_features"](
        user_id=tf.constant(["u1", ""]),
        item_id=tf.constant(["i1", "never seen"]),
        recent_items=tf.constant([["i2", "i3"], ["", ""]]),
        topic=tf.constant(["news", ""]),
        device=tf.constant(["ios", "ios"]),
        hour=tf.constant([21, -1], tf.int64),
        item_age_days=tf.constant([1.0, np.nan]),
        item_length=tf.constant([30.0, 1e9]),
        user_activity=tf.constant([3.0, 0.0]),
    )
    assert all(np.isfinite(values).all() for values in answer.values())
    assert ((answer["click"].numpy() > 0) & (answer["click"].numpy() < 1)).all()


@pytest.fixture
def before_next(days):
    """Has everything as it was before the day after the gap; afterwards, as it was at the end."""
    workspace = days[2]
    workspace.rename(workspace.with_name("end"))
    shutil.copytree(workspace.with_name("before_next"), workspace, symlinks=True)
    yield
    shutil.rmtree(workspace)
    workspace.with_name("end").rename(workspace)


def _weights_and_days(served):
    """Of each served version the days that it tells, and its weights."""
    versions = {path.parts[0] for path in served} - {".lock"}
    found = {}
    for version in versions:
        files = _of_version(served, version)
        told = json.loads(files["assets.extra/version.json"])
        weights = {name: content for name, content in files.items() if "variables/" in name}
        found[version] = (told["run_date"], told["trained_through"], weights)
    return found


def _newest_execution(workspace):
    """Number, component and state of the execution that began last."""
    path = Path(Workspace(str(workspace)).metadata_path).as_uri()
    with contextlib.closing(sqlite3.connect(f"{path}?mode=ro", 60, uri=True)) as database:
        ((number, name, state),) = database.execute(
            "SELECT Execution.id, Type.name, Execution.last_known_state FROM Execution"
            " JOIN Type ON Type.id = Execution.type_id ORDER BY Execution.id DESC LIMIT 1"
        )
    return number, name.rpartition(".")[2], state


def _run_and_kill(command, workspace, component, seconds):
    """Kills all of a day's processes so long into a component; after its end if that is None."""
    state = Execution.COMPLETE if seconds is None else Execution.RUNNING
    earlier, *_ = _newest_execution(workspace)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=os.setpgrp, text=True
    )
    while True:
        number, *now = _newest_execution(workspace)
        if number > earlier and now == [component, state]:
            break
        assert process.poll() is None, f"{component} was not seen: {process.stdout.read()}"
        time.sleep(0.002)
    time.sleep(seconds or 0.0)
    os.killpg(process.pid, signal.SIGKILL)
    # A warm Python is dead once it has closed the pipe, not when what stands for it here is.
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("before_next")
@pytest.mark.parametrize(("component", "share"), MOMENTS)
def test_a_killed_day_run_again_ends_as_an_unharmed_one(days, warm_python_path, component, share):
    results, runs, workspace, where = days
    before, unharmed = (_weights_and_days(results[name][2]) for name in (BAD, NEXT))
    seconds = None if share is None else share * runs[NEXT].component_seconds[component]
    command = _command(warm_python_path, "run", NEXT, *where)
    _run_and_kill(command, workspace, component, seconds)
    after = _weights_and_days(_content(workspace / "serving"))
    # The served version is whole: the old one, or the new one where it was pushed already.
    assert after in (before, unharmed)
    if component != "Pusher":
        assert after == before

    code, output = _steadyrank(warm_python_path, "run", NEXT, *where)
    assert code == 0, output
    assert _weights_and_days(_content(workspace / "serving")) == unharmed
    run = lineage.latest_run(lineage.open_store(Workspace(str(workspace)).metadata_path), NEXT)
    assert run.outcome == "pushed"
