"""Trainings that are measured: data, starts, sharpness on the way, verdicts, reports."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from events import encode, make_events, tiny_spec, transformed

from schemas.errors import TrainingError
from trainer_module.inputs import model_inputs
from trainer_module.model import build_model
from trainer_module.risk.assess import find_stable_rate, measure_sharpness, with_training
from trainer_module.risk.data import event_batches
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
def trainee(batches):
    return Trainee(tiny_spec(), batches)


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
    (batch,) = event_batches(event_files, spec, 1)
    values = transformed(make_events(EVENTS), spec)
    expected = (
        model_inputs(values, spec),
        {task: values[f"{task}__label"] for task in spec.tasks},
        {task: values[f"{task}__weight"] for task in spec.tasks},
    )
    assert rows(*batch) == rows(*expected)


def test_events_come_again_where_there_are_too_few(event_files):
    found = event_batches(event_files, tiny_spec("training.batch_size=200"), 4)
    assert [len(labels["click"]) for _, labels, _ in found] == [200] * 4


@pytest.mark.parametrize("files", [0, 1], ids=["no files", "an empty file"])
def test_no_events_are_an_error(tmp_path, files):
    path = str(tmp_path / "shard.gz")
    tf.io.TFRecordWriter(path, tf.io.TFRecordOptions(compression_type="GZIP")).close()
    with pytest.raises(TrainingError, match="no events"):
        event_batches([path][:files], tiny_spec(), 1)


def test_a_start_depends_on_the_seed_alone(trainee, batches):
    def losses_from(seed):
        trainee.start(seed)
        return [float(trainee.step(batch)) for batch in batches[:5]]

    first, other = losses_from(3), losses_from(4)
    assert losses_from(3) == first
    assert other != first


def test_a_warm_start_takes_weights_and_accumulators_whatever_the_seed(batches, tmp_path):
    served = Trainee(tiny_spec(), batches)
    served.start(0)
    for batch in batches[:4]:
        served.step(batch)
    served.model.compile(optimizer=served.optimizer)
    save_state(served.model, str(tmp_path))

    warm = Trainee(tiny_spec(), batches, str(tmp_path))
    for seed in (1, 2):
        warm.start(seed)
        warm.step(batches[5])
    served.step(batches[5])
    for one, other in zip(warm.model.weights, served.model.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)


def test_sharpness_is_that_of_weights_and_accumulators_on_the_way(batches):
    """Against a training by hand, of which the whole Hessian is computed."""
    spec = tiny_spec("training.optimizer.name=adagrad", "model={shared: [6], tower: []}")
    probe, *rest = batches
    trainee = Trainee(spec, batches)
    points = sharpness_over_run(trainee, rest, probe, 5, [0, 3], tolerance=1e-4)
    assert [point.step for point in points] == [0, 3]

    layers = [v for v in trainee.model.trainable_variables if "embedding" not in v.path]
    assert len(layers) == 2 + 2 * len(spec.tasks)
    trainee.start(5)
    sums = [np.full(v.shape, spec.training.optimizer.initial_accumulator) for v in layers]
    order = np.random.default_rng(5).permutation(len(rest))
    for step in range(3):
        with tf.GradientTape() as tape:
            loss = trainee.loss(rest[order[step]])
        for total, gradient in zip(
            sums, tape.gradient(loss, [v.value for v in layers]), strict=True
        ):
            total += np.square(gradient)
        trainee.step(rest[order[step]])
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


def test_the_learning_rate_is_that_of_the_step_to_come(batches):
    spec = tiny_spec("training.warmup_steps=4", "training.learning_rate=0.2")
    points = measure_sharpness(spec, batches, steps=4, seeds=1)
    assert {p.step: pytest.approx(p.learning_rate) for p in points} == {
        0: 0.05,
        1: 0.1,
        2: 0.15,
        4: 0.2,
    }


def test_seeds_are_trainings_of_their_own(batches):
    points = measure_sharpness(tiny_spec(), batches, steps=2, seeds=2)
    assert [(p.seed, p.step) for p in points] == [(s, t) for s in (0, 1) for t in (0, 1, 2)]
    assert points[0].sharpness != points[3].sharpness


def test_sharpness_needs_an_adagrad(batches):
    def adam(training):
        optimizer = keras.optimizers.Adam(training.learning_rate)
        optimizer.is_excluded = lambda variable: False
        return optimizer

    trainee = Trainee(tiny_spec(), batches, make=adam)
    with pytest.raises(TrainingError, match="Adam"):
        sharpness_over_run(trainee, batches, batches[0], 0, [0])


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, [0, 1]), (4, [0, 1, 2, 4]), (10, [0, 1, 2, 4, 8, 10])]
)
def test_measured_steps(steps, expected):
    assert measured_steps(steps) == expected


def test_a_healthy_training_does_not_count_as_diverged(trainee, batches):
    trial = train_once(trainee, batches[1:], batches[0], 0, 40)
    assert trial.diverged == ""
    assert trial.tail_loss < trial.start_loss


def test_a_training_that_never_comes_back_diverged(batches):
    spec = with_training(tiny_spec(), "adagrad", 300.0)
    trial = train_once(Trainee(spec, batches), batches[1:], batches[0], 0, 20)
    assert "above the" in trial.diverged
    assert trial.tail_loss > trial.start_loss


def test_a_loss_that_is_not_finite_ends_the_training(trainee, batches):
    features, labels, weights = batches[3]
    bad = (features, {**labels, "watch": labels["watch"] * math.inf}, weights)
    trial = train_once(trainee, [bad], batches[0], 0, 20)
    assert trial.diverged == "the loss of step 0 is not finite"


def test_a_dead_network_diverged_though_its_loss_falls(batches, tmp_path):
    spec = tiny_spec("training.learning_rate=0.3")
    dead = Trainee(spec, batches)
    dead.start(0)
    for layer in ("shared_0", "shared_1"):
        kernel, bias = dead.model.get_layer(layer).get_weights()
        dead.model.get_layer(layer).set_weights([0.0 * kernel, 0.0 * bias - 1.0])
    head = dead.model.get_layer("head_watch")
    head.set_weights([head.get_weights()[0], np.array([-5.0], np.float32)])
    dead.model.compile(optimizer=dead.optimizer)
    save_state(dead.model, str(tmp_path))
    trial = train_once(Trainee(spec, batches, str(tmp_path)), batches[1:], batches[0], 0, 20)
    assert trial.tail_loss < trial.start_loss
    assert trial.diverged == "one prediction for all events: click, watch, stars"


def test_the_search_keeps_to_its_budget_and_tries_other_optimizers(batches):
    told = []
    found = find_stable_rate(
        tiny_spec(), "adagrad", batches, steps=8, seeds=2, budget=5, on_progress=told.append
    )
    assert [len(outcome.trials) for outcome in found.outcomes] == [2, 2]
    assert 0.1 in [outcome.learning_rate for outcome in found.outcomes]
    assert len(told) == 4
    assert told[0] == "adagrad at 0.1: training 1 of 2"


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
    picture = tf.io.decode_png((tmp_path / "new" / PLOT_FILE).read_bytes()).numpy()
    assert picture.shape[0] > 300
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 10


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
