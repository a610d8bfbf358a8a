"""Weights and optimizer slots that come with an exported model, to warm-start the next from."""

from __future__ import annotations

import os

import keras
import numpy as np
import tensorflow as tf

from schemas.errors import TrainingError
from schemas.training import Accumulators, Training
from trainer_module.model import EMBEDDING

_NAME = "state"


def inner_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns the optimizer that steps the weights: the one that loss scaling is around."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def slots(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable | None = None
) -> list[keras.Variable]:
    """The slots of a variable, or of all; what the optimizer holds beside is of its last step."""
    inner = inner_optimizer(optimizer)
    of = "" if variable is None else variable.path.replace("/", "_")
    endings = tuple(f"/{of}_{name}" if of else f"_{name}" for name in inner.slot_names)
    return [slot for slot in inner.variables if slot.path.endswith(endings)]


def effective_rates(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, training: Training
) -> dict[str, float]:
    """Returns the step that a gradient of 1 would make in each trainable variable, unclipped.

    It is the median over the variable's weights of rate / sqrt(G + epsilon), where G is what the
    optimizer keeps of squared gradients: Adagrad's sum, Adam's mean. Adagrad's falls from day to
    day unless `training.accumulators` says otherwise.

    Args:
        model: the trained model.
        optimizer: of `make_optimizer`, with its slots.
        training: the settings of the last attempt.
    """
    rates = {}
    for variable in model.trainable_variables:
        embedding = variable.path.startswith(EMBEDDING)
        rate = training.embedding_rate if embedding else training.learning_rate
        squares = np.asarray(slots(optimizer, variable)[-1], np.float64)
        rates[variable.path] = float(
            np.median(rate / np.sqrt(squares + training.optimizer.epsilon))
        )
    return rates


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
    so that the warm-up of the learning rate applies to each day, and neither does the scale
    of the loss, so that precision may change from day to day.

    Args:
        model: of the same architecture.
        optimizer: built on the model's variables.
        directory: what was given to `save_state`.

    Raises:
        TrainingError: nothing was saved there, or the state is of another architecture.
    """
    try:
        status = _checkpoint(model, optimizer).read(os.path.join(directory, _NAME))
        status.assert_existing_objects_matched().expect_partial()
    except (tf.errors.OpError, AssertionError, ValueError) as error:
        raise TrainingError(
            f"{directory}: the served model's training state cannot be restored: {error}"
        ) from error
    inner_optimizer(optimizer).iterations.assign(0)


def age_accumulators(optimizer: keras.optimizers.Optimizer, settings: Accumulators) -> None:
    """Lets Adagrad forget a part of what it has summed up, before a warm start's first step.

    Each sum G of squared gradients becomes min(cap, max(start, decay * G)), with the
    optimizer's starting value. Carried for months, G only grows and the steps only shrink.

    Args:
        optimizer: a built `ClippedAdagrad`, or a `LossScaleOptimizer` around one.
        settings: `training.accumulators` of the spec.
    """
    if settings.decay == 1.0 and settings.cap is None:
        return
    adagrad = inner_optimizer(optimizer)
    for accumulator in adagrad.accumulators:
        aged = keras.ops.maximum(accumulator * settings.decay, adagrad.initial_accumulator_value)
        if settings.cap is not None:
            aged = keras.ops.minimum(aged, settings.cap)
        accumulator.assign(aged)


def _checkpoint(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(model=model, optimizer=inner_optimizer(optimizer))
