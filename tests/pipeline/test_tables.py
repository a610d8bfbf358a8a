import datetime
import hashlib
import io
import json

import pytest
from rich.console import Console

from components import serving_store
from pipeline.cli import tables
from pipeline.lineage import Run


def run(
    date="2026-01-03", outcome="pushed", *, version=None, before=None, reasons=(), metrics=None
):
    return Run(
        run_id=f"run of {date}",
        run_date=date,
        started=datetime.datetime(2026, 1, 3, 12, tzinfo=datetime.timezone.utc),
        seconds=12.5,
        components={"Plan": "COMPLETE"},
        outcome=outcome,
        reasons=tuple(reasons),
        start="cold start: first",
        baseline="",
        stability="healthy after 9 steps",
        training="9 steps of 64 events",
        metrics={"candidate": metrics or {}},
        version=version,
        served_before=before,
        model_uri="",
        base_model_uri="",
    )


def printed(runs, tasks=("click", "rate")):
    text = io.StringIO()
    table = tables.day_table(runs, tasks)
    Console(file=text, width=160, color_system=None).print(table)
    return text.getvalue()


def row(text, start):
    (line,) = [line for line in text.splitlines() if line.strip("│┃ ").startswith(start)]
    return [cell.strip() for cell in line.strip("│").split("│")]


@pytest.mark.parametrize(
    ("outcome", "version", "reasons", "verdict", "serves", "why"),
    [
        ("pushed", 3, [], "pushed", "v3", "cold start: first; 9 steps of 64 events"),
        ("blocked", None, ["a", "b", "c"], "BLOCKED", "-", "a (and 2 more)"),
        ("failed", None, ["one\ntwo"], "FAILED", "-", "one"),
        ("running", None, [], "running", "-", "cold start: first; 9 steps of 64 events"),
    ],
)
def test_row_tells_metrics_verdict_version_and_reason(
    outcome, version, reasons, verdict, serves, why
):
    metrics = {"click": {"auc": 0.70049}, "rate": {"rmse": 1.25}}
    text = printed([run(outcome=outcome, version=version, reasons=reasons, metrics=metrics)])
    assert row(text, "2026-01-03") == ["2026-01-03", "0.700", "1.250", verdict, serves, why]


def test_lift_stands_below_the_auc_and_is_explained():
    metrics = {"click": {"auc": 0.7, "auc_lift": 0.0213}, "rate": {"rmse": 1.0}}
    other = run("2026-01-04", metrics={"click": {"auc": 0.6, "auc_lift": -0.004}})
    text = printed([run(metrics=metrics), other])
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines()]
    below = [line[1:3] for line in cells if line[0] == "" and len(line) > 2]
    assert below == [["+0.021", ""], ["-0.004", ""]]
    assert "lift over smoothed rates" in text
    assert "lift" not in printed([run(metrics={"click": {"auc": 0.7}})])


def test_metric_that_was_not_measured_is_a_dash():
    text = printed([run(metrics={"click": {"calibration": 1.0}})])
    assert row(text, "2026-01-03")[1:3] == ["-", "-"]


def test_run_that_died_before_its_date_was_known_has_a_row():
    assert row(printed([run(date="", outcome="failed")]), "?")[3] == "FAILED"


def test_reason_with_brackets_is_printed_as_it_is():
    reason = "spec.yaml: tasks.click: got [red], [/] and [0.1, 0.2]"
    assert reason in printed([run(outcome="failed", reasons=[reason])])


def test_blocked_and_failed_days_keep_the_version_of_before():
    assert run(outcome="failed").served_after is None
    assert run(version=1).served_after == 1
    assert run(outcome="blocked", before=1).served_after == 1
    assert run(version=3, before=2).served_after == 3


def test_runs_as_json_hold_all_that_is_known():
    metrics = {"click": {"auc": 0.7}}
    (content,) = json.loads(json.dumps(tables.as_json([run(version=1, metrics=metrics)])))
    assert content["run_date"] == "2026-01-03"
    assert content["started"] == "2026-01-03T12:00:00+00:00"
    assert content["metrics"]["candidate"] == metrics
    assert content["version"] == 1


def test_served_files_are_held_to_what_was_evaluated(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_text("weights")
    files = {"saved_model.pb": hashlib.sha256(b"weights").hexdigest()}
    day = datetime.date(2026, 1, 3)
    info = serving_store.ModelInfo(day, day, "m", "t", "model/r1", files=files)
    model, serving = str(tmp_path / "model"), str(tmp_path / "serving")
    served = serving_store.push(model, serving, info, 5, served_before=None)
    where = f"serving version 1 ({served.path})"
    assert tables.served_lineage(served, []) == [
        where,
        f"  as it was evaluated: SHA-256 {info.digest}",
    ]
    (tmp_path / "serving" / "1" / "saved_model.pb").write_text("Weights")
    assert tables.served_lineage(served, []) == [
        where,
        f"  DAMAGED: {served.path}/saved_model.pb: has other content than when it was written",
    ]


def test_tasks_are_shown_in_the_order_of_the_newest_spec_and_outputs_without_a_figure_are_not():
    old = run(metrics={"": {"example_count": 5.0}, "click": {"auc": 0.7}, "old": {"auc": 0.6}})
    new = run(metrics={"rate": {"rmse": 1.0}, "click": {"auc": 0.7}, "score": {"ndcg": 0.8}})
    assert tables.shown_tasks([old, new]) == ["rate", "click", "old"]
