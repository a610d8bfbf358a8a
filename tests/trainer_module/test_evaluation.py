"""Metrics, and the evaluation of a sample of the run date while a model trains."""

import itertools
import json

import numpy as np
import pytest
from events import make_events, small_spec, tiny_spec, write_events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainings import trained

from trainer_module import evaluation
from trainer_module.evaluation import DayEvaluation
from trainer_module.inputs import parser, training_batches
from trainer_module.metrics import auc, rmse
from trainer_module.model import build_model
from trainer_module.stability.outcome import load_verdict


def test_auc_counts_pairs_and_halves_ties():
    rng = np.random.default_rng(2)
    label, score = rng.integers(0, 2, 60), rng.integers(0, 9, 60).astype(float)
    pairs = itertools.product(score[label == 1], score[label == 0])
    expected = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
    assert auc(label, score) == pytest.approx(expected)
    assert np.isnan(auc(label, np.where(label, np.nan, score)))
    assert np.isnan(auc(np.ones(5), np.arange(5.0)))


def test_rmse_is_the_root_of_the_mean_square():
    assert rmse(np.array([1.0, 2.0]), np.array([4.0, 6.0])) == pytest.approx(np.sqrt(12.5))
    assert np.isnan(rmse(np.zeros(0), np.zeros(0)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    train_files = write_events(make_events(640, seed=1), folder / "train")
    return train_files, write_events(make_events(150, seed=2), folder / "eval")


def test_it_is_the_metric_of_each_tasks_labelled_events(files):
    spec = tiny_spec("training.batch_size=150")
    model = build_model(spec)
    metrics = DayEvaluation(model, spec, files[1], parser(spec))()
    [(features, labels, weights)] = training_batches(files[1], spec)
    outputs = model(features)
    for name, metric in (("click", auc), ("watch", rmse), ("stars", rmse)):
        here = weights[name].numpy().ravel() > 0
        y, x = (part[name].numpy().ravel()[here] for part in (labels, outputs))
        assert metrics[name] == pytest.approx(metric(y, x), rel=1e-5)
    assert 0 < here.sum() < 150


def test_the_sample_is_bounded_and_of_every_file(files, monkeypatch):
    monkeypatch.setattr(evaluation, "SAMPLE", 30)
    spec = tiny_spec()
    made = DayEvaluation(build_model(spec), spec, files[1], parser(spec))
    assert made._labels["click"].shape == (30, 1)
    one = DayEvaluation(build_model(spec), spec, files[1][:1], parser(spec))
    assert not np.array_equal(made._labels["watch"], one._labels["watch"])


def run(files, folder, *overrides, eval_files):
    return trained(small_spec(*overrides), files[0], folder, eval_files=eval_files)


@pytest.fixture(scope="module")
def evaluated(files, tmp_path_factory):
    """A training that is evaluated on its way, and its folder; it ends with its last weights."""
    folder = tmp_path_factory.mktemp("evaluated")
    settings = ("training.evaluation_steps=8", "training.averaging=0")
    return run(files, folder, *settings, eval_files=files[1]), folder


@pytest.mark.slow
def test_a_training_reports_it_every_so_many_steps_and_at_its_end(files, evaluated):
    done, folder = evaluated
    attempt = load_verdict(str(folder / "stability")).attempts[-1]
    assert [found.step for found in attempt.evaluations] == [8, 16, 20]
    spec = small_spec()
    after = DayEvaluation(done.model, spec, files[1], parser(spec))()
    assert attempt.evaluations[-1].metrics == pytest.approx(after)
    assert (folder / "stability" / "run_date.png").stat().st_size > 1000
    events = EventAccumulator(str(folder / "tensorboard" / "attempt_1")).Reload()
    logged = {e.step: e.value for e in events.Scalars("run_date/click")}
    assert logged[20] == pytest.approx(after["click"], rel=1e-5)
    assert sorted(logged) == [8, 16, 20]


@pytest.mark.slow
def test_it_is_off_without_files_or_steps_and_changes_no_weight(files, evaluated, tmp_path):
    on, _ = evaluated
    off = run(
        files,
        tmp_path / "off",
        "training.evaluation_steps=0",
        "training.averaging=0",
        eval_files=files[1],
    )
    none = run(files, tmp_path / "none", "training.averaging=0", eval_files=())
    for folder in ("off", "none"):
        attempt = load_verdict(str(tmp_path / folder / "stability")).attempts[-1]
        assert attempt.evaluations == ()
    for one, *others in zip(*(done.model.get_weights() for done in (on, off, none)), strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_report_of_an_older_version_has_no_evaluations(evaluated, tmp_path):
    _, folder = evaluated
    path = tmp_path / "verdict.json"
    content = json.loads((folder / "stability" / path.name).read_text())
    assert any(attempt.get("evaluations") for attempt in content["attempts"])
    for attempt in content["attempts"]:
        del attempt["evaluations"]
    path.write_text(json.dumps(content))
    [attempt] = load_verdict(str(tmp_path)).attempts
    assert attempt.evaluations == ()
