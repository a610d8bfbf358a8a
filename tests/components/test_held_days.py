import dataclasses
import datetime
import json
import re
import shutil
from types import SimpleNamespace

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf

from components import held_days
from components.daily_example_gen import judging
from components.daily_example_gen.day_store import list_logs
from components.daily_example_gen.executor import make_examples
from components.daily_example_gen.judging import collapsed, content_of
from components.held_days import HeldDay
from components.run_plan import RunPlan
from schemas.errors import BadDataError, RankerError
from schemas.loading import parse_spec
from schemas.spec import Validation
from trainer_module import signatures

SPEC = """
name: test
features:
  user: {type: categorical, buckets: 10, embedding: 2}
  taste: {type: dense}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: 0.5}}
  watch: {kind: regression, label: seconds, optional: true, gate: {max_rmse: 9}}
model: {preset: tiny}
training: {window_days: 4, exposures: 1.0}
validation: {min_positives: 30}
serving: {score: click}
"""
DAYS = [datetime.date(2026, 1, day) for day in range(1, 7)]
EVENTS = 400
UNANSWERED = 1e9
"""A taste for which the served version predicts no number."""


def write_day(logs, date, poison="", events=EVENTS):
    """Events whose labels follow `taste`, but for the poisoned ones."""
    rng = np.random.default_rng(date.toordinal())
    taste = rng.normal(size=events)
    clicked = rng.random(events) < 1 / (1 + np.exp(-2 * taste))
    seconds = np.exp(taste + 0.3 * rng.normal(size=events))
    if poison in ("click", "both"):
        clicked = rng.permutation(clicked)
    if poison == "late":
        clicked[:] = False
    if poison == "unanswered":
        taste[0] = UNANSWERED
    if poison in ("watch", "both"):
        seconds = rng.permutation(seconds)
    (logs / str(date)).mkdir(parents=True, exist_ok=True)
    with open(logs / str(date) / "part.jsonl", "w") as file:
        for n in range(events):
            row = {"event_id": n, "user": f"u{n}", "taste": taste[n], "clicked": int(clicked[n])}
            if n % 2:
                row["seconds"] = seconds[n]
            file.write(json.dumps(row) + "\n")


