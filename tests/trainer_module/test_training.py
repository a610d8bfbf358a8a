import dataclasses
import functools
import gzip
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import keras
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from events import make_events, small_spec, write_events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainings import trained

from benchmarks.train import keras_losses
from schemas.errors import TrainingError
from trainer_module import inputs, preprocessing
from trainer_module.checkpoints import Checkpoints, Progress
from trainer_module.inputs import training_batches
from trainer_module.model import build_model
from trainer_module.stability.events import DivergenceEvent
from trainer_module.stability.outcome import Attempt, load_verdict
from trainer_module.training import WarmUp, make_optimizer
from trainer_module.training_state import save_state

# Its seeds are part of the state: a state fits models with dropout, or those without.
DROPOUT = "model.dropout=0.3"


def _train(spec, files, folder, **changes):
    return trained(spec, files, folder, **changes).model


def _weights(model):
    return [np.asarray(w) for w in model.weights]


def _loss(model, spec, files):
    model.compile(loss=keras_losses(spec))
    return model.evaluate(_batches(spec, files), verbose=0, return_dict=True)["loss"]


def _assert_same(left, right):
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


def _batches(spec, files):
    return training_batches(files, spec)


@pytest.fixture(scope="module")
def base(train_files, tmp_path_factory):
    return _with_state(small_spec(DROPOUT, "training.epochs=3"), train_files, tmp_path_factory)


@pytest.fixture(scope="module")
def half(train_files, tmp_path_factory):
    """Trained with float16."""
    return _with_state(
        small_spec(DROPOUT, "training.mixed_precision=float16"), train_files, tmp_path_factory
    )


def _with_state(spec, files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    done = trained(spec, files, folder)
    save_state(done.model, done.optimizer, str(folder / "state"))
    return SimpleNamespace(
        spec=spec, model=done.model, optimizer=done.optimizer, state=str(folder / "state")
    )


@pytest.fixture(scope="module")
def healed(train_files, tmp_path_factory):
    """Diverges at once, and is tried again at a rate at which it does not; and its folder."""
    folder = tmp_path_factory.mktemp("healed")
    wild = small_spec(
        "training.optimizer.name=adagrad",
        "training.learning_rate=1e6",
        "training.epochs=10",
        "training.recovery=[{learning_rate: 1e-7}]",
    )
    return trained(wild, train_files, folder, drawn=True), folder


def test_every_epoch_sees_every_event_once_in_an_order_of_its_own(train_files):
    spec = small_spec("training.epochs=2", "training.batch_size=700")
    first, second = (
        np.asarray(features["price"]).ravel() for features, _, _ in _batches(spec, train_files)
    )
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first), np.sort(second))


def test_order_depends_on_the_seed_alone(train_files):
    def order(*overrides):
        batch = next(iter(_batches(small_spec(*overrides), train_files)))
        return np.asarray(batch[0]["price"]).ravel()

    np.testing.assert_array_equal(order(), order())
    assert not np.array_equal(order(), order("training.seed=1"))


@pytest.mark.parametrize("together", [1, 100, 650, 10_000])
def test_no_event_is_lost_however_few_are_shuffled_together(together, train_files):
    spec = small_spec(
        "training.epochs=2", "training.batch_size=300", f"training.shuffle_events={together}"
    )
    batches = [
        np.asarray(features["price"]).ravel() for features, _, _ in _batches(spec, train_files)
    ]
    assert {len(batch) for batch in batches[:-1]} == {300}
    read = np.concatenate(batches)
    first, second = np.split(read, 2)
    assert len(np.unique(first)) == len(first)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first), np.sort(second))


@pytest.mark.slow
def test_training_learns(base, train_files):
    before, after = (
        _loss(model, base.spec, train_files) for model in (build_model(base.spec), base.model)
    )
    assert after < 0.9 * before


@pytest.mark.slow
def test_preprocessing_is_traced_once(train_files, tmp_path, monkeypatch):
    traced = []

    def preprocess(*args):
        traced.append(args)
        return preprocessing.preprocess(*args)

    monkeypatch.setattr(inputs, "preprocess", preprocess)
    spec = small_spec("training.evaluation_steps=4")
    trained(spec, train_files, tmp_path, eval_files=train_files[:1])
    assert len(traced) == 1


