"""Encoded events as batches in memory."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from schemas.errors import TrainingError
from schemas.spec import RankingSpec
from trainer_module import signatures
from trainer_module.inputs import Batch, model_inputs
from trainer_module.preprocessing import preprocess, raw_feature_spec


def event_batches(files: Sequence[str], spec: RankingSpec, count: int) -> list[Batch]:
    """Draws batches from encoded events, preprocessed as Transform does it.

    Preprocessing depends on no analysis of the data, so that none has to run first.

    Args:
        files: gzipped TFRecords of encoded events (tf.Examples of `raw_feature_spec`).
        spec: the ranking spec; its seed fixes the draw.
        count: how many batches of `training.batch_size`; events come again where there
            are too few.

    Returns:
        The batches, each as of `trainer_module.inputs.training_batches`.

    Raises:
        TrainingError: the files hold no events.
    """
    training = spec.training
    nothing = TrainingError("the training days' examples hold no events to measure the risk on")
    if not files:
        raise nothing

    def to_batch(records: tf.Tensor) -> Batch:
        values = preprocess(tf.io.parse_example(records, raw_feature_spec(spec)), spec)
        labels = {task: values[signatures.label_key(task)] for task in spec.tasks}
        weights = {task: values[signatures.weight_key(task)] for task in spec.tasks}
        return model_inputs(values, spec), labels, weights

    records = tf.data.TFRecordDataset(
        tf.random.experimental.stateless_shuffle(sorted(files), (training.seed, 0)),
        compression_type="GZIP",
    )
    buffer = max(1, min(training.shuffle_events, count * training.batch_size))
    records = records.shuffle(buffer, seed=training.seed, reshuffle_each_iteration=True).repeat()
    batches = list(records.batch(training.batch_size).map(to_batch).take(count))
    if len(batches) < count:
        raise nothing
    return batches
