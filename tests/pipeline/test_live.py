import dataclasses
import io
import json

import pytest
from planted_runs import Store
from rich.console import Console

from pipeline import lineage, live
from schemas.training import Training
from trainer_module.live_file import VARIABLE, Teller


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is told otherwise."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def told_in(tmp_path, monkeypatch):
    path = tmp_path / "live.json"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


TRAINING = Training(batch_size=100, epochs=2)


def run_at(tmp_path, component):
    store = Store(str(tmp_path / "metadata.sqlite"))
    store.run("r1", "2026-01-03", end=f"running {component}")
    return lineage.newest_run(lineage.open_store(store.path))


def test_training_says_where_it_is_at_most_once_a_second(clock, told_in):
    teller = Teller(TRAINING, 2)
    teller.tell(8, 0.5)
    said = {"attempt": 2, "step": 8, "loss": 0.5, "batch_size": 100, "epochs": 2}
    assert json.loads(told_in.read_text()) == said
    clock[0] += 0.5
    teller.tell(16, 0.4)
    assert json.loads(told_in.read_text())["step"] == 8
    clock[0] += 0.6
    teller.tell(24, float("nan"))
    assert json.loads(told_in.read_text()) == {**said, "step": 24, "loss": None}


def test_training_that_nobody_watches_or_that_cannot_say_goes_on(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    Teller(TRAINING, 1).tell(8, 0.5)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone" / "live.json"))
    Teller(TRAINING, 1).tell(8, 0.5)
    assert not list(tmp_path.iterdir())


def test_speed_and_time_left_follow_from_steps_and_events(tmp_path, clock, told_in):
    run = run_at(tmp_path, "Trainer")
    watch = live.Watch(str(told_in), None)
    teller = Teller(TRAINING, 1)
    teller.tell(4, 0.7)
    first = watch.position(run)
    # The planted run trains on 1200 events: two passes of them in batches of 100.
    assert (first.step, first.steps, first.loss) == (4, 24, 0.7)
    assert (first.steps_per_second, first.seconds_left) == (None, None)
    clock[0] += 10
    teller.tell(14, 0.6)
    later = watch.position(run)
    assert later.steps_per_second == pytest.approx(1.0)
    assert later.events_per_second == pytest.approx(100.0)
    assert later.seconds_left == pytest.approx(10.0)
    assert str(later) == (
        "Trainer, 10 s · step 14 of 24 · loss 0.6 · 1.0 steps/s · 100 events/s · about 10 s left"
    )


def test_speed_is_measured_anew_for_each_attempt(tmp_path, clock, told_in):
    run = run_at(tmp_path, "Trainer")
    watch = live.Watch(str(told_in), None)
    Teller(TRAINING, 1).tell(20, 0.7)
    watch.position(run)
    clock[0] += 10
    Teller(TRAINING, 2).tell(2, float("inf"))
    position = watch.position(run)
    assert position.steps_per_second is None
    assert "attempt 2, step 2 of 24 · loss not finite" in str(position)


def test_what_the_run_before_took_tells_what_is_left(tmp_path, clock, told_in):
    now = run_at(tmp_path, "StatisticsGen")
    pace = {"Plan": 1.0, "StatisticsGen": 20.0, "Trainer": 60.0, "Evaluator": 30.0}
    before = dataclasses.replace(now, outcome="pushed", component_seconds=pace)
    now = dataclasses.replace(now, component_seconds={"Plan": 1.0, "StatisticsGen": 5.0})
    left = live.Watch(str(told_in), before).position(now).seconds_left
    assert left == pytest.approx(15.0 + 60.0 + 30.0)


def test_run_that_has_not_begun_is_starting(clock, told_in):
    watch = live.Watch(str(told_in), None)
    clock[0] += 75
    assert str(watch.position(None)) == "starting, 1 min 15 s"


def test_without_a_terminal_there_is_a_line_for_each_component_and_now_and_then(clock):
    text = io.StringIO()
    console = Console(file=text, width=40, force_terminal=False)
    with console.status("") as spinner:
        display = live.Display(console, spinner)
        for component, seconds in (("Plan", 1), ("Plan", 2), ("Trainer", 3), ("Trainer", 40)):
            clock[0] = 100.0 + seconds
            display.show(component, str(live.Position(component, seconds)))
    assert text.getvalue().splitlines() == ["Plan, 1 s", "Trainer, 3 s", "Trainer, 40 s"]


def test_terminal_is_updated_in_place(clock):
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True)
    with console.status("") as spinner:
        live.Display(console, spinner).show("Plan", "Plan, 1 s")
        assert spinner.status == "Plan, 1 s"
