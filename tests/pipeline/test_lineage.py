import datetime
import sqlite3
import threading
import time

import pytest
from planted_runs import COMPONENTS, STATE, Store

from components.serving_store import ModelInfo, ServedVersion
from pipeline import lineage
from pipeline.cli import tables
from schemas.errors import RankerError

DAY = datetime.date(2026, 1, 3)
UNKNOWN = "  pushed before files had digests: whether they are whole is not known"


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
    assert run.task_lift("click") is None
    assert before <= run.started <= datetime.datetime.now(datetime.timezone.utc)
    assert 0.0 <= run.seconds < 60.0


def test_every_event_that_was_read_is_accounted_for(store):
    store.run("r1", "2026-01-03", version=1)
    (run,) = runs_of(store)
    counts = dict(run.events)
    assert counts.pop("read") == sum(counts.values()) == 2008
    assert counts["unused"] == 100
    text = "\n".join(tables.run_facts(run))
    assert "2,008 events = 1,200 trained + 700 evaluated + 3 quarantined + 5 duplicates" in text


def test_remarks_of_the_components_are_told_with_who_made_them(store):
    store.run("r1", "2026-01-03", version=1)
    (run,) = runs_of(store)
    assert run.notes == (
        "DailyExampleGen: 2026-01-01: no events",
        "DailyExampleGen: part-1: empty",
        "Evaluator: not gated: a slice",
    )
    assert {f"  {note}" for note in run.notes} <= set(tables.run_facts(run))


def test_run_that_failed_before_its_events_were_counted_accounts_for_none(store):
    store.run("r1", "2026-01-03", end="failed Plan")
    (run,) = runs_of(store)
    assert (run.events, run.notes) == ({}, ())


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
    lines = tables.served_lineage(served(4, "model/r4"), runs_of(store))
    assert lines == [
        "serving version 4 (serving/4)",
        UNKNOWN,
        "  from the run of 2026-01-06 (r4): warm start from r1",
        "  from the run of 2026-01-03 (r1): cold start: first",
    ]


def test_model_of_an_unknown_run_is_served_without_a_trace(store):
    store.run("r1", "2026-01-03", version=1)
    lines = tables.served_lineage(served(7, "elsewhere"), runs_of(store))
    assert lines == ["serving version 7 (serving/7)", UNKNOWN]
    assert tables.served_lineage(None, []) == ["nothing is being served yet"]


class Counting:
    """A store that counts what it is asked for."""

    def __init__(self, store):
        self.store, self.calls, self.nodes = store, 0, 0

    def __getattr__(self, name):
        def call(*args, **kwargs):
            result = getattr(self.store, name)(*args, **kwargs)
            self.calls += 1
            self.nodes += len(result) if isinstance(result, list) else 1
            return result

        return call


def test_polling_costs_the_same_however_many_runs_there_were(store):
    costs = []
    for number in range(4):
        store.run(f"r{number}", f"2026-01-0{number + 1}", version=number + 1)
        counting = Counting(lineage.open_store(store.path))
        assert lineage.newest_run(counting).run_id == f"r{number}"
        costs.append((counting.calls, counting.nodes))
    assert len(set(costs)) == 1


def test_newest_run_is_that_of_a_run_and_not_of_another_context(store):
    store.run("r1", "2026-01-03", version=1)
    opened = lineage.open_store(store.path)
    store.other_context("node", "test.Trainer")
    assert lineage.newest_run(opened) == lineage.list_runs(opened)[-1]


def test_before_the_first_run_there_is_no_newest(store):
    assert lineage.newest_run(lineage.open_store(store.path)) is None


@pytest.fixture
def locked(store):
    """A store that another process writes to; `release` ends that."""
    store.run("r1", "2026-01-03", version=1)
    other = sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    yield other
    other.close()


def test_store_that_is_locked_for_a_while_is_waited_for(store, locked):
    timer = threading.Timer(1.0, locked.execute, ["ROLLBACK"])
    began = time.monotonic()
    timer.start()
    assert [run.run_id for run in runs_of(store)] == ["r1"]
    assert time.monotonic() - began > 0.9
    timer.join()


def test_store_that_stays_locked_is_said_to_be_so_and_nothing_is_to_be_removed(store, locked):
    with pytest.raises(RankerError, match="locked by another process for more than 0 s") as error:
        lineage.open_store(store.path, wait=0.1)
    assert "try again" in str(error.value)


def test_file_without_tables_is_no_store_yet(tmp_path):
    for content in (b"", None):
        path = tmp_path / f"{content}.sqlite"
        sqlite3.connect(path).close() if content is None else path.write_bytes(content)
        assert lineage.open_store(str(path)) is None


@pytest.mark.parametrize("table", ["Execution", "Type", "MLMDEnv"])
def test_store_that_lost_a_table_is_not_read_and_not_thrown_away(store, table):
    store.run("r1", "2026-01-03", version=1)
    with sqlite3.connect(store.path) as database:
        database.execute(f"DROP TABLE {table}")
    with pytest.raises(RankerError, match="restore it from a backup"):
        runs_of(store)
