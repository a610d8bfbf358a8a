"""A model and its optimizer, trained step by step from one start after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from schemas.spec import RankingSpec, Training
from trainer_module.inputs import Batch
from trainer_module.model import build_model, initialise_from_data, losses
from trainer_module.training import make_optimizer
from trainer_module.training_state import restore_state

MakeOptimizer = Callable[[Training], keras.optimizers.Optimizer]


class Trainee:
    """What a run would train, in float32 whatever `training.mixed_precision`.

    Graphs are traced once, however many trainings are started.

    Attributes:
        spec: the ranking spec.
        model: the model, in the state of its latest step.
        optimizer: its optimizer.
    """

    def __init__(
        self,
        spec: RankingSpec,
        sample: Sequence[Batch],
        warm_start_from: str | None = None,
        make: MakeOptimizer = make_optimizer,
    ) -> None:
        """Makes the model and its optimizer.

        Args:
            spec: the ranking spec.
            sample: what a cold start takes normalisation and base rates from.
            warm_start_from: folder of a training state; None for cold starts.
            make: makes the optimizer.
        """
        self.spec = spec
        self.model = build_model(spec)
        self.optimizer = make(spec.training)
        self.optimizer.build(self.model.trainable_variables)
        self._losses = losses(spec)
        self._sample = sample
        self._warm = warm_start_from is not None
        if warm_start_from is not None:
            self.model.compile(optimizer=self.optimizer)
            restore_state(self.model, warm_start_from)
        self._variables = [*self.model.variables, *self.optimizer.variables]
        self._initial = [variable.numpy() for variable in self._variables]

    def start(self, seed: int) -> None:
        """Goes back to the start of a training.

        Args:
            seed: of a cold start's weights. A warm start has the same weights for every one.
        """
        for variable, value in zip(self._variables, self._initial, strict=True):
            variable.assign(value)
        if not self._warm:
            keras.utils.set_random_seed(seed)
            fresh = build_model(self.spec)
            self.model.set_weights(fresh.get_weights())
            initialise_from_data(self.model, self._sample, self.spec)

    def loss(self, batch: Batch, *, training: bool = False) -> tf.Tensor:
        """Returns the weighted sum of the tasks' losses on a batch, a scalar."""
        features, labels, weights = batch
        outputs = self.model(features, training=training)
        return tf.add_n(
            [
                task.loss_weight
                * self._losses[name](labels[name], outputs[name], sample_weight=weights[name])
                for name, task in self.spec.tasks.items()
            ]
        )

    @tf.function(reduce_retracing=True)
    def evaluate(self, batch: Batch) -> tf.Tensor:
        """Returns `loss`, compiled."""
        return self.loss(batch)

    @tf.function(reduce_retracing=True)
    def step(self, batch: Batch) -> tf.Tensor:
        """Takes one step; returns the loss before it."""
        with tf.GradientTape() as tape:
            loss = self.loss(batch, training=True)
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss


def in_order_of(seed: int, batches: Sequence[Batch], steps: int) -> list[Batch]:
    """Returns `steps` of the batches in an order of the seed's own, again where too few."""
    order = np.random.default_rng(seed).permutation(len(batches))
    return [batches[order[step % len(order)]] for step in range(steps)]