class Served(tf.Module):
    """Predicts each label from `taste`, with the signatures of an exported ranker."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def evaluate(self, examples):
        taste = self._field(examples, "taste")
        taste = tf.where(taste < UNANSWERED, taste, float("nan"))
        return {"click": tf.sigmoid(taste), "watch": taste}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def labels(self, examples):
        answer = {}
        for task, label in (("click", "clicked"), ("watch", "seconds")):
            values = self._field(examples, label)
            answer[signatures.weight_key(task)] = tf.cast(values > -1.0, tf.float32)
            answer[signatures.label_key(task)] = values
        return answer

    def _field(self, examples, name):
        parsed = tf.io.parse_example(examples, {name: tf.io.VarLenFeature(tf.float32)})
        return tf.sparse.to_dense(parsed[name], default_value=-1.0)[:, 0]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("served"))
    model = Served()
    tf.saved_model.save(
        model,
        directory,
        signatures={signatures.EVALUATE: model.evaluate, signatures.LABELS: model.labels},
    )
    return directory


def plan(root, run_date, trained_through, *overrides, judged_on=None, unseen=()):
    """That of a warm start from the served version, which was evaluated on the next day.

    It has seen the days until then as they are now, but for those `unseen`.
    """
    spec = parse_spec(SPEC, "test", overrides)
    judged_on = judged_on or trained_through + datetime.timedelta(days=1)
    seen = {
        str(date): content(root, date)
        for date in DAYS
        if (date <= trained_through or date == judged_on) and date not in unseen
    }
    return RunPlan(
        spec=spec,
        run_date=run_date,
        window=tuple(run_date - datetime.timedelta(days=n) for n in range(4, 0, -1)),
        base_version=3,
        base_trained_through=trained_through,
        baseline_version=3,
        base_seen=seen,
        baseline_run_date=judged_on,
        baseline_seen=seen,
    )


def content(root, date):
    files = list_logs(str(root / "logs"), date).files
    manifest = SimpleNamespace(files=[dataclasses.asdict(file) for file in files])
    return content_of(SimpleNamespace(manifest=manifest))


def run(root, plan, served):
    return make_examples(
        plan,
        str(root / "logs"),
        str(root / "store"),
        {split: str(root / "out" / str(plan.run_date) / split) for split in ("train", "eval")},
        str(root / "out" / "quarantine"),
        lambda: beam.Pipeline(argv=["--runner=DirectRunner", "--direct_running_mode=in_memory"]),
        baseline_dir=served,
    )


def pushed(plan, result, cold):
    """The plan of a run while the model of an earlier one, `result`, is served."""
    held = [day.date for day in result.held]
    seen = {str(date): content_of(day) for date, day in result.days.items() if date not in held}
    plan = dataclasses.replace(plan, baseline_seen=seen, base_seen=seen)
    return from_nothing(plan) if cold else plan


def from_nothing(plan):
    return dataclasses.replace(plan, base_version=None, base_trained_through=None, base_seen={})


def trained(result):
    return {day.date: day.share for day in result.training if day.share}


def released(root, date):
    return held_days.release(str(root / "store"), date)


@pytest.fixture
def logs(tmp_path):
    for date in DAYS:
        write_day(tmp_path / "logs", date)
    return tmp_path / "logs"


def test_days_like_the_one_of_the_gate_are_trained_on(tmp_path, logs, served):
    result = run(tmp_path, plan(tmp_path, DAYS[4], DAYS[0]), served)
    assert trained(result) == dict.fromkeys(DAYS[1:4], 1.0)
    assert not result.held
    assert not held_days.list_held(str(tmp_path / "store"))


@pytest.mark.parametrize("poison", ["click", "watch", "both"])
def test_day_with_permuted_labels_is_held_by_name_until_it_is_released(
    tmp_path, logs, served, poison
):
    write_day(logs, DAYS[3], poison)
    result = run(tmp_path, plan(tmp_path, DAYS[4], DAYS[0]), served)
    assert trained(result) == dict.fromkeys(DAYS[1:3], 1.0)
    (day,) = result.held
    tasks = ["click", "watch"] if poison == "both" else [poison]
    assert [reason.partition(": AUC 0.")[0] for reason in day.reasons] == tasks
    assert all(reason.endswith(f"on {DAYS[1]}") for reason in day.reasons)
    assert (day.date, day.version) == (DAYS[3], 3)
    assert any(f"steadyrank release {DAYS[3]}" in note for note in result.notes)
    # The next run holds it still, whatever is served by then.
    again = run(tmp_path, plan(tmp_path, DAYS[5], DAYS[2]), served)
    assert trained(again) == {DAYS[4]: 1.0}
    assert [day.date for day in again.held] == [DAYS[3]]
    assert [day.date for day in held_days.list_held(str(tmp_path / "store"))] == [DAYS[3]]


def test_day_on_which_the_served_version_predicts_no_numbers_is_held(tmp_path, logs, served):
    write_day(logs, DAYS[3], "unanswered")
    result = run(tmp_path, plan(tmp_path, DAYS[4], DAYS[1]), served)
    assert [day.date for day in result.held] == [DAYS[3]]
    assert result.held[0].reasons[0].startswith("click: AUC 0.500, and 0.8")


def test_day_whose_labels_are_late_is_held_until_they_are_there(tmp_path, logs, served):
    write_day(logs, DAYS[3], "late")
    few = "min_class_events=40"
    result = run(tmp_path, plan(tmp_path, DAYS[4], DAYS[0], few), served)
    assert trained(result) == dict.fromkeys(DAYS[1:3], 1.0)
    (day,) = result.held
    (reason,) = day.reasons
    lost = re.fullmatch("click: 0 positives, and the served model expects ([0-9]+)", reason)
    assert 160 < int(lost[1]) < 240
    # A rare label may be absent by chance.
    write_day(logs, DAYS[2], "late")
    again = run(tmp_path, plan(tmp_path, DAYS[4], DAYS[0], "min_class_events=100"), served)
    assert [held.date for held in again.held] == [DAYS[3]]
    write_day(logs, DAYS[3])
    mended = run(tmp_path, plan(tmp_path, DAYS[4], DAYS[0], "min_class_events=100"), served)
    assert trained(mended) == dict.fromkeys(DAYS[1:4], 1.0)


def test_released_day_is_trained_on_in_full_once(tmp_path, logs, served):
    write_day(logs, DAYS[2], "both")
    run(tmp_path, plan(tmp_path, DAYS[3], DAYS[0]), served)
    run(tmp_path, plan(tmp_path, DAYS[4], DAYS[1]), served)
    released(tmp_path, DAYS[2])
    # The served version was trained through a day after the one that it has not seen.
    catching_up = plan(tmp_path, DAYS[5], DAYS[3], unseen=[DAYS[2]])
    assert trained(run(tmp_path, catching_up, served)) == {DAYS[2]: 1.0, DAYS[4]: 1.0}
    # It was blocked: the same days are new to the next attempt, too.
    assert trained(run(tmp_path, catching_up, served)) == {DAYS[2]: 1.0, DAYS[4]: 1.0}
    # It was pushed.
    write_day(logs, DAYS[5] + datetime.timedelta(days=1))
    pushed = plan(tmp_path, DAYS[5] + datetime.timedelta(days=1), DAYS[4])
    assert trained(run(tmp_path, pushed, served)) == {DAYS[5]: 1.0}


def test_day_released_for_another_run_of_the_same_date_counts_once(tmp_path, logs, served):
    write_day(logs, DAYS[3], "both")
    first = plan(tmp_path, DAYS[4], DAYS[1])
    assert trained(run(tmp_path, first, served)) == {DAYS[2]: 1.0}
    released(tmp_path, DAYS[3])
    assert trained(run(tmp_path, first, served)) == {DAYS[2]: 1.0, DAYS[3]: 1.0}
    assert trained(run(tmp_path, plan(tmp_path, DAYS[5], DAYS[3]), served)) == {DAYS[4]: 1.0}


def test_day_whose_logs_are_mended_is_judged_anew(tmp_path, logs, served):
    write_day(logs, DAYS[3], "both")
    assert run(tmp_path, plan(tmp_path, DAYS[4], DAYS[1]), served).held
    write_day(logs, DAYS[3], events=EVENTS + 1)
    result = run(tmp_path, plan(tmp_path, DAYS[4], DAYS[1]), served)
    assert not result.held
    assert trained(result) == dict.fromkeys(DAYS[2:4], 1.0)


@pytest.mark.parametrize("cold", [False, True])
def test_held_day_that_is_mended_late_is_judged_and_then_trained_on_in_full(
    tmp_path, logs, served, cold
):
    write_day(logs, DAYS[2], "both")
    first = run(tmp_path, plan(tmp_path, DAYS[4], DAYS[0]), served)
    assert [day.date for day in first.held] == [DAYS[2]]
    later = pushed(plan(tmp_path, DAYS[5], DAYS[3]), first, cold)
    write_day(logs, DAYS[2], "both", events=EVENTS + 1)
    result = run(tmp_path, later, served)
    assert [day.date for day in result.held] == [DAYS[2]]
    assert DAYS[2] not in trained(result)
    write_day(logs, DAYS[2], events=EVENTS + 2)
    result = run(tmp_path, later, served)
    assert not result.held
    assert trained(result)[DAYS[2]] == 1.0


def test_day_that_is_delivered_again_and_released_is_trained_on_in_full(tmp_path, logs, served):
    seen_before = plan(tmp_path, DAYS[5], DAYS[3])
    write_day(logs, DAYS[2], "both", events=EVENTS + 1)
    result = run(tmp_path, seen_before, served)
    assert [day.date for day in result.held] == [DAYS[2]]
    released(tmp_path, DAYS[2])
    assert trained(run(tmp_path, seen_before, served)) == {DAYS[2]: 1.0, DAYS[4]: 1.0}


def test_day_that_is_mended_is_held_no_longer_though_nothing_judges_it(tmp_path, logs, served):
    write_day(logs, DAYS[3], "both")
    assert run(tmp_path, plan(tmp_path, DAYS[4], DAYS[1]), served).held
    write_day(logs, DAYS[3], events=EVENTS + 1)
    unjudged = plan(tmp_path, DAYS[4], DAYS[1], "validation.max_auc_fall=null")
    assert trained(run(tmp_path, unjudged, served)) == dict.fromkeys(DAYS[2:4], 1.0)
    assert not held_days.list_held(str(tmp_path / "store"))


def test_release_during_a_run_lasts(tmp_path, logs, served, monkeypatch):
    write_day(logs, DAYS[2], "both")
    assert run(tmp_path, plan(tmp_path, DAYS[3], DAYS[0]), served).held
    judge = judging._judged

    def judge_meanwhile(*args):
        released(tmp_path, DAYS[2])
        return judge(*args)

    monkeypatch.setattr(judging, "_judged", judge_meanwhile)
    result = run(tmp_path, plan(tmp_path, DAYS[5], DAYS[3], unseen=DAYS[2:4]), served)
    assert [day.date for day in result.held] == [DAYS[2]]
    assert not held_days.list_held(str(tmp_path / "store"))


def test_version_that_does_not_say_what_it_has_seen_judges_every_day(tmp_path, logs, served):
    write_day(logs, DAYS[2], "both")
    silent = dataclasses.replace(plan(tmp_path, DAYS[5], DAYS[3]), base_seen={}, baseline_seen={})
    result = run(tmp_path, silent, served)
    assert [day.date for day in result.held] == [DAYS[2]]
    assert trained(result) == {DAYS[4]: 1.0}


@pytest.mark.parametrize("before", ["absent", "well"])
def test_day_that_comes_late_or_again_is_judged_before_it_is_trained_on_anew(
    tmp_path, logs, served, before
):
    if before == "absent":
        shutil.rmtree(logs / str(DAYS[2]))
    first = run(tmp_path, plan(tmp_path, DAYS[4], DAYS[1]), served)
    later = pushed(plan(tmp_path, DAYS[5], DAYS[3]), first, cold=True)
    write_day(logs, DAYS[2], "both", events=EVENTS + 1)
    result = run(tmp_path, later, served)
    assert [day.date for day in result.held] == [DAYS[2]]
    assert trained(result) == {DAYS[1]: 1.0, DAYS[3]: 1.0, DAYS[4]: 1.0}


def test_days_that_the_served_version_has_seen_need_no_model(tmp_path, logs, served):
    first = run(tmp_path, plan(tmp_path, DAYS[4], DAYS[1]), served)
    later = pushed(plan(tmp_path, DAYS[5], DAYS[3]), first, cold=True)
    assert trained(run(tmp_path, later, "nowhere")) == dict.fromkeys(DAYS[1:5], 1.0)


def test_cold_start_leaves_a_held_day_out_too(tmp_path, logs, served):
    write_day(logs, DAYS[3], "both")
    run(tmp_path, plan(tmp_path, DAYS[4], DAYS[1]), served)
    cold = from_nothing(plan(tmp_path, DAYS[5], DAYS[3]))
    assert trained(run(tmp_path, cold, served)) == {DAYS[1]: 1, DAYS[2]: 1, DAYS[4]: 1}


def test_run_with_nothing_but_held_days_stops_and_says_what_to_do(tmp_path, logs, served):
    for date in DAYS[3:5]:
        write_day(logs, date, "both")
    with pytest.raises(BadDataError, match=r"every new day is held\n.*2026-01-04: held") as error:
        run(tmp_path, plan(tmp_path, DAYS[5], DAYS[2], judged_on=DAYS[2]), served)
    assert f"steadyrank release {DAYS[4]}" in str(error.value)
    assert "steadyrank rollback" in str(error.value)


@pytest.mark.parametrize(
    ("override", "notes"),
    [
        ("validation.max_auc_fall=null", []),
        ("validation.max_auc_fall=0.6", []),
        (
            "validation.min_positives=300",
            ["2026-01-04: not judged, too few events of each label"],
        ),
    ],
)
def test_day_is_not_held_where_the_spec_does_not_ask_for_it(
    tmp_path, logs, served, override, notes
):
    write_day(logs, DAYS[3], "both")
    result = run(tmp_path, plan(tmp_path, DAYS[4], DAYS[1], override), served)
    assert trained(result) == dict.fromkeys(DAYS[2:4], 1.0)
    assert not result.held
    assert [note for note in result.notes if "judged" in note] == notes


def test_day_of_the_gate_needs_no_judgement_and_no_model(tmp_path, logs):
    write_day(logs, DAYS[3], "both")
    result = run(tmp_path, plan(tmp_path, DAYS[4], DAYS[2]), "nowhere")
    assert trained(result) == {DAYS[3]: 1.0}


def test_model_of_events_of_another_type_cannot_judge_and_that_is_noted(tmp_path, logs, served):
    changed = "features.taste={type: categorical, dtype: int, buckets: 9, embedding: 2}"
    for date in DAYS[:5]:
        lines = (logs / str(date) / "part.jsonl").read_text().splitlines()
        rows = [{**json.loads(line), "taste": 1} for line in lines]
        (logs / str(date) / "part.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = run(tmp_path, plan(tmp_path, DAYS[4], DAYS[1], changed), served)
    assert trained(result) == dict.fromkeys(DAYS[2:4], 1.0)
    assert any("2026-01-04: not judged, the served version cannot score" in n for n in result.notes)


def test_model_that_cannot_be_read_at_the_moment_stops_the_run(tmp_path, logs, monkeypatch):
    """It says nothing of the days, so that none of them may be trained on unjudged."""

    def load(path):
        raise tf.errors.UnavailableError(None, None, f"{path}: try again")

    monkeypatch.setattr(tf.saved_model, "load", load)
    with pytest.raises(tf.errors.UnavailableError):
        run(tmp_path, plan(tmp_path, DAYS[4], DAYS[1]), "served")
    assert not (tmp_path / "out" / str(DAYS[4]) / "train").exists()


def test_day_that_leaves_the_window_while_it_is_held_is_forgotten_aloud(tmp_path, logs, served):
    write_day(logs, DAYS[0], "both")
    store = str(tmp_path / "store")
    held_days.save(store, HeldDay(DAYS[0], "", 1, ("click",)))
    result = run(tmp_path, plan(tmp_path, DAYS[5], DAYS[3]), served)
    assert f"{DAYS[0]}: left the window while it was held" in "\n".join(result.notes)
    assert not held_days.list_held(store)


JUDGED = Validation(max_auc_fall=0.1)


@pytest.mark.parametrize(
    ("skills", "judged_on", "expected"),
    [
        ({0: {"a": 0.7}, 1: {"a": 0.61}}, 0, []),
        ({0: {"a": 0.7}, 1: {"a": 0.59}}, 0, [1]),
        ({0: {"a": 0.5}, 1: {"a": 0.9}}, 0, []),
        ({0: {"a": 0.7, "b": 0.9}, 1: {"a": 0.7, "b": 0.7}}, 0, [1]),
        ({0: {}, 1: {"a": 0.7}, 2: {"a": 0.7}, 3: {"a": 0.5}}, 0, [3]),
        ({1: {"a": 0.7}, 2: {"a": 0.5}}, None, [2]),
        ({1: {"a": 0.5}}, None, []),
        ({1: {"a": 0.5}, 2: {"a": 0.7}, 3: {"a": 0.72}}, None, [1]),
    ],
)
def test_days_are_held_against_the_day_of_the_gate_or_each_other(skills, judged_on, expected):
    found = collapsed(
        {DAYS[n]: tasks for n, tasks in skills.items()},
        None if judged_on is None else DAYS[judged_on],
        JUDGED,
    )
    assert list(found) == [DAYS[n] for n in expected]


def test_release_names_the_days_that_are_held(tmp_path):
    held_days.save(str(tmp_path), HeldDay(DAYS[1], "c", 1, ("click: AUC",)))
    with pytest.raises(RankerError, match=rf"{DAYS[0]} is not held; held days: {DAYS[1]}"):
        held_days.release(str(tmp_path), DAYS[0])
    assert held_days.release(str(tmp_path), DAYS[1]).released
    with pytest.raises(RankerError, match="held days: none"):
        held_days.release(str(tmp_path), DAYS[1])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"reasons": 3}'])
def test_damaged_memory_of_a_day_fails_and_says_what_to_do(tmp_path, content):
    held_days.save(str(tmp_path), HeldDay(DAYS[1], "c", 1, ("click: AUC",)))
    (tmp_path / "held" / f"{DAYS[1]}.json").write_text(content)
    with pytest.raises(RankerError, match=rf"{DAYS[1]}\.json: cannot tell .* Remove the file"):
        held_days.find(str(tmp_path), DAYS[1])