class KilledError(Exception):
    pass


@pytest.mark.slow
def test_training_killed_between_checkpoints_resumes_to_the_same_weights(
    base, train_files, tmp_path, monkeypatch
):
    save = Checkpoints.save

    def save_then_die(self, progress, *args):
        save(self, progress, *args)
        if progress.step >= 16:
            raise KilledError

    monkeypatch.setattr(Checkpoints, "save", save_then_die)
    with pytest.raises(KilledError):
        trained(base.spec, train_files, tmp_path)
    monkeypatch.setattr(Checkpoints, "save", save)
    resumed = trained(base.spec, train_files, tmp_path)
    _assert_same(_weights(base.model), _weights(resumed.model))
    _assert_same(
        [np.asarray(v) for v in base.optimizer.variables],
        [np.asarray(v) for v in resumed.optimizer.variables],
    )


@pytest.mark.slow
def test_warm_start_carries_weights_slots_and_normalisation_and_restarts_the_steps(
    base, train_files, tmp_path
):
    frozen = small_spec(DROPOUT, "training.learning_rate=1e-30")
    warm = trained(frozen, train_files[:1], tmp_path, warm_start_from=base.state)
    _assert_same(_weights(base.model), _weights(warm.model))
    steps = len(list(_batches(frozen, train_files[:1])))
    assert int(warm.optimizer.iterations) == steps
    grown = [
        np.asarray(after) - np.asarray(before)
        for before, after in zip(base.optimizer.variables, warm.optimizer.variables, strict=True)
        if "accumulator" in after.path
    ]
    assert grown
    assert all((growth >= 0).all() for growth in grown)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("half", "none"), ("base", "float16")])
def test_precision_may_change_between_warm_starts(before, after, request, train_files, tmp_path):
    done = request.getfixturevalue(before)
    spec = small_spec(DROPOUT, f"training.mixed_precision={after}", "training.learning_rate=1e-30")
    warm = trained(spec, train_files[:1], tmp_path, warm_start_from=done.state)
    for one, other in zip(_weights(done.model), _weights(warm.model), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-20)


@pytest.mark.slow
def test_state_of_another_architecture_is_refused(base, train_files, tmp_path):
    other = small_spec(DROPOUT, "model.shared=[32, 8]")
    with pytest.raises(TrainingError, match="cannot be restored"):
        _train(other, train_files, tmp_path, warm_start_from=base.state)


def test_absent_state_is_a_clear_error(train_files, tmp_path):
    with pytest.raises(TrainingError, match="cannot be restored"):
        _train(small_spec(), train_files, tmp_path, warm_start_from=str(tmp_path / "nothing"))


def test_no_files_is_a_clear_error(tmp_path):
    with pytest.raises(TrainingError, match="no events to train on"):
        _train(small_spec(), [], tmp_path)


def test_no_example_to_train_on_is_a_clear_error(tmp_path):
    empty = tmp_path / "empty.gz"
    empty.write_bytes(gzip.compress(b""))
    with pytest.raises(TrainingError, match="no batch to train on"):
        _train(small_spec(), [str(empty)], tmp_path)


@pytest.mark.slow
def test_tensorboard_scalars_are_written_for_each_attempt(healed):
    for attempt in ("attempt_1", "attempt_2"):
        written = EventAccumulator(str(healed[1] / "tensorboard" / attempt))
        written.Reload()
        names = set(written.Tags()["scalars"])
        assert {"loss", "auc/click", "gradient_norm", "skipped_layers"} <= names


def test_batches_left_out_are_not_trained_on_and_the_others_stay_in_order(train_files):
    spec = small_spec()
    read = functools.partial(training_batches, train_files, spec)

    def prices(**kwargs):
        return [np.asarray(f["price"]).ravel().tolist() for f, _, _ in read(**kwargs)]

    every = prices()
    kept = prices(leave_out=[(2, 4), (5, 6)], skip=1)
    assert kept == [every[1], every[4], *every[6:]]


