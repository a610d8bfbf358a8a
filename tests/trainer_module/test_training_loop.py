import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from events import SPEC, make_events, tiny_spec, write_events
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from benchmarks.train import keras_losses
from schemas.loading import parse_spec
from trainer_module.distribution import batches_of_replicas
from trainer_module.inputs import training_batches
from trainer_module.model import build_model, initialise_from_data
from trainer_module.stability.detection import Detector
from trainer_module.stability.streaming_auc import BINS, LOGIT_RANGE, StreamingAUC
from trainer_module.training import make_optimizer
from trainer_module.training_loop import TrainingLoop, _count, _segments

STRATEGY = tf.distribute.get_strategy()


def parts(spec):
    keras.utils.set_random_seed(spec.training.seed)
    model = build_model(spec)
    optimizer = make_optimizer(spec.training)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def read(files, spec):
    # Each iteration over one dataset has an order of its own.
    return training_batches(files, spec)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    # One task has labels in some of the events, and none in some of the batches.
    return write_events(make_events(300), tmp_path_factory.mktemp("train"))


@pytest.mark.slow
def test_loop_takes_the_steps_and_losses_of_keras_fit(files):
    spec = tiny_spec("training.batch_size=16", "tasks.watch.loss_weight=0.3")

    model, optimizer = parts(spec)
    loop = TrainingLoop(model, optimizer, spec, STRATEGY)
    batches = batches_of_replicas(STRATEGY, lambda **kwargs: read(files, spec))
    chunks = []
    while not chunks or len(chunks[-1]) == 4:
        chunks.append(loop.run(batches, 4, sum(map(len, chunks))))

    reference, optimizer = parts(spec)
    reference.compile(
        optimizer=optimizer,
        loss=keras_losses(spec),
        loss_weights={name: task.loss_weight for name, task in spec.tasks.items()},
    )
    expected = []
    for batch in read(files, spec):
        reference.reset_metrics()  # Keras 3.12 tells the mean over the events so far.
        expected.append(reference.train_on_batch(*batch, return_dict=True)["loss"])
    loss = np.concatenate([chunk.loss for chunk in chunks])
    np.testing.assert_allclose(loss, expected, rtol=1e-3)
    for one, other in zip(model.weights, reference.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_regression_learns_alike_in_whatever_unit_its_label_is(files):
    """In a unit a thousand times smaller: the same losses, and predictions in that unit."""
    spec = tiny_spec("training.batch_size=32")

    def trained(factor):
        model, optimizer = parts(spec)
        batches = [
            (features, {**labels, "watch": labels["watch"] * factor}, weights)
            for features, labels, weights in read(files, spec)
        ]
        initialise_from_data(model, batches, spec)
        loop = TrainingLoop(model, optimizer, spec, STRATEGY)
        feed = batches_of_replicas(
            STRATEGY, lambda **kwargs: tf.data.experimental.from_list(batches[:-1])
        )
        loss = loop.run(feed, 6, 0).task_loss
        return loss, np.asarray(model(batches[0][0])["watch"])

    (loss, watch), (scaled_loss, scaled_watch) = trained(1.0), trained(1000.0)
    np.testing.assert_allclose(scaled_loss, loss, rtol=2e-3)
    np.testing.assert_allclose(scaled_watch, 1000.0 * watch, rtol=5e-3)


@pytest.mark.slow
def test_statistics_are_those_of_each_step(files):
    spec = tiny_spec("training.batch_size=32", "training.learning_rate=2.0")
    model, optimizer = parts(spec)
    loop = TrainingLoop(model, optimizer, spec, STRATEGY)
    batches = batches_of_replicas(STRATEGY, lambda **kwargs: read(files, spec))
    first = next(iter(read(files, spec)))
    before = [v.numpy() for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        outputs = model(first[0], training=True)
        by_task = {
            name: loss(first[1][name], outputs[name], sample_weight=first[2][name])
            for name, loss in keras_losses(spec).items()
        }
        total = tf.add_n([spec.tasks[name].loss_weight * loss for name, loss in by_task.items()])
    gradients = tape.gradient(total, [v.value for v in model.trainable_variables])
    step = loop.run(batches, 1, 0)
    assert step.layers == tuple(v.path for v in model.trainable_variables)
    assert step.loss[0] == pytest.approx(float(total), rel=1e-5)
    for task, value in zip(step.tasks, step.task_loss[0], strict=True):
        labelled = float(tf.reduce_mean(first[2][task]))
        assert value == pytest.approx(float(by_task[task]) / labelled, rel=1e-5)
    norms = [np.linalg.norm(tf.convert_to_tensor(g)) for g in gradients]
    np.testing.assert_allclose(step.gradient_norm[0], norms, rtol=1e-4)
    moved = [
        np.linalg.norm(b - v.numpy())
        for b, v in zip(before, model.trainable_variables, strict=True)
    ]
    np.testing.assert_allclose(step.update_norm[0], moved, rtol=1e-4, atol=1e-6)
    assert step.sigma_min[0].min() < 1.0
    assert not step.skipped.any()


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "skipped"), [(3e38, False), (0.5, True)])
def test_steps_that_loss_scaling_does_not_take_say_so(scale, skipped, files):
    spec = tiny_spec("training.mixed_precision=float16")
    model, optimizer = parts(spec)
    if skipped:  # the scale cannot help
        model.get_layer("head-click").bias.assign([np.nan])
    loop = TrainingLoop(model, optimizer, spec, STRATEGY)
    batches = batches_of_replicas(STRATEGY, lambda **kwargs: read(files, spec))
    loop.run(batches, 1, 0)
    optimizer.dynamic_scale.assign(scale)
    statistics = loop.run(batches, 2, 1)
    assert np.isnan(statistics.gradient_norm).all()
    np.testing.assert_array_equal(statistics.update_norm, 0.0)
    np.testing.assert_array_equal(statistics.sigma_min, 0.0)
    assert statistics.skipped.all() == statistics.skipped.any() == skipped


