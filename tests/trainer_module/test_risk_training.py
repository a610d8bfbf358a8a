"""Trainings that are measured: data, starts, sharpness on the way, verdicts, reports."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import tensorflow as tf
from events import encode, make_events, small_spec, tiny_spec, transformed

from schemas.errors import TrainingError
from trainer_module.inputs import model_inputs
from trainer_module.model import build_model
from trainer_module.optimizers import ClippedAdam
from trainer_module.risk.assess import find_stable_rate, measure_sharpness, with_training
from trainer_module.risk.batches import batch_count, best_constant_loss, event_batches, pick
from trainer_module.risk.over_run import SharpnessPoint, measured_steps, sharpness_over_run
from trainer_module.risk.report import (
    JSON_FILE,
    PLOT_FILE,
    RiskReport,
    as_json,
    save,
    sharpness_table,
    stable_rate_table,
)
from trainer_module.risk.stable_rate import RateOutcome, StableRate, Trial, train_once
from trainer_module.risk.trainee import Trainee
from trainer_module.training_state import save_state

EVENTS = 300


@pytest.fixture(scope="module")
def event_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    files = [str(folder / f"shard-{part}.gz") for part in range(3)]
    for part, file in enumerate(files):
        options = tf.io.TFRecordOptions(compression_type="GZIP")
        with tf.io.TFRecordWriter(file, options) as writer:
            for event in make_events(EVENTS)[part::3]:
                writer.write(encode(event))
    return files


@pytest.fixture(scope="module")
def batches(event_files):
    return event_batches(event_files, tiny_spec(), 13)


@pytest.fixture(scope="module")
def small_batches(event_files):
    return event_batches(event_files, small_spec(), 13)


@pytest.fixture(scope="module")
def trainee(batches):
    return Trainee(tiny_spec(), rest_of(batches))


def rest_of(batches):
    return pick(batches, range(1, batch_count(batches)))


def rows(features, labels, weights):
    """Batches as a multiset of rows; padding removed."""
    columns = [*features.values(), *labels.values(), *weights.values()]
    arrays = [np.asarray(column) for column in columns]
    return sorted(
        repr([[f"{v:.4g}" for v in array[row].tolist() if v != -1] for array in arrays])
        for row in range(len(arrays[0]))
    )


def test_an_epoch_of_batches_holds_each_event_once_as_transform_gives_it(event_files):
    spec = tiny_spec(f"training.batch_size={EVENTS}")
    batch = pick(event_batches(event_files, spec, 1), 0)
    values = transformed(make_events(EVENTS), spec)
    expected = (
        model_inputs(values, spec),
        {task: values[f"{task}__label"] for task in spec.tasks},
        {task: values[f"{task}__weight"] for task in spec.tasks},
    )
    assert rows(*batch) == rows(*expected)


def test_events_come_again_where_there_are_too_few(event_files):
    features, labels, _ = event_batches(event_files, tiny_spec("training.batch_size=200"), 4)
    assert labels["click"].shape == (4, 200, 1)
    assert features["recent"].shape[:2] == (4, 200)


@pytest.mark.parametrize("files", [0, 1], ids=["no files", "an empty file"])
def test_no_events_are_an_error(tmp_path, files):
    path = str(tmp_path / "shard.gz")
    tf.io.TFRecordWriter(path, tf.io.TFRecordOptions(compression_type="GZIP")).close()
    with pytest.raises(TrainingError, match="no events"):
        event_batches([path][:files], tiny_spec(), 1)


@pytest.mark.parametrize("batch_size", [1, 40])
def test_no_constant_prediction_is_better_than_the_best(event_files, batch_size):
    """Against a fine grid, through the losses that training uses."""
    spec = tiny_spec(f"training.batch_size={batch_size}")
    batches = event_batches(event_files, spec, 3)
    expected, deviations = 0.0, {"watch": 0.5, "stars": 2.0}
    for name, task in spec.tasks.items():
        label, weight = np.ravel(batches[1][name]), np.ravel(batches[2][name])
        if weight.sum():
            grid = np.linspace(-12.0, 12.0, 24001)[:, None]
            loss = np.square(label - grid) / deviations.get(name, 1.0) ** 2
            if task.kind == "binary":
                loss = np.logaddexp(0.0, grid) - label * grid
            expected += task.loss_weight * np.min(loss @ weight / len(weight))
    assert best_constant_loss(batches, spec, deviations) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_a_start_depends_on_the_seed_alone(trainee):
    def losses_from(seed):
        trainee.start(seed)
        return trainee.train(5).tolist()

    first, other = losses_from(3), losses_from(4)
    assert losses_from(3) == first
    assert other != first


@pytest.mark.slow
def test_the_steps_are_on_the_batches_that_they_are_said_to_be_on(trainee):
    trainee.start(2)
    steps = 15  # more than there are batches
    stacked = trainee.batches_of(range(steps))
    for step in range(steps):
        expected = float(trainee.evaluate(pick(stacked, step)))
        assert trainee.train(1)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_warm_start_takes_weights_and_accumulators_whatever_the_seed(small_batches, tmp_path):
    served = Trainee(small_spec(), small_batches)
    served.start(0)
    served.train(4)
    save_state(served.model, served.optimizer, str(tmp_path))
    warm = Trainee(small_spec(), pick(small_batches, [5]), str(tmp_path))
    after = []
    for seed in (1, 2):
        warm.start(seed)
        for one, other in zip(warm.model.weights, served.model.weights, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
        warm.train(1)
        after.append(warm.model.get_weights())
    for one, other in zip(*after, strict=True):
        np.testing.assert_array_equal(one, other)
    # Over the accumulators of 4 steps a step is smaller than over those of none.
    moved = [
        np.abs(a - b.numpy()).max() for a, b in zip(after[0], served.model.weights, strict=True)
    ]
    assert 0.0 < max(moved) < 0.9 * small_spec().training.embedding_rate


def test_a_state_of_another_model_is_a_training_error(batches, tmp_path):
    other = Trainee(tiny_spec("model.shared=[16, 9]"), batches)
    save_state(other.model, other.optimizer, str(tmp_path))
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(TrainingError, match=re.escape(str(folder))):
            Trainee(tiny_spec(), batches, str(folder))


@pytest.mark.slow
def test_sharpness_is_that_of_weights_and_accumulators_on_the_way(batches):
    """Against the accumulators summed up by hand, and the whole Hessian."""
    spec = tiny_spec("training.optimizer.name=adagrad", "model={shared: [6], tower: []}")
    probe = pick(batches, 0)
    trainee = Trainee(spec, rest_of(batches))
    points = sharpness_over_run(trainee, probe, 5, [0, 3], tolerance=1e-4)
    assert [point.step for point in points] == [0, 3]

    layers = [v for v in trainee.model.trainable_variables if "embedding" not in v.path]
    assert len(layers) == 2 + 2 * len(spec.tasks)
    trainee.start(5)
    sums = [np.full(v.shape, spec.training.optimizer.initial_accumulator) for v in layers]
    for step in range(3):
        with tf.GradientTape() as tape:
            loss = trainee.loss(pick(trainee.batches_of([step]), 0))
        for total, gradient in zip(
            sums, tape.gradient(loss, [v.value for v in layers]), strict=True
        ):
            total += np.square(gradient)
        trainee.train(1)
    values = [v.value for v in layers]
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            loss = trainee.loss(probe)
        flat = tf.concat([tf.reshape(g, [-1]) for g in inner.gradient(loss, values)], axis=0)
    blocks = outer.jacobian(flat, values, unconnected_gradients="zero")
    hessian = np.concatenate([np.reshape(b, (len(flat), -1)) for b in blocks], axis=1)
    scale = np.concatenate([np.ravel(total) for total in sums]) ** -0.25
    exact = np.linalg.eigvalsh(scale[:, None] * hessian.astype(np.float64) * scale)[-1]

    assert points[1].sharpness == pytest.approx(exact, rel=1e-3)
    assert points[1].loss == pytest.approx(float(loss), rel=1e-5)
    assert points[1].learning_rate == pytest.approx(spec.training.learning_rate)
    assert points[1].ratio == pytest.approx(spec.training.learning_rate * exact / 2, rel=1e-3)


@pytest.mark.slow
def test_each_seed_is_a_training_of_its_own_at_the_rate_of_the_step_to_come(small_batches):
    spec = small_spec("training.warmup_steps=4", "training.learning_rate=0.2")
    points = measure_sharpness(spec, small_batches, steps=4, seeds=2)
    at = [0, 1, 2, 4]
    assert [(p.seed, p.step) for p in points] == [(seed, step) for seed in (0, 1) for step in at]
    rates = [pytest.approx(rate) for rate in (0.05, 0.1, 0.15, 0.2)]
    assert [p.learning_rate for p in points] == rates * 2
    assert points[0].sharpness != points[4].sharpness


def test_sharpness_needs_an_adagrad(batches):
    def adam(training):
        return ClippedAdam(training.learning_rate, export_statistics=True)

    trainee = Trainee(tiny_spec(), batches, make=adam)
    with pytest.raises(TrainingError, match="ClippedAdam"):
        sharpness_over_run(trainee, pick(batches, 0), 0, [0])


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, [0, 1]), (4, [0, 1, 2, 4]), (10, [0, 1, 2, 4, 8, 10])]
)
def test_measured_steps(steps, expected):
    assert measured_steps(steps) == expected


def test_a_healthy_training_does_not_count_as_diverged(trainee, batches):
    trial = train_once(trainee, pick(batches, 0), 0, 40)
    assert trial.diverged == ""
    assert trial.tail_loss < trial.start_loss


@pytest.mark.slow
def test_a_training_that_never_comes_back_diverged(small_batches):
    trainee = Trainee(with_training(small_spec(), "adagrad", 300.0), small_batches)
    trial = train_once(trainee, pick(small_batches, 0), 0, 20)
    assert "of the start" in trial.diverged
    assert trial.tail_loss > trial.start_loss
    assert "jumped from" in train_once(trainee, pick(small_batches, 0), 0, 20, jumps=True).diverged


@pytest.mark.slow
def test_a_loss_that_is_not_finite_counts(batches):
    features, labels, weights = rest_of(batches)
    bad = (features, {**labels, "watch": labels["watch"] * 1e30}, weights)
    trial = train_once(Trainee(tiny_spec(), bad), pick(batches, 0), 0, 20)
    assert trial.diverged == "the loss of step 0 is not finite"


@pytest.mark.slow
def test_a_dead_network_diverged_though_its_loss_falls(batches, tmp_path):
    spec = tiny_spec("training.learning_rate=0.3")
    dead = Trainee(spec, batches)
    dead.start(0)
    for layer in ("shared-0", "shared-1"):
        kernel, bias = dead.model.get_layer(layer).get_weights()
        dead.model.get_layer(layer).set_weights([0.0 * kernel, 0.0 * bias - 1.0])
    head = dead.model.get_layer("head-watch")
    head.set_weights([head.get_weights()[0], np.array([-5.0], np.float32)])
    save_state(dead.model, dead.optimizer, str(tmp_path))
    trial = train_once(Trainee(spec, batches, str(tmp_path)), pick(batches, 0), 0, 20)
    assert trial.tail_loss < trial.start_loss
    assert trial.diverged == "one prediction for all events: click, watch, stars"


@pytest.mark.slow
def test_the_search_keeps_to_its_budget_in_trainings(small_batches):
    told = []
    found = find_stable_rate(
        small_spec(), "adagrad", small_batches, steps=8, seeds=2, budget=3, on_progress=told.append
    )
    (outcome,) = found.outcomes
    assert outcome.learning_rate == 0.1
    assert [trial.seed for trial in outcome.trials] == [0, 1]
    assert told == ["adagrad at 0.1: training 1 of 2", "adagrad at 0.1: training 2 of 2"]


def test_the_spec_with_another_optimizer_differs_in_nothing_else():
    spec = tiny_spec("training.embedding_learning_rate=0.01")
    other = with_training(spec, "adagrad", 3.0)
    assert other.training.optimizer.name == "adagrad"
    assert other.training.learning_rate == 3.0
    back = with_training(other, "clippy_adagrad", spec.training.learning_rate)
    assert back == spec


def report():
    def point(seed, step, sharpness, converged=True):
        return SharpnessPoint(seed, step, 1.0, 0.1, sharpness, 0.1, 9, converged)

    def outcome(rate, diverged):
        trials = (Trial(0, 1.0, math.inf, math.inf, "not finite" if diverged else ""),)
        return RateOutcome(rate, trials)

    return RiskReport(
        spec="tiny",
        run_date="2026-01-04",
        start="cold start: first",
        optimizer="clippy_adagrad",
        learning_rate=0.1,
        batch_size=32,
        steps=2,
        seeds=2,
        jumps=False,
        sharpness=(
            point(0, 0, 30.0),
            point(0, 2, 12.0),
            point(1, 0, 10.0),
            point(1, 2, math.nan, converged=False),
        ),
        stable_rates={
            "adagrad": StableRate((outcome(0.1, False), outcome(0.4, True)), True),
            "clippy_adagrad": StableRate((outcome(0.1, False),), False),
        },
    )


def test_a_saved_report_is_valid_json_and_a_picture(tmp_path):
    save(report(), str(tmp_path / "new"))
    text = (tmp_path / "new" / JSON_FILE).read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content["peak_ratio"] == pytest.approx(1.5)
    assert content["sharpness"][0]["ratio"] == pytest.approx(1.5)
    assert content["sharpness"][3]["sharpness"] is None
    adagrad = content["stable_rates"]["adagrad"]
    assert (adagrad["highest_stable"], adagrad["lowest_unstable"]) == (0.1, 0.4)
    assert adagrad["outcomes"][1]["diverged"] == 1
    assert adagrad["outcomes"][1]["trials"][0]["diverged"] == "not finite"
    assert content["stable_rates"]["clippy_adagrad"]["lowest_unstable"] is None
    picture = tf.io.decode_png((tmp_path / "new" / PLOT_FILE).read_bytes(), channels=4).numpy()
    assert picture.shape[0] > 300
    assert len(np.unique(picture.view(np.uint32))) > 10  # Colours.


def test_a_report_without_any_measurement_can_be_saved(tmp_path):
    nothing = dataclasses.replace(report(), sharpness=(), stable_rates={})
    save(nothing, str(tmp_path))
    assert as_json(nothing)["peak_ratio"] is None


def cells(table):
    return [list(column.cells) for column in table.columns]


def test_tables_mark_what_is_over_the_limit_not_converged_or_cut_short():
    steps, limits, mean, lowest, highest, ratio, _ = cells(sharpness_table(report()))
    assert (steps, limits[0]) == (["0", "2"], "20")
    assert (mean[0], lowest[0], highest[0]) == ("20", "10", "30")
    assert ratio[0] == "[red]1.5[/red]"
    assert mean[1].endswith("*")
    names, stable, unstable, margin, diverged = cells(stable_rate_table(report()))
    assert names == ["adagrad", "clippy_adagrad *"]
    assert stable == ["0.1", "0.1"]
    assert unstable == ["0.4", "none found"]
    assert margin[0] == "1 x"
    assert diverged == ["1 of 1 (21% to 100%)", ""]


def test_the_model_measured_is_the_one_that_would_be_trained(trainee):
    assert [w.shape for w in trainee.model.weights] == [
        w.shape for w in build_model(tiny_spec()).weights
    ]
