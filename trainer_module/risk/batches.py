"""Encoded events as batches in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from schemas.errors import TrainingError
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask
from trainer_module.inputs import Batch, parser
from trainer_module.layers import PADDING


def event_batches(files: Sequence[str], spec: RankingSpec, count: int) -> Batch:
    """Draws batches from encoded events.

    Args:
        files: gzipped TFRecords of encoded events (tf.Examples of `raw_feature_spec`).
        spec: the ranking spec; its seed fixes the draw.
        count: how many batches of `training.batch_size`; events come again where there
            are too few.

    Returns:
        The batches, stacked: tensors [count, batch, values], otherwise as of
        `trainer_module.inputs.training_batches`.

    Raises:
        TrainingError: the files hold no events.
    """
    training = spec.training
    nothing = TrainingError("the training days' examples hold no events to measure the risk on")
    if not files:
        raise nothing

    records = tf.data.TFRecordDataset(
        tf.random.experimental.stateless_shuffle(sorted(files), (training.seed, 0)),
        compression_type="GZIP",
    )
    buffer = max(1, min(training.shuffle_events, count * training.batch_size))
    records = records.shuffle(buffer, seed=training.seed, reshuffle_each_iteration=True).repeat()
    batches = records.batch(training.batch_size).map(parser(spec)).take(count)
    # Only ids come in rows of varying length.
    padding = tf.nest.map_structure(
        lambda part: tf.constant(PADDING if part.dtype.is_integer else 0, part.dtype),
        batches.element_spec,
    )
    for stacked in batches.padded_batch(count, padding_values=padding):
        return stacked
    raise nothing


def batch_count(batches: Batch) -> int:
    """Returns how many batches are stacked."""
    return int(next(iter(batches[1].values())).shape[0])


def pick(batches: Batch, which: int | Sequence[int] | tf.Tensor) -> Batch:
    """Returns one of stacked batches, or for several numbers these, stacked."""
    picked: Batch = tf.nest.map_structure(lambda part: tf.gather(part, which), batches)
    return picked


def best_constant_loss(batches: Batch, spec: RankingSpec, deviations: Mapping[str, float]) -> float:
    """Returns the loss on stacked batches of the best prediction that is the same for all.

    It is what a model reaches that knows each task's base rate and nothing else: the entropy
    of a binary task's labels, a regression's variance, summed with the tasks' weights.

    Args:
        batches: stacked.
        spec: the ranking spec.
        deviations: of each regression's labels, which its errors are measured in.
    """
    _, labels, weights = batches
    total = 0.0
    for name, task in spec.tasks.items():
        label = np.asarray(labels[name], np.float64).ravel()
        weight = np.asarray(weights[name], np.float64).ravel()
        if not weight.sum():
            continue
        mean = np.average(label, weights=weight)
        if isinstance(task, BinaryTask):
            shares = np.array([mean, 1.0 - mean])
            loss = -float(np.sum(shares * np.log(np.where(shares > 0, shares, 1.0))))
        else:
            loss = float(np.average(np.square(label - mean), weights=weight))
            loss /= float(deviations[name]) ** 2
        total += task.loss_weight * loss * weight.mean()
    return total
