"""Broken models, planted in what a real training exports: none is served."""

import numpy as np
import pytest
import tensorflow as tf
import trainings
from events import tiny_spec

from components import serving_store
from trainer_module import export, training
from trainer_module.training_state import inner_optimizer, save_state

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_processes")]

NAN, INFINITE = float("nan"), float("inf")


@pytest.fixture(scope="module")
def trained(train_files, tmp_path_factory):
    return trainings.trained(tiny_spec(), train_files, tmp_path_factory.mktemp("trained"))


def variable(trained, path):
    everything = (*trained.model.variables, *inner_optimizer(trained.optimizer).variables)
    return next(item for item in everything if item.path == path)


@pytest.fixture
def planted(trained):
    """Sets one place of a variable; undone afterwards."""
    before = []

    def plant(path, place, value):
        target = variable(trained, path)
        values = np.array(target)
        before.append((target, values.copy()))
        values[place] = value
        target.assign(values)
        return trained

    yield plant
    for target, values in before:
        target.assign(values)


def export_as_it_is(steps, graph, trained):
    """Exports without the Trainer's own look at the weights."""
    export.export_model(trained.model, graph, tiny_spec(), str(steps.model_dir))
    state = steps.model_dir / serving_store.TRAINING_STATE
    save_state(trained.model, trained.optimizer, str(state))


def assert_blocked(steps, reasons, pushed, *expected):
    assert pushed.get_int_custom_property("pushed") == 0
    for words in expected:
        assert any(words in reason for reason in reasons), reasons
    (served,) = serving_store.list_versions(steps.serving)
    assert (served.version, served.info.model_uri) == (1, "model/1")


# Of the fifty users that the table has rows for, twenty occur in the events.
PLACES = {
    "a ReLU layer's kernel": ("shared-0/kernel", (3, 5), NAN),
    "a row of no event's id": ("embedding-user/embedding/embeddings", 49, NAN),
    "a slot": ("clipped_adagrad/shared-1_kernel_accumulator", (0, 0), INFINITE),
}


@pytest.mark.parametrize(("path", "place", "value"), PLACES.values(), ids=PLACES)
def test_model_that_is_not_finite_is_not_exported_and_ends_as_a_verdict(
    steps, monkeypatch, path, place, value
):
    run = training._run

    def run_then_break(loop, *args, **kwargs):
        done = run(loop, *args, **kwargs)
        everything = (*loop._model.variables, *loop._clipped.variables)
        target = next(item for item in everything if item.path == path)
        values = np.array(target)
        values[place] = value
        target.assign(values)
        return done

    monkeypatch.setattr(training, "_run", run_then_break)
    steps.train()
    assert [item.name for item in steps.model_dir.iterdir()] == ["NOT_EXPORTED"]
    reasons, pushed = steps.judge_and_push()
    assert_blocked(steps, reasons, pushed, f"{path} is NaN or infinite in ")


@pytest.mark.parametrize(("path", "place", "value"), PLACES.values(), ids=PLACES)
def test_model_whose_files_are_not_finite_is_refused_though_it_answers_well(
    steps, transform_graph, planted, path, place, value
):
    export_as_it_is(steps, transform_graph, planted(path, place, value))
    reasons, pushed = steps.judge_and_push()
    where = "training_state" if "accumulator" in path else "variables"
    assert_blocked(steps, reasons, pushed, f"{where}/", "is NaN or infinite in ")


def swapped(answer, spec):
    return {**answer, "watch": answer["stars"], "stars": answer["watch"]}


def scaled_by_three(answer, spec):
    return {**answer, "click": answer["click"] * 3.0}


def scaled_regression(answer, spec):
    return {**answer, "watch": answer["watch"] * 3.0}


def negated_score(answer, spec):
    return {**answer, "score": -answer["score"]}


@pytest.mark.parametrize(
    ("fault", "outputs"),
    [
        (swapped, ["watch", "stars", "score"]),
        (scaled_by_three, ["click"]),
        (scaled_regression, ["watch", "score"]),
        (negated_score, ["score"]),
    ],
)
def test_model_that_serves_other_than_what_is_judged_is_refused(
    steps, transform_graph, trained, monkeypatch, fault, outputs
):
    answer = export._Ranker._answer
    monkeypatch.setattr(
        export._Ranker, "_answer", lambda self, outputs: fault(answer(self, outputs), self._spec)
    )
    export_as_it_is(steps, transform_graph, trained)
    reasons, pushed = steps.judge_and_push()
    assert_blocked(steps, reasons, pushed, *(f"serving_default: {name} is " for name in outputs))


def aborts(answer, spec):
    with tf.control_dependencies([tf.raw_ops.Abort(error_msg="planted")]):
        return {**answer, "click": tf.identity(answer["click"])}


def hangs(answer, spec):
    def spin(value):
        return value + 1.0

    zero = tf.reduce_sum(answer["click"]) * 0.0
    forever = tf.while_loop(lambda value: value >= 0.0, spin, [zero])
    return {**answer, "click": answer["click"] + forever[0] * 0.0}


@pytest.mark.parametrize(
    ("fault", "seconds", "reason"),
    [
        (aborts, 300, "the model cannot be loaded and called: its process was ended by signal 6"),
        (hangs, 6, "the model did not answer within 6 s (serving.check_seconds)"),
    ],
)
def test_model_that_ends_or_holds_its_process_ends_as_a_verdict(
    steps, transform_graph, trained, monkeypatch, fault, seconds, reason
):
    answer = export._Ranker._answer
    monkeypatch.setattr(
        export._Ranker, "_answer", lambda self, outputs: fault(answer(self, outputs), self._spec)
    )
    export_as_it_is(steps, transform_graph, trained)
    reasons, pushed = steps.judge_and_push(f"serving.check_seconds={seconds}")
    assert_blocked(steps, reasons, pushed, reason)
