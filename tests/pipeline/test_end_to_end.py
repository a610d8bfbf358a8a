"""Whole runs through the command line: a day pushed, a day blocked, a day of bad data."""

import datetime
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import cli, lineage
from pipeline.html_report.collect import collect
from pipeline.simulate import write_logs
from pipeline.workspace import Workspace

pytestmark = pytest.mark.slow

START = datetime.date(2026, 1, 1)
DIVERGING = (
    "training.optimizer.name=adagrad",
    "training.learning_rate=1000",
    "training.warmup_steps=0",
)
"""Far beyond any stable rate, so that a tiny model diverges for sure."""
PUSHED, BLOCKED, BAD = "2026-01-03", "2026-01-04", "2026-01-05"


def _steadyrank(*arguments):
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    return done.returncode, done.stdout + done.stderr


def _write_spec(path):
    spec = yaml.safe_load(Path(cli.DEMO_SPEC).read_text("utf-8"))
    spec["model"] = {"preset": "tiny"}
    spec["validation"]["max_eval_events"] = 1500
    # Three thousand events a day teach little; what is gated is that anything was learned.
    for task in spec["tasks"].values():
        regression = {"max_rmse": 1.5, "min_r2": None}
        bounds = {"min_auc": 0.52} if task["kind"] == "binary" else regression
        task["gate"] = bounds
    path.write_text(yaml.safe_dump(spec))


def _content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Runs three days; returns exit code and output of each, and what was served after it."""
    root = tmp_path_factory.mktemp("days")
    logs, spec, workspace = root / "logs", root / "spec.yaml", root / "work"
    write_logs(str(logs), START, 4, 3000, seed=0)
    _write_spec(spec)
    bad = logs / BAD
    bad.mkdir()
    with gzip.open(bad / "part-0.jsonl.gz", "wt") as file:
        file.write('{"event_id": "e1", "user_id": 7\n' * 50)
    where = ("--logs", str(logs), "--spec", str(spec), "--workspace", str(workspace))
    diverging = [argument for item in DIVERGING for argument in ("--set", item)]
    results = {}
    for day, extra in ((PUSHED, []), (BLOCKED, diverging), (BAD, [])):
        code, output = _steadyrank("run", day, *where, *extra)
        results[day] = (code, output, _content(workspace / "serving"))
    return results, workspace, where


def test_good_day_is_pushed_as_version_1(days):
    results, workspace, _ = days
    code, output, served = results[PUSHED]
    assert code == 0, output
    assert {path.parts[0] for path in served} == {"1", ".lock"}
    info = json.loads((workspace / "serving/1/assets.extra/version.json").read_text())
    assert info["run_date"] == PUSHED
    assert info["trained_through"] == "2026-01-02"


def test_diverged_day_is_blocked_and_the_served_version_is_untouched(days):
    results, workspace, _ = days
    code, output, served = results[BLOCKED]
    assert code == 10, output
    assert served == results[PUSHED][2]
    run = lineage.latest_run(lineage.open_store(Workspace(str(workspace)).metadata_path), BLOCKED)
    assert run.outcome == "blocked"
    assert "training diverged: attempt 3" in run.reasons[0]
    assert "warm start from version 1" in run.start
    assert "NOT_EXPORTED" in {path.name for path in Path(run.model_uri).rglob("*")}
    assert not list(Path(run.model_uri).rglob("saved_model.pb"))


def test_bad_data_stops_the_run_before_training_and_says_where(days):
    results, workspace, _ = days
    code, output, served = results[BAD]
    assert code == 11, output
    assert "part-0.jsonl.gz:1" in output
    assert served == results[PUSHED][2]
    run = lineage.latest_run(lineage.open_store(Workspace(str(workspace)).metadata_path), BAD)
    assert run.outcome == "failed"
    assert "Trainer" not in run.components
    assert "malformed" in run.reasons[0]


def test_days_are_encoded_once(days):
    _, workspace, _ = days
    # Events, and the same events with their history.
    stores = list((workspace / "day_store").iterdir())
    assert len(stores) == 2
    for store in stores:
        encoded = sorted(path.name for path in store.glob("2026-*"))
        assert encoded[:4] == ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]
        assert len(list((store / "2026-01-03").iterdir())) == 1


def test_backfill_leaves_out_days_with_a_verdict(days):
    _, workspace, where = days
    before = len(list((workspace / "run_logs").iterdir()))
    code, _ = _steadyrank("backfill", PUSHED, BLOCKED, *where)
    assert code == 10
    assert len(list((workspace / "run_logs").iterdir())) == before


def test_status_shows_days_and_the_served_model(days):
    _, workspace, _ = days
    code, output = _steadyrank("status", "--workspace", str(workspace))
    assert code == 0
    assert "BLOCKED" in output
    assert "serving version 1" in output
    assert f"from the run of {PUSHED}" in output
    command = [sys.executable, "-m", "pipeline.cli", "status", "-w", str(workspace), "--json"]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    assert [run["outcome"] for run in json.loads(output)] == ["pushed", "blocked", "failed"]


def test_report_shows_the_days_with_the_steps_of_their_trainings(days):
    _, workspace, _ = days
    found = collect(Workspace(str(workspace)))
    assert found.unread == ()
    assert [day.outcome for day in found.days] == ["pushed", "blocked", "failed"]
    pushed, blocked = found.trainings
    assert [attempt.verdict for attempt in blocked.attempts] == ["diverged"] * 3
    for training in (pushed, blocked):
        assert all(attempt.statistics.step for attempt in training.attempts)
    assert {drift.field for drift in found.drift} >= {"device", "topic", "item_length"}
    page = (workspace / "report.html").read_text("utf-8")
    assert all(f'id="day-{day}"' in page for day in (PUSHED, BLOCKED, BAD))


def test_run_says_where_it_is_and_names_its_tensorboard_runs_by_day(days):
    results, workspace, _ = days
    assert f"{PUSHED}: DailyExampleGen, " in results[PUSHED][1]
    assert f"{PUSHED}: Trainer, " in results[PUSHED][1]
    written = (workspace / "artifacts" / "Trainer" / "model_run").glob("*/*/*")
    assert sorted("/".join(path.parts[-2:]) for path in written) == [
        f"{PUSHED}/attempt_1",
        *(f"{BLOCKED}/attempt_{number}" for number in (1, 2, 3)),
    ]


def test_served_model_answers_json_clients(days):
    import tensorflow as tf

    _, workspace, _ = days
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