def test_divergence_goes_back_to_the_checkpoint_before_and_leaves_its_batches_out(tmp_path):
    model = build_model(small_spec())
    optimizer = make_optimizer(small_spec().training)
    optimizer.build(model.trainable_variables)
    checkpoints = Checkpoints(str(tmp_path), writes=True)
    for step in (0, 5, 10, 20):
        checkpoints.save(Progress(step=step), model, optimizer)

    def diverged(start, detected):
        event = DivergenceEvent(
            "full", start, detected, detected, 9.0, 1.0, (), detected + 5, "lost"
        )
        return Attempt(0, detected + 5, "diverged", "diverged", (event,))

    first = diverged(12, 14)
    checkpoints.go_back(Progress(step=20), first, leave_out=True)
    newest = checkpoints.newest()
    assert (newest.step, newest.left_out, newest.failed) == (10, ((12, 15),), (first,))
    # Step 12 of the second attempt is the batch after those left out.
    checkpoints.save(dataclasses.replace(newest, step=11), model, optimizer)
    second = diverged(12, 13)
    checkpoints.go_back(newest, second, leave_out=True)
    newest = checkpoints.newest()
    assert (newest.step, newest.left_out) == (11, ((12, 17),))
    # Further back, to a checkpoint that knows of no failure; batches 8 to 17 are steps 8 to 12.
    third = diverged(8, 12)
    checkpoints.go_back(newest, third, leave_out=True)
    newest = checkpoints.newest()
    assert (newest.step, newest.left_out) == (5, ((8, 18),))
    assert newest.failed == (first, second, third)
    checkpoints.go_back(newest, diverged(1, 2), leave_out=False)
    assert checkpoints.newest().step == 0
    assert len(checkpoints.newest().failed) == 4


def test_attempt_killed_while_it_goes_back_leaves_nothing_of_the_failed_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(str(tmp_path), writes=True)
    model = build_model(small_spec())
    optimizer = make_optimizer(small_spec().training)
    optimizer.build(model.trainable_variables)
    for step in (0, 50, 60, 70):
        checkpoints.save(Progress(step=step), model, optimizer)
    event = DivergenceEvent("full", 3, 4, 4, 9.0, 1.0, (), 80, "lost")
    failed = Attempt(0, 80, "diverged", "diverged", (event,))

    def die(*args):
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "_delete", die)
        with pytest.raises(KilledError):
            checkpoints.go_back(Progress(step=80), failed, leave_out=True)
    newest = checkpoints.newest()
    assert (newest.step, newest.failed) == (0, (failed,))
    checkpoints.save(dataclasses.replace(newest, step=10), model, optimizer)
    assert checkpoints.newest().step == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{0:012d}", f"{10:012d}"]


@pytest.mark.slow
def test_attempt_without_a_batch_left_does_not_pass_for_a_healthy_one(train_files, tmp_path):
    """Two steps in all, both of them left out after they diverged."""
    spec = small_spec(
        "training.optimizer.name=adagrad",
        "training.learning_rate=1e30",
        "training.averaging=0",
        "training.epochs=10",
        "training.recovery=[{skip_batches: true}, {learning_rate: 1e-31}]",
    )
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"), writes=True)
    model = build_model(spec)
    optimizer = make_optimizer(spec.training)
    optimizer.build(model.trainable_variables)
    event = DivergenceEvent("full", 0, 1, 1, 9.0, 1.0, (), 1, "lost")
    failed = Attempt(0, 2, "diverged", "diverged", (event,))
    everything = Progress(left_out=((0, len(list(_batches(spec, train_files)))),), failed=(failed,))
    checkpoints.save(everything, model, optimizer)
    done = trained(spec, train_files, tmp_path)
    assert done.stability.verdict == "diverged"
    assert done.stability.attempts == (failed,)
    assert load_verdict(str(tmp_path / "stability")) == done.stability


