"""The input pipeline: encoded events, preprocessed, as batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from schemas.spec import RankingSpec
from trainer_module import signatures
from trainer_module.layers import PADDING
from trainer_module.preprocessing import preprocess, raw_feature_spec

_READERS = 8
_READ_AT_ONCE = 64
"""Records of a file that go through the pipeline as one element: each costs microseconds."""

Batch = tuple[dict[str, tf.Tensor], dict[str, tf.Tensor], dict[str, tf.Tensor]]
Parse = Callable[[tf.Tensor], Batch]
"""Makes a batch of encoded events, string [batch]."""


def training_batches(
    files: Sequence[str],
    spec: RankingSpec,
    *,
    parse: Parse | None = None,
    leave_out: Sequence[tuple[int, int]] = (),
    skip: int = 0,
    worker: int = 0,
    workers: int = 1,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Reads the training split for all epochs, in a random order fixed by the seed.

    Files are read several at a time in random order, and each `training.shuffle_events` of
    their records are shuffled; each epoch has an order of its own. The order does not depend
    on timing, so that a resumed training can skip what it has seen.

    Of several workers each reads files of its own, and the few that do not go round in equal
    shares with all the others. Each gives an equal part of every batch, until it has read its
    share: files are not equally long, and in the last few batches some parts may be missing.

    Args:
        files: gzipped TFRecords of encoded events (tf.Examples of `raw_feature_spec`).
        spec: the ranking spec.
        parse: `parser(spec)`, where several datasets are to share it; one is made if None.
        leave_out: ranges of batches, by number, that are left out; their ends are exclusive.
        skip: number of the batches then left to leave out at the beginning.
        worker: number of this worker.
        workers: number of all workers, of which each trains on an equal part of a batch.
        replicas: number of replicas of this worker, which share its part equally. With several
            replicas in all, a last part that is not full is dropped.

    Returns:
        Batches, or each replica's part of them, of (features, labels, label weights). Features
        by name: ids, int64 [batch, values], padded by `PADDING`; numbers, float32 [batch, 1].
        Labels and weights by task, float32 [batch, 1].
    """
    training = spec.training

    def one_pass(epoch: tf.Tensor) -> tf.data.Dataset:
        seed = tf.cast(tf.stack([training.seed, epoch]), tf.int64)
        return _shuffled(sorted(files), training.shuffle_events, seed, worker, workers)

    dataset = tf.data.Dataset.range(training.epochs).flat_map(one_pass)
    # The next records are read and shuffled while these are trained on.
    dataset = dataset.prefetch(1)
    part = training.batch_size // workers
    dataset = dataset.rebatch(part, drop_remainder=workers * replicas > 1)
    if leave_out:
        starts, ends = (
            tf.constant(leave_out, tf.int64)[:, 0],
            tf.constant(leave_out, tf.int64)[:, 1],
        )
        dataset = dataset.enumerate().filter(
            lambda number, _: tf.reduce_all((number < starts) | (number >= ends))
        )
        dataset = dataset.map(lambda _, records: records)
    dataset = dataset.skip(skip)
    if replicas > 1:
        dataset = dataset.map(lambda records: tf.reshape(records, [replicas, part // replicas]))
        dataset = dataset.unbatch()
    return dataset.map(parse or parser(spec), num_parallel_calls=tf.data.AUTOTUNE).prefetch(
        tf.data.AUTOTUNE
    )


def _shuffled(
    files: Sequence[str], at_once: int, seed: tf.Tensor, worker: int, workers: int
) -> tf.data.Dataset:
    """Reads a worker's share of the records once, in an order that depends on the seed, [2], alone.

    Whole tensors of records are shuffled: a shuffle buffer, which takes them one by one, and
    interleaving one by one cost more than parsing.

    Returns:
        Tensors of `at_once` records, string [records]; the last may have fewer.
    """
    shuffle = tf.random.experimental.stateless_shuffle
    fold_in = tf.random.experimental.stateless_fold_in
    whole = len(files) - len(files) % workers
    order = shuffle(tf.constant(files), seed)
    names = tf.concat([order[worker:whole:workers], order[whole:]], axis=0)
    readers = [1] * (whole // workers) + [workers] * (len(files) - whole)

    def read(file: tf.Tensor, readers: tf.Tensor) -> tf.data.Dataset:
        records = tf.data.TFRecordDataset(file, compression_type="GZIP")
        blocks = records.batch(_READ_AT_ONCE * readers)
        if workers == 1:
            return blocks
        return blocks.map(lambda block: block[worker % readers :: readers])

    dataset = tf.data.Dataset.from_tensor_slices((names, tf.constant(readers, tf.int64)))
    dataset = dataset.interleave(
        read, cycle_length=_READERS, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    dataset = dataset.rebatch(at_once).enumerate()
    return dataset.map(lambda number, records: shuffle(records, fold_in(seed, number)))


def parser(spec: RankingSpec) -> Parse:
    """Makes what parses and preprocesses a batch of encoded events, as `training_batches` does it.

    Preprocessing has nothing to learn from the data, so that no pass over it, and no copy of
    it, comes before the training. It is traced once, which takes most of a second, however many
    datasets use it.
    """

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def parse(records: tf.Tensor) -> Batch:
        values = preprocess(tf.io.parse_example(records, raw_feature_spec(spec)), spec)
        labels = {task: values[signatures.label_key(task)] for task in spec.tasks}
        weights = {task: values[signatures.weight_key(task)] for task in spec.tasks}
        return model_inputs(values, spec), labels, weights

    return parse


def model_inputs(transformed: Mapping[str, Any], spec: RankingSpec) -> dict[str, tf.Tensor]:
    """Picks the model's inputs from preprocessing's outputs and pads sparse ones."""
    features = {}
    for name in spec.inputs:
        value = transformed[name]
        if isinstance(value, tf.SparseTensor):
            value = tf.sparse.to_dense(value, default_value=PADDING)
        features[name] = value
    return features
