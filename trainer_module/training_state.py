"""Weights and optimizer slots that come with an exported model, to warm-start the next from."""

from __future__ import annotations

import os

import keras
import tensorflow as tf

_NAME = "state"


def save_state(model: keras.Model, optimizer: keras.optimizers.Optimizer, directory: str) -> None:
    """Saves the weights of a model and the optimizer's slots for a warm start."""
    tf.io.gfile.makedirs(directory)
    _checkpoint(model, optimizer).write(os.path.join(directory, _NAME))


def restore_state(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, directory: str
) -> None:
    """Restores what `save_state` wrote; the count of steps starts anew.

    The accumulators come along: an Adagrad that forgot them would take its first steps at
    the full learning rate on weights that are already good. The count of steps does not,
    so that the warm-up of the learning rate applies to each day.

    Args:
        model: of the same architecture.
        optimizer: built on the model's variables.
        directory: what was given to `save_state`.

    Raises:
        tf.errors.NotFoundError: nothing was saved there.
        AssertionError: the state is of another architecture.
    """
    status = _checkpoint(model, optimizer).read(os.path.join(directory, _NAME))
    status.assert_existing_objects_matched().expect_partial()
    optimizer.iterations.assign(0)


def _checkpoint(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(model=model, optimizer=optimizer)
