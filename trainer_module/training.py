"""Training a ranker: optimizer, distribution, loop."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from schemas.errors import TrainingError
from schemas.spec import RankingSpec, Training
from trainer_module.inputs import training_batches
from trainer_module.model import build_model, initialise_from_data, losses
from trainer_module.optimizers import ClippedAdagrad, Clippy
from trainer_module.training_state import ResumableTraining, restore_state

_logger = logging.getLogger(__name__)

_COLD_START_SAMPLE = 200_000
"""Events that normalisation and base rates are estimated from."""


@keras.saving.register_keras_serializable("steadyrank")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly to `peak` over the first `steps`, then stays."""

    def __init__(self, peak: float, steps: int):
        """Makes the schedule; `steps` of 0 is a constant learning rate."""
        self.peak = peak
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of the step numbered `step`, from 0."""
        if not self.steps:
            return self.peak
        done = (keras.ops.cast(step, "float32") + 1.0) / self.steps
        return self.peak * keras.ops.minimum(done, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"peak": self.peak, "steps": self.steps}


def make_optimizer(training: Training) -> keras.optimizers.Optimizer:
    """Makes the optimizer: Adagrad, with Clippy on all but the embeddings if asked for."""
    settings = training.optimizer
    rule = None
    if settings.name == "clippy_adagrad":
        rule = Clippy(settings.relative_threshold, settings.absolute_threshold)
    embedding_rate = None
    if training.embedding_learning_rate is not None:
        embedding_rate = WarmUp(training.embedding_learning_rate, training.warmup_steps)
    return ClippedAdagrad(
        WarmUp(training.learning_rate, training.warmup_steps),
        rule=rule,
        excluded_learning_rate=embedding_rate,
        initial_accumulator_value=settings.initial_accumulator,
        epsilon=settings.epsilon,
        accumulator_update="delayed" if settings.delayed_accumulator else "standard",
    )


@contextlib.contextmanager
def _policy(training: Training) -> Iterator[None]:
    before = keras.config.dtype_policy()
    if training.mixed_precision != "none":
        keras.config.set_dtype_policy(f"mixed_{training.mixed_precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def make_strategy(training: Training) -> tf.distribute.Strategy:
    """Makes the tf.distribute strategy that `training.distribution` names."""
    if training.distribution == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def train(
    spec: RankingSpec,
    files: Sequence[str],
    feature_spec: Mapping[str, Any],
    *,
    strategy: tf.distribute.Strategy,
    warm_start_from: str | None,
    checkpoint_dir: str,
    tensorboard_dir: str,
) -> keras.Model:
    """Trains a ranker on one run's data; a killed call goes on where it was when called again.

    Args:
        spec: the ranking spec.
        files: gzipped TFRecords of transformed tf.Examples.
        feature_spec: their parsing spec.
        strategy: of `make_strategy`.
        warm_start_from: folder of a training state; None for a cold start.
        checkpoint_dir: folder for checkpoints; one that holds some is resumed from.
        tensorboard_dir: folder for TensorBoard scalars.

    Returns:
        The trained model, compiled, whether it diverged or not: that is for the gate to say.

    Raises:
        TrainingError: there are no files, or the state to start from does not fit.
    """
    if not files:
        raise TrainingError("there are no transformed examples to train on")
    training = spec.training
    keras.utils.set_random_seed(training.seed)
    # On several replicas the conditional that ends Keras's loop over steps cannot be placed
    # (Keras 3.12 on TensorFlow 2.16, with Keras's own optimizers too).
    alone = strategy.num_replicas_in_sync == 1
    steps_per_execution = training.steps_per_execution if alone else 1
    batches = training_batches(files, feature_spec, spec)
    with _policy(training), strategy.scope():
        model = build_model(spec)
        model.compile(
            optimizer=make_optimizer(training),
            loss=losses(spec),
            loss_weights={name: task.loss_weight for name, task in spec.tasks.items()},
            steps_per_execution=steps_per_execution,
            # Ids come in rows of varying length; XLA would compile for each length anew.
            jit_compile=False,
        )
        if warm_start_from is None:
            sample = batches.take(max(1, _COLD_START_SAMPLE // training.batch_size))
            initialise_from_data(model, sample.as_numpy_iterator(), spec)
        else:
            _warm_start(model, warm_start_from)
        resume = ResumableTraining(model, checkpoint_dir, training.checkpoint_steps)
    if resume.step:
        _logger.info("resuming after %d steps", resume.step)
    model.fit(
        batches.skip(resume.step),
        callbacks=[
            resume,
            keras.callbacks.TensorBoard(
                tensorboard_dir, write_graph=False, update_freq=training.steps_per_execution
            ),
        ],
        verbose=2,
    )
    return model


def _warm_start(model: keras.Model, directory: str) -> None:
    try:
        restore_state(model, directory)
    except (tf.errors.NotFoundError, AssertionError, ValueError) as error:
        raise TrainingError(
            f"{directory}: the served model's training state cannot be restored: {error}"
        ) from error
