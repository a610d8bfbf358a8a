"""Replicas: on one device, on a machine's GPUs, or on several machines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from schemas.errors import TrainingError
from schemas.training import Training


def make_strategy(training: Training) -> tf.distribute.Strategy:
    """Makes the tf.distribute strategy that `training.distribution` names.

    Raises:
        TrainingError: `multi_worker` without a `TF_CONFIG` that names the workers, or a batch
            that the replicas cannot share evenly.
    """
    if training.distribution == "none":
        return tf.distribute.get_strategy()
    if training.distribution == "mirrored":
        strategy: tf.distribute.Strategy = tf.distribute.MirroredStrategy()
    else:
        number_of_workers(training)
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    replicas = strategy.num_replicas_in_sync
    if training.batch_size % replicas:
        raise TrainingError(
            f"training.batch_size: {training.batch_size} is not a multiple of the {replicas} "
            "replicas"
        )
    return strategy


def number_of_workers(training: Training) -> int:
    """Number of the processes that train together, the chief among them.

    Raises:
        TrainingError: `multi_worker` without a `TF_CONFIG` that names the workers.
    """
    if training.distribution != "multi_worker":
        return 1
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster")
    except (ValueError, AttributeError):
        cluster = None
    if not cluster:
        raise TrainingError(
            "training.distribution: multi_worker needs the environment variable TF_CONFIG "
            "with the cluster's workers and this one's place among them"
        )
    return sum(len(cluster.get(job, ())) for job in ("chief", "worker"))


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes: snapshots, reports, the exported model."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    if "chief" in resolver.cluster_spec().jobs:
        return bool(resolver.task_type == "chief")
    return bool(resolver.task_type == "worker" and resolver.task_id == 0)


def batches_of_replicas(
    strategy: tf.distribute.Strategy, make_batches: Callable[..., tf.data.Dataset]
) -> Iterator[Any]:
    """Gives each replica its part of each batch.

    Args:
        strategy: of `make_strategy`.
        make_batches: called with `worker`, `workers` and `replicas`, which say what part of each
            batch this process gives its replicas; see `inputs.training_batches`.

    Returns:
        An iterator for the strategy's `run`.
    """

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        workers = context.num_input_pipelines
        return make_batches(
            worker=context.input_pipeline_id,
            workers=workers,
            replicas=context.num_replicas_in_sync // workers,
        )

    return iter(strategy.distribute_datasets_from_function(of_worker))


def barrier(strategy: tf.distribute.Strategy) -> None:
    """Waits until every process of the strategy has come here."""
    if strategy.num_replicas_in_sync > 1:
        ones = strategy.run(tf.function(lambda: tf.constant(1.0)))
        strategy.reduce(tf.distribute.ReduceOp.SUM, ones, axis=None)
