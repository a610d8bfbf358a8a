import datetime

import pytest
from planted_runs import COMPONENTS, STATE, Store

from components.serving_store import ModelInfo, ServedVersion
from pipeline import lineage, report

DAY = datetime.date(2026, 1, 3)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "metadata.sqlite"))


def served(version, model_uri):
    return ServedVersion(
        version,
        f"serving/{version}",
        ModelInfo(DAY, DAY, "model", "tasks", model_uri),
    )


def runs_of(store):
    return lineage.list_runs(lineage.open_store(store.path))


def test_before_the_first_run_there_is_no_store(tmp_path):
    assert lineage.open_store(str(tmp_path / "metadata.sqlite")) is None
    assert not list(tmp_path.iterdir())


def test_pushed_run_is_known_by_all_that_it_did(store):
    before = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=1)
    store.run("r1", "2026-01-03", version=4, base="r0", auc=0.625)
    (run,) = runs_of(store)
    assert (run.run_id, run.run_date, run.outcome, run.version) == ("r1", "2026-01-03", "pushed", 4)
    assert run.reasons == ()
    assert run.start == "warm start from r0"
    assert run.baseline == "absolute bounds only"
    assert run.model_uri == "model/r1"
    assert run.base_model_uri == "model/r0"
    assert run.components == {name.rpartition(".")[2]: "COMPLETE" for name in COMPONENTS}
    assert run.task_metric("click") == 0.625
    assert run.task_metric("unknown") is None
    assert before <= run.started <= datetime.datetime.now(datetime.timezone.utc)
    assert 0.0 <= run.seconds < 60.0


def test_blocked_run_has_the_reasons_of_the_gate(store):
    store.run("r1", "2026-01-03", end="blocked", reasons="first\nsecond")
    (run,) = runs_of(store)
    assert (run.outcome, run.version, run.reasons) == ("blocked", None, ("first", "second"))


def test_failed_run_names_what_failed_until_the_error_is_noted(store):
    store.run("r1", "2026-01-03", end="failed Trainer")
    (run,) = runs_of(store)
    assert (run.outcome, run.reasons) == ("failed", ("Trainer failed",))
    assert run.components["Trainer"] == "FAILED"
    assert "Evaluator" not in run.components
    lineage.set_error(lineage.open_store(store.path), "no memory\nleft")
    (run,) = runs_of(store)
    assert (run.outcome, run.reasons) == ("failed", ("no memory\nleft",))


def test_error_is_noted_on_the_newest_failed_run_only(store):
    for run_id, date, error in (("r1", "2026-01-03", "old"), ("r2", "2026-01-04", "new")):
        store.run(run_id, date, end="failed Trainer")
        lineage.set_error(lineage.open_store(store.path), error)
    assert [run.reasons for run in runs_of(store)] == [("old",), ("new",)]


def test_error_before_the_first_component_replaces_no_older_one(store):
    store.run("r1", "2026-01-03", end="failed Trainer")
    lineage.set_error(lineage.open_store(store.path), "old")
    lineage.set_error(lineage.open_store(store.path), "new")
    assert [run.reasons for run in runs_of(store)] == [("old",)]


def test_run_that_failed_in_its_plan_still_has_its_date(store):
    store.run("r1", "2026-01-03", end="failed Plan")
    (run,) = runs_of(store)
    assert (run.run_date, run.outcome, run.metrics) == ("2026-01-03", "failed", {})


def test_killed_run_is_running_until_it_is_abandoned(store):
    store.run("r1", "2026-01-03", end="running Evaluator")
    assert runs_of(store)[0].outcome == "running"
    lineage.abandon_running(lineage.open_store(store.path))
    (run,) = runs_of(store)
    assert (run.outcome, run.reasons) == ("failed", ("killed while running",))
    assert run.components["Evaluator"] == "FAILED"


def test_run_killed_between_two_components_is_abandoned_too(store):
    context = store.context("r1")
    store.execution(context, COMPONENTS[0], STATE.COMPLETE, run_date="2026-01-03")
    assert runs_of(store)[0].outcome == "running"
    lineage.abandon_running(lineage.open_store(store.path))
    (run,) = runs_of(store)
    assert (run.outcome, run.components) == ("failed", {"Plan": "COMPLETE"})


def test_copies_of_the_served_model_are_not_the_runs_model(store):
    store.run("r1", "2026-01-03", end="failed StatisticsGen")
    assert runs_of(store)[0].model_uri == ""


def test_abandoning_leaves_ended_runs_alone(store):
    store.run("r1", "2026-01-03", version=1)
    store.run("r2", "2026-01-04", end="failed Trainer")
    before = runs_of(store)
    lineage.abandon_running(lineage.open_store(store.path))
    assert runs_of(store) == before


def test_run_without_any_execution_is_left_out(store):
    store.context("r1")
    assert runs_of(store) == []


def test_newest_run_of_a_day_counts(store):
    store.run("r1", "2026-01-03", end="blocked", reasons="bad")
    store.run("r2", "2026-01-03", version=1)
    store.run("r3", "2026-01-04", end="failed Trainer")
    opened = lineage.open_store(store.path)
    assert lineage.latest_run(opened, "2026-01-03").run_id == "r2"
    assert lineage.latest_run(opened, "2026-01-05") is None
    assert [run.run_id for run in lineage.list_runs(opened)] == ["r1", "r2", "r3"]


def test_served_model_is_traced_back_through_rollbacks_to_its_cold_start(store):
    store.run("r1", "2026-01-03", version=1)
    store.run("r2", "2026-01-04", version=2, base="r1")
    store.run("r3", "2026-01-05", end="blocked", reasons="bad", base="r2")
    # Version 3 is a rollback to version 1: no run pushed it, its model is that of r1.
    store.run("r4", "2026-01-06", version=4, base="r1")
    lines = report.served_lineage(served(4, "model/r4"), runs_of(store))
    assert lines == [
        "serving version 4 (serving/4)",
        "  from the run of 2026-01-06 (r4): warm start from r1",
        "  from the run of 2026-01-03 (r1): cold start: first",
    ]


def test_model_of_an_unknown_run_is_served_without_a_trace(store):
    store.run("r1", "2026-01-03", version=1)
    lines = report.served_lineage(served(7, "elsewhere"), runs_of(store))
    assert lines == ["serving version 7 (serving/7)"]
    assert report.served_lineage(None, []) == ["nothing is being served yet"]
