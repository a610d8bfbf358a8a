"""Retention on planted workspaces: folders as TFX makes them, rows as TFX writes them."""

import datetime
import os
import shutil
from pathlib import Path

import pytest
import yaml
from planted_runs import STATE, Store
from typer.testing import CliRunner

from components import serving_store
from components.plan.planning import make_plan
from pipeline import lineage, retention
from pipeline.cli import app
from pipeline.workspace import Workspace
from schemas.errors import RankerError
from schemas.loading import load_spec

DEMO = str(Path(__file__).parents[2] / "schemas" / "demo.yaml")
FIRST = datetime.date(2026, 1, 1)
HISTORIES = ("user_history", "item_history", "user_topic_history")
KEEP = [
    *("retention.runs=2", "retention.reports=4", "retention.days=1", "training.window_days=3"),
    *(f"features.{name}.days=1" for name in HISTORIES),
]
OUTPUTS = {
    "Plan": {"plan": "RunPlan", "base_model": "Model"},
    "DailyExampleGen": {"examples": "Examples", "quarantine": "QuarantinedEvents"},
    "Trainer": {"model": "Model", "stability": "TrainingStability", "model_run": "ModelRun"},
    "Evaluator": {"evaluation": "ModelEvaluation", "page": "system.HTML"},
}


class Planted:
    """A workspace with runs and the files that they left."""

    def __init__(self, root):
        self.space = Workspace(str(root))
        os.makedirs(root, exist_ok=True)
        self.store = Store(self.space.metadata_path)
        self.executions = 0

    def day(self, number, *, version=None, killed=False):
        """Plants a run, its artifacts, log, encoded day and checkpoints."""
        date = FIRST + datetime.timedelta(number)
        context = self.store.context(f"run {number}")
        for component, outputs in OUTPUTS.items():
            self.executions += 1
            last = component == "Trainer" and killed
            state = STATE.FAILED if last else STATE.COMPLETE
            asked = {"run_date": str(date)} if component == "Plan" else {}
            self.store.execution(context, f"x.{component}", state, **asked)
            for key, kind in outputs.items():
                path = self.artifact(component, key, self.executions)
                if not last:
                    copied = {"copy_of": "x"} if key == "base_model" else {}
                    self.store.artifact(context, kind, path, **copied)
            self.touch(
                self.space.artifacts, component, ".system", "executor_execution", self.executions
            )
            if last:
                self.executions += 1
                break
        else:
            pushed = {"pushed": 1, "pushed_version": str(version)} if version else {"pushed": 0}
            self.store.artifact(context, "PushedModel", "p", **pushed)
        if version:
            model = self.artifact("Trainer", "model", self.executions - 1)
            Path(model, "saved_model.pb").touch()
            info = serving_store.ModelInfo(date, date, "m", "t", model)
            served = serving_store.served_version(self.space.serving)
            before = served.version if served else None
            serving_store.push(model, self.space.serving, info, 10, served_before=before)
        self.touch(self.space.day_store, "events", date, "content")
        self.touch(self.space.checkpoints, f"{date}-0123")
        os.makedirs(self.space.run_logs, exist_ok=True)
        log = Path(self.space.run_logs, f"{date}-1.log")
        log.touch()
        os.utime(log, (number, number))

    def artifact(self, component, key, execution):
        return self.touch(self.space.artifacts, component, key, execution)

    def touch(self, *parts):
        path = os.path.join(*map(str, parts))
        os.makedirs(path, exist_ok=True)
        Path(path, "content").write_bytes(b"x" * 5000)
        return path

    def clean(self, *overrides):
        spec = load_spec(DEMO, [*KEEP, *overrides])
        store = lineage.open_store(self.space.metadata_path)
        surplus = retention.find_surplus(self.space, store, spec)
        retention.remove(surplus, store)
        return surplus

    def files(self):
        root = Path(self.space.root)
        return {str(p.relative_to(root)) for p in root.rglob("content")}

    def runs_with(self, component, key):
        """Numbers of the runs, from 0, whose output is still there."""
        place = list(OUTPUTS).index(component)
        folder = Path(self.space.artifacts, component, key)
        return [
            (int(name) - 1 - place) // len(OUTPUTS) for name in sorted(os.listdir(folder), key=int)
        ]

    def days_in(self, folder):
        return sorted(
            (datetime.date.fromisoformat(p[:10]) - FIRST).days for p in os.listdir(folder)
        )


@pytest.fixture
def planted(tmp_path):
    return Planted(tmp_path / "work")


