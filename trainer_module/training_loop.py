"""The loop over training steps, in the graph, with statistics of every step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask
from trainer_module.averaging import WeightAverage
from trainer_module.inputs import Batch
from trainer_module.model import label_deviations
from trainer_module.optimizers import STATISTICS
from trainer_module.stability.statistics import StepStatistics
from trainer_module.stability.streaming_auc import BINS, LOGIT_RANGE, StreamingAUC
from trainer_module.training_state import inner_optimizer


class TrainingLoop:
    """Trains a model, many steps a call.

    A loop of its own, because Keras's `fit` cannot train on several machines (3.12: it fails
    under MultiWorkerMirroredStrategy), takes the mean over replicas of their means where
    labels are masked, and shows Python no more of a step than its mean loss.

    Attributes:
        tasks: names of the tasks, in the order of the statistics.
        binary_tasks: names of the binary ones.
        layers: paths of the trainable variables.
        auc: the fading window of which the statistics tell the AUC.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        spec: RankingSpec,
        strategy: tf.distribute.Strategy,
        average: WeightAverage | None = None,
    ):
        """Makes the loop.

        Args:
            model: of `build_model`.
            optimizer: built on the model's variables; a `ClippedOptimizer` that exports
                statistics, or a `LossScaleOptimizer` around one.
            spec: the ranking spec.
            strategy: how a step is spread over replicas.
            average: told of every step.
        """
        self._model = model
        self._optimizer = optimizer
        self._clipped = inner_optimizer(optimizer)
        self._strategy = strategy
        self._average = average
        self.binary_tasks = [n for n, task in spec.tasks.items() if isinstance(task, BinaryTask)]
        # Binary tasks first, so that each kind is one tensor.
        self.tasks = [*self.binary_tasks, *(n for n in spec.tasks if n not in self.binary_tasks)]
        self._weights = np.array([spec.tasks[n].loss_weight for n in self.tasks], np.float32)
        by_task = label_deviations(model, spec)
        self._deviations = [by_task[name] for name in self.tasks[len(self.binary_tasks) :]]
        self.layers = [variable.path for variable in model.trainable_variables]
        self.auc = StreamingAUC(len(self.binary_tasks), spec.training.batch_size)
        # AutoGraph would convert Keras's layers and the optimizer, too: seconds each training.
        self._run = tf.function(self._steps, autograph=False)
        self._segments = tf.function(_segments, autograph=False, jit_compile=True)

    def run(self, batches: Iterator[Any], steps: int, first_step: int) -> StepStatistics:
        """Trains on the next batches.

        Args:
            batches: of `batches_of_replicas`.
            steps: largest number of steps to take.
            first_step: number of the first of them, for the statistics.

        Returns:
            Their statistics; of fewer steps than asked for if the batches come to an end.
        """
        done, *columns = (value.numpy() for value in self._run(batches, tf.constant(steps)))
        losses, layers, counts = (column[:done] for column in columns)
        by_layer = dict(zip(STATISTICS, np.moveaxis(layers, 2, 0), strict=True))
        by_layer["skipped"] = by_layer["skipped"] > 0
        return StepStatistics(
            first_step=first_step,
            tasks=tuple(self.tasks),
            binary_tasks=tuple(self.binary_tasks),
            layers=tuple(self.layers),
            loss=losses[:, -1],
            task_loss=losses[:, :-1],
            auc=self.auc.update(counts),
            **by_layer,
        )

    def loss(self, batch: Batch) -> tf.Tensor:
        """Returns the loss of a batch on one replica, a scalar, without dropout or a step."""
        features, y, w = self._columns_of(batch)
        outputs = _columns(self._model(features, training=False), self.tasks)
        return self._losses(outputs, y, w)[0]

    def _steps(self, batches: Any, steps: tf.Tensor) -> tuple[tf.Tensor, ...]:
        def more(done: tf.Tensor, left: tf.Tensor, *_: tf.TensorArray) -> tf.Tensor:
            return left & (done < steps)

        def step(done: tf.Tensor, _: tf.Tensor, *columns: tf.TensorArray) -> tuple[Any, ...]:
            batch = batches.get_next_as_optional()

            def take() -> tuple[Any, ...]:
                of_replicas = self._strategy.run(self._step, args=(batch.get_value(),))
                values = (
                    self._strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
                    for value in of_replicas
                )
                written = [c.write(done, v) for c, v in zip(columns, values, strict=True)]
                if self._average is not None:
                    self._average.after_step()
                return (done + 1, tf.constant(True), *written)

            return tf.cond(batch.has_value(), take, lambda: (done, tf.constant(False), *columns))

        shapes = (
            [len(self.tasks) + 1],
            [len(self.layers), len(STATISTICS)],
            [len(self.binary_tasks) * 2 * BINS],
        )
        columns = [tf.TensorArray(tf.float32, steps, element_shape=shape) for shape in shapes]
        start = (tf.constant(0), tf.constant(True), *columns)
        done, _, *columns = tf.while_loop(more, step, start, parallel_iterations=1)
        return (done, *(column.stack() for column in columns))

    def _step(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """One replica's part of a step; what it returns is to be summed over replicas."""
        features, y, w = self._columns_of(batch)
        with tf.GradientTape() as tape:
            outputs = _columns(self._model(features, training=True), self.tasks)
            loss, task_loss = self._losses(outputs, y, w)
            scaled = self._optimizer.scale_loss(loss)
        variables = self._model.trainable_variables
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        steps_before = tf.identity(self._clipped.iterations)
        self._optimizer.apply(gradients, variables)
        # Alike on all replicas.
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        split = len(self.binary_tasks)
        segments = self._segments(outputs[:, :split], y[:, :split])
        statistics = self._layer_statistics(steps_before)
        losses = tf.concat([task_loss, [loss]], axis=0)
        return losses, statistics / replicas, _count(segments, w[:, :split])

    def _layer_statistics(self, steps_before: tf.Tensor) -> tf.Tensor:
        """The optimizer's, float32 [layers, statistics]; or that there was no step.

        Loss scaling takes none while the scale is too large for the gradients. That is no
        layer's fault as long as there is a scale to lower.
        """
        statistics = tf.convert_to_tensor(self._clipped.statistics)
        if self._optimizer is self._clipped:
            return statistics
        none = dict.fromkeys(STATISTICS, tf.constant(0.0))
        none["gradient_norm"] = tf.constant(np.nan, tf.float32)
        none["skipped"] = tf.cast(self._optimizer.dynamic_scale < 1.0, tf.float32)
        taken = self._clipped.iterations > steps_before
        return tf.where(taken, statistics, tf.stack([none[name] for name in STATISTICS]))

    def _columns_of(self, batch: Batch) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """Features, and labels and weights by task."""
        features, labels, weights = batch
        return features, _columns(labels, self.tasks), _columns(weights, self.tasks)

    def _losses(
        self, outputs: tf.Tensor, y: tf.Tensor, w: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One replica's part of the loss, and of each task's.

        Log loss on logits, or squared error in units of the label's deviation at the cold
        start. A task's is the mean over its labelled events. In the loss, which is trained on, each
        event counts the same, whichever labels it has: were a task's few labels in a batch given
        the weight of all of its events, they would shake what the tasks share.
        """
        replicas = tf.distribute.get_replica_context()
        counts = tf.concat([tf.reduce_sum(w, axis=0), [tf.cast(tf.shape(w)[0], w.dtype)]], axis=0)
        counts = replicas.all_reduce(tf.distribute.ReduceOp.SUM, counts)
        labelled, events = counts[:-1], counts[-1]
        split = len(self.binary_tasks)
        errors = [
            tf.nn.sigmoid_cross_entropy_with_logits(y[:, :split], outputs[:, :split]),
            tf.square(outputs[:, split:] - y[:, split:]),
        ]
        if self._deviations:
            errors[1] /= tf.square(tf.stack([tf.convert_to_tensor(d) for d in self._deviations]))
        sums = tf.reduce_sum(tf.concat(errors, axis=1) * w, axis=0)
        task_loss = tf.math.divide_no_nan(sums, labelled)
        return tf.tensordot(sums / events, self._weights, axes=1), task_loss


def _columns(by_task: Any, tasks: list[str]) -> tf.Tensor:
    return tf.concat([by_task[name] for name in tasks], axis=1)


def _segments(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Numbers, for each prediction, its task, class and bin of the logit, int32 like `logits`."""
    finite = tf.where(tf.math.is_finite(logits), logits, tf.zeros_like(logits))
    place = (tf.clip_by_value(finite, -LOGIT_RANGE, LOGIT_RANGE) / LOGIT_RANGE + 1.0) / 2.0
    bins = tf.minimum(tf.cast(place * BINS, tf.int32), BINS - 1)
    rows = 2 * tf.range(logits.shape[1]) + tf.cast(labels > 0.5, tf.int32)
    return rows * BINS + bins


def _count(segments: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Sums weights by segment; see `StreamingAUC.update`. XLA's scatter would take far longer."""
    return tf.math.unsorted_segment_sum(weights, segments, segments.shape[1] * 2 * BINS)