@pytest.mark.slow
def test_training_that_diverges_past_the_ladder_says_so(train_files, tmp_path):
    spec = small_spec(
        "training.optimizer.name=adagrad",
        "training.learning_rate=1e6",
        "training.epochs=10",
        "training.recovery=[{learning_rate: 0.5}, {skip_batches: true}]",
    )
    done = trained(spec, train_files, tmp_path)
    assert done.stability.verdict == "diverged"
    assert len(done.stability.attempts) == 3
    steps = int(done.optimizer.iterations)
    assert steps < len(list(_batches(spec, train_files)))


@pytest.mark.slow
def test_training_that_diverges_is_tried_again_from_before_at_a_lower_rate(
    healed, train_files, tmp_path
):
    healed, folder = healed
    assert healed.stability.verdict == "recovered"
    report = folder / "stability"
    assert load_verdict(str(report)) == healed.stability
    # The attempt that failed is shown to the step at which it was given up.
    rows = pq.read_table(report / "statistics.parquet")
    failed = rows.filter(pa.compute.equal(rows["attempt"], 0))
    assert failed["step"].to_pylist() == list(range(healed.stability.attempts[0].steps))
    assert (report / "event.png").exists()
    tame = trained(
        small_spec(
            "training.optimizer.name=adagrad", "training.epochs=10", "training.learning_rate=0.1"
        ),
        train_files,
        tmp_path,
    )
    # It diverges before the first checkpoint, so it goes back to the start.
    _assert_same(_weights(tame.model), _weights(healed.model))


@pytest.mark.parametrize(
    ("steps", "step", "rate"), [(0, 0, 0.5), (4, 0, 0.125), (4, 3, 0.5), (4, 100, 0.5)]
)
def test_warm_up_is_linear(steps, step, rate):
    assert float(WarmUp(0.5, steps)(step)) == pytest.approx(rate)


def test_clippy_bounds_what_a_step_moves_and_leaves_embeddings_alone():
    spec = small_spec("training.learning_rate=10", "training.optimizer.absolute_threshold=0.01")
    optimizer = make_optimizer(spec.training)
    kernel = keras.Variable(np.ones((2, 2), np.float32), name="kernel")
    table = keras.Variable(np.ones((3, 2), np.float32), name="embeddings")
    optimizer.build([kernel, table])
    optimizer.apply([tf.ones((2, 2)), tf.ones((3, 2))], [kernel, table])
    assert np.abs(1 - np.asarray(kernel)).max() <= 0.51 + 1e-6
    assert np.abs(1 - np.asarray(table)).max() > 5


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_keeps_float32_weights_and_outputs(
    precision, request, train_files, tmp_path
):
    if precision == "float16":
        model = request.getfixturevalue("half").model
    else:
        model = _train(small_spec(f"training.mixed_precision={precision}"), train_files, tmp_path)
    assert {str(w.dtype) for w in model.trainable_weights} == {"float32"}
    assert all(np.isfinite(np.asarray(w)).all() for w in model.trainable_weights)
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_mirrored_training_over_two_devices_matches_one(tmp_path):
    # With masked labels a mean over replicas of their means is another one than over all.
    events = [{"rating": [2.0], **event} for event in make_events(400)]
    files = write_events(events, tmp_path)
    script = textwrap.dedent("""
        import pathlib, sys
        import numpy as np, tensorflow as tf
        cpus = tf.config.list_physical_devices("CPU")
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpus[0], two)
        here, folder, setting, *files = sys.argv[1:]
        sys.path.insert(0, here)
        from events import small_spec
        from trainings import trained
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        done = trained(small_spec(setting), files, pathlib.Path(folder), strategy=strategy)
        np.savez(folder + "/w.npz", *[np.asarray(w.value) for w in done.model.weights])
    """)
    setting, here = "training.batch_size=100", str(__file__).rpartition("/")[0]
    command = [sys.executable, "-c", script, here, str(tmp_path), setting, *files]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    one = _weights(_train(small_spec(setting), files, tmp_path / "one"))
    two = np.load(tmp_path / "w.npz").values()
    for weights, other in zip(one, two, strict=True):
        np.testing.assert_allclose(weights, other, rtol=2e-3, atol=2e-4)