def test_newest_runs_stay_whole_older_ones_as_reports_and_the_oldest_not(planted):
    for number in range(8):
        planted.day(number, version=number + 1)
    planted.clean()
    assert planted.runs_with("Trainer", "model") == [6, 7]
    assert planted.runs_with("Plan", "base_model") == [6, 7]
    assert planted.runs_with("DailyExampleGen", "examples") == [6, 7]
    for component, key in (("Plan", "plan"), ("Trainer", "stability"), ("Trainer", "model_run")):
        assert planted.runs_with(component, key) == [4, 5, 6, 7]
    assert planted.days_in(planted.space.run_logs) == [4, 5, 6, 7]
    # Run 6 may train on days 3, 4 and 5, whose history looks back on day 2; one more stays.
    assert planted.days_in(os.path.join(planted.space.day_store, "events")) == [1, 2, 3, 4, 5, 6, 7]


def test_what_is_served_and_every_version_of_a_rollback_stay_as_they_are(planted):
    for number in range(8):
        planted.day(number, version=number + 1)
    before = {p: p.read_bytes() for p in Path(planted.space.serving).rglob("*") if p.is_file()}
    planted.clean()
    after = {p: p.read_bytes() for p in Path(planted.space.serving).rglob("*") if p.is_file()}
    assert after == before
    assert serving_store.rollback(planted.space.serving, 1).version == 9


def test_run_of_the_served_model_stays_whole_however_old_it_is(planted):
    planted.day(0, version=1)
    planted.day(1, version=2)
    for number in range(2, 9):
        planted.day(number)
    serving_store.rollback(planted.space.serving, 1)
    planted.clean()
    assert planted.runs_with("Trainer", "model") == [0, 7, 8]
    assert planted.runs_with("Plan", "plan") == [0, 5, 6, 7, 8]


def test_lineage_of_all_runs_stays_in_ml_metadata_with_what_is_gone_marked(planted):
    for number in range(8):
        planted.day(number, version=number + 1)
    opened = lineage.open_store(planted.space.metadata_path)
    before = lineage.list_runs(opened)
    planted.clean()
    assert lineage.list_runs(opened) == before
    for artifact in opened.get_artifacts():
        gone = artifact.uri.startswith(planted.space.artifacts) and not os.path.exists(artifact.uri)
        assert (artifact.state == artifact.DELETED) == gone


def test_checkpoints_of_a_killed_day_stay_until_a_later_day_is_served(planted):
    planted.day(0, version=1)
    planted.day(1, killed=True)
    planted.clean()
    assert planted.days_in(planted.space.checkpoints) == [0, 1]
    planted.day(2)
    planted.clean()
    assert planted.days_in(planted.space.checkpoints) == [0, 1, 2]
    planted.day(3, version=2)
    planted.clean()
    assert planted.days_in(planted.space.checkpoints) == [3]


def test_rest_of_a_killed_step_goes_as_data_does(planted):
    planted.day(0, killed=True)
    for number in range(1, 3):
        planted.day(number, version=number)
    planted.clean()
    assert planted.runs_with("Trainer", "stability") == [1, 2]
    assert planted.runs_with("Plan", "plan") == [0, 1, 2]


@pytest.mark.parametrize("moved", [False, True])
def test_reports_stay_where_the_workspace_is_named_otherwise(planted, monkeypatch, moved):
    for number in range(8):
        planted.day(number, version=number + 1)
    root = Path(planted.space.root)
    if moved:
        root = root.rename(root.with_name("moved"))
        planted.space = Workspace(str(root))
    monkeypatch.chdir(root.parent)
    absolute, planted.space = planted.space, Workspace(root.name)
    planted.clean()
    planted.space = absolute
    assert planted.runs_with("Trainer", "model") == [6, 7]
    assert planted.runs_with("Trainer", "stability") == [4, 5, 6, 7]


def test_cleaning_twice_removes_nothing_more(planted):
    for number in range(8):
        planted.day(number, version=number + 1)
    assert planted.clean()
    left = planted.files()
    assert planted.clean() == []
    assert planted.files() == left


def test_days_of_an_earlier_backfill_keep_what_they_train_on(planted):
    for number in (20, 21, 3, 4):
        planted.day(number)
    planted.clean()
    assert planted.days_in(os.path.join(planted.space.day_store, "events")) == [3, 4, 20, 21]


