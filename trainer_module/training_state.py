"""Weights and optimizer slots on disk: checkpoints to resume from, states to warm-start from."""

from __future__ import annotations

import os

import keras
import tensorflow as tf

_NAME = "state"


def save_state(model: keras.Model, directory: str) -> None:
    """Saves the weights and the optimizer's slots of a compiled model for a warm start."""
    tf.io.gfile.makedirs(directory)
    _checkpoint(model).write(os.path.join(directory, _NAME))


def restore_state(model: keras.Model, directory: str) -> None:
    """Restores what `save_state` wrote; the count of steps starts anew.

    The accumulators come along: an Adagrad that forgot them would take its first steps at
    the full learning rate on weights that are already good. The count of steps does not,
    so that the warm-up of the learning rate applies to each day.

    Args:
        model: compiled, of the same architecture.
        directory: what was given to `save_state`.

    Raises:
        tf.errors.NotFoundError: nothing was saved there.
        AssertionError: the state is of another architecture.
    """
    model.optimizer.build(model.trainable_variables)
    status = _checkpoint(model).read(os.path.join(directory, _NAME))
    status.assert_existing_objects_matched().expect_partial()
    model.optimizer.iterations.assign(0)


class ResumableTraining(keras.callbacks.Callback):
    """Checkpoints while training, so that a killed training can go on where it was.

    Attributes:
        step: steps done, the restored ones included.
    """

    def __init__(self, model: keras.Model, directory: str, every_steps: int):
        """Restores the newest checkpoint, if there is one.

        Args:
            model: compiled.
            directory: folder of the checkpoints.
            every_steps: steps between checkpoints.
        """
        super().__init__()
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        model.optimizer.build(model.trainable_variables)
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model, optimizer=model.optimizer, step=self._step),
            directory,
            max_to_keep=2,
        )
        self._every_steps = every_steps
        self._manager.restore_or_initialize()
        self._start = int(self._step.numpy())
        self.step = self._start

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Saves when enough steps have gone by; `batch` is the last one done by the call."""
        self.step = self._start + batch + 1
        if self.step - int(self._step.numpy()) >= self._every_steps:
            self._step.assign(self.step)
            self._manager.save(checkpoint_number=self.step)


def _checkpoint(model: keras.Model) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(model=model, optimizer=model.optimizer)