@pytest.mark.parametrize(("task", "aucs"), [("click", 1), ("watch", 0)])
def test_tasks_of_one_kind_alone(task, aucs, tmp_path):
    content = yaml.safe_load(SPEC)
    content["tasks"] = {task: content["tasks"][task]}
    content["serving"]["score"] = task
    spec = parse_spec(yaml.safe_dump(content), "one kind")
    files = write_events(make_events(200), tmp_path)
    model, optimizer = parts(spec)
    loop = TrainingLoop(model, optimizer, spec, STRATEGY)
    batches = batches_of_replicas(STRATEGY, lambda **kwargs: read(files, spec))
    statistics = loop.run(batches, 4, 0)
    detector = Detector(loop.tasks, loop.binary_tasks, loop.layers)
    detector.update(statistics)
    assert statistics.auc.shape == (4, aucs)
    np.testing.assert_array_equal(statistics.task_loss[:, 0], statistics.loss)
    assert np.isfinite(statistics.loss).all()
    assert detector.healthy


def histogram(logits, labels, weights):
    return _count(_segments(logits, labels), weights)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_streaming_auc_is_the_auc_of_the_faded_window_however_it_is_cut(seed, cuts):
    rng = np.random.default_rng(seed)
    steps, batch, window = sum(cuts), 40, 100.0
    width = 2 * LOGIT_RANGE / BINS
    # In the middle of bins, so that binning loses nothing.
    logits = (rng.integers(-8, 8, (steps, batch, 1)) + 0.5) * width
    labels = (rng.random((steps, batch, 1)) < 0.4).astype("f4")
    weights = rng.integers(0, 3, (steps, batch, 1)).astype("f4")
    counts = np.stack(
        [
            histogram(*(tf.constant(x[step], tf.float32) for x in (logits, labels, weights)))
            for step in range(steps)
        ]
    )
    least = 3.0
    auc = StreamingAUC(1, batch, window, least)
    got = np.concatenate([auc.update(chunk) for chunk in np.split(counts, np.cumsum(cuts)[:-1])])
    for step in range(steps):
        fading = np.exp(-batch / window * np.arange(step, -1, -1))[:, None, None]
        faded = (weights[: step + 1] * fading).ravel()
        y = labels[: step + 1].ravel()
        if min((faded * y).sum(), (faded * (1 - y)).sum()) < least:
            assert np.isnan(got[step, 0])
            continue
        expected = roc_auc_score(y, logits[: step + 1].ravel(), sample_weight=faded)
        assert got[step, 0] == pytest.approx(expected, abs=1e-4)


def test_streaming_auc_takes_any_logit():
    logits = tf.constant([[np.nan], [np.inf], [-np.inf], [1e30], [-1e30]], tf.float32)
    counts = histogram(logits, tf.ones((5, 1)), tf.ones((5, 1)))
    assert float(tf.reduce_sum(counts)) == 5.0