@pytest.fixture
def foreign(planted):
    """What no run left: other people's files, odd names, links that lead away or nowhere."""
    outside = Path(planted.space.root).parent / "outside"
    planted.touch(outside, "1")
    root = Path(planted.space.artifacts)
    for name in ("notes.txt", "Trainer/readme"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    planted.touch(root, "Trainer", "model", "999")
    planted.touch(root, "Trainer", "model", "mine")
    planted.touch(planted.space.day_store, "events", "holidays")
    planted.touch(planted.space.checkpoints, "mine")
    for folder in (root, root / "Trainer" / "model", Path(planted.space.day_store, "events")):
        for name, target in (("away", outside), ("nowhere", "gone"), ("loop", ".")):
            (folder / name).symlink_to(target)
    (root / "Trainer" / "model" / "2").symlink_to(outside / "1")
    os.mkfifo(root / "Trainer" / "pipe")
    return set(Path(planted.space.root).rglob("*")) | {outside / "1" / "content"}


def test_what_no_run_left_is_not_touched(foreign, planted):
    for number in range(8):
        # Number 2 of the Trainer's executions would be a link; they begin at 3.
        planted.day(number, version=number + 1)
    assert planted.clean()
    assert all(os.path.lexists(path) for path in foreign)


def test_links_to_what_is_served_are_removed_and_not_followed(planted):
    for number in range(8):
        planted.day(number, version=number + 1)
    link = Path(planted.artifact("Plan", "base_model", 1), "served")
    link.symlink_to(Path(planted.space.serving, "8"))
    planted.clean()
    assert not os.path.lexists(link)
    assert Path(planted.space.serving, "8", "saved_model.pb").exists()


def test_shards_that_are_linked_from_the_day_store_free_nothing(planted):
    for number in range(4):
        planted.day(number)
    source = Path(planted.space.day_store, "events", str(FIRST + datetime.timedelta(3)), "content")
    shard = Path(planted.artifact("DailyExampleGen", "examples", 2), "shard")
    os.link(source / "content", shard)
    surplus = {item.path: item.size for item in planted.clean()}
    assert surplus[str(shard.parent)] == 8192
    assert (source / "content").exists()


def test_folder_that_cannot_be_removed_is_left_for_the_next_time(planted, monkeypatch):
    for number in range(8):
        planted.day(number, version=number + 1)
    rmtree = shutil.rmtree

    def refuse(path):
        if "model" in str(path):
            raise OSError(16, "Device or resource busy", path)
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    planted.clean()
    monkeypatch.undo()
    assert len(planted.runs_with("Trainer", "model")) == 8
    planted.clean()
    assert planted.runs_with("Trainer", "model") == [6, 7]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_dry_run_names_all_that_would_be_removed_and_removes_nothing(planted, tmp_path):
    for number in range(8):
        planted.day(number, version=number + 1)
    spec = tmp_path / "spec.yaml"
    content = yaml.safe_load(Path(DEMO).read_text("utf-8"))
    content["retention"] = {"runs": 2, "reports": 4, "days": 1}
    spec.write_text(yaml.safe_dump(content))
    before = planted.files()
    told = invoke("clean", "--dry-run", "-s", spec, "-w", planted.space.root)
    assert planted.files() == before
    done = invoke("clean", "-s", spec, "-w", planted.space.root)
    assert (told.exit_code, done.exit_code) == (0, 0)
    named = {line.partition(": ")[0] for line in told.output.splitlines()[:-1]}
    gone = [Path(planted.space.root, path) for path in before - planted.files()]
    assert gone
    assert all(any(path.is_relative_to(name) for name in named) for path in gone)
    assert not [name for name in named if os.path.lexists(name)]
    assert f"{len(named)} would be removed" in told.output
    assert f"{len(named)} removed" in done.output


def test_spec_is_that_of_the_newest_run_with_a_plan_also_in_a_workspace_that_was_moved(planted):
    for number in range(2):
        planted.day(number)
    # The newest run's plan is broken; the one before holds a spec.
    plan = make_plan(load_spec(DEMO, ["name=mine"]), FIRST, ())
    plan.save(planted.artifact("Plan", "plan", 1))
    root = Path(planted.space.root)
    moved = Workspace(str(root.rename(root.with_name("moved"))))
    store = lineage.open_store(moved.metadata_path)
    assert retention.spec_of_newest_run(moved, store).name == "mine"
    shutil.rmtree(moved.artifacts)
    with pytest.raises(RankerError, match="give --spec"):
        retention.spec_of_newest_run(moved, store)


def test_clean_without_a_history_removes_nothing(planted):
    planted.day(0)
    before = planted.files()
    os.remove(planted.space.metadata_path)
    result = invoke("clean", "-s", DEMO, "-w", planted.space.root)
    assert result.exit_code == 1
    assert planted.files() == before


def test_execution_of_another_history_is_left(planted):
    planted.touch(planted.space.artifacts, "Trainer", "model", "77")
    for number in range(8):
        planted.day(number)
    planted.clean()
    assert Path(planted.space.artifacts, "Trainer", "model", "77").exists()
