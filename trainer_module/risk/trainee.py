"""A model and its optimizer, trained from one start after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from schemas.spec import RankingSpec
from schemas.training import Training
from trainer_module.inputs import Batch
from trainer_module.model import build_model, initialise_from_data
from trainer_module.risk.batches import batch_count, pick
from trainer_module.training import make_optimizer
from trainer_module.training_loop import TrainingLoop
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
        batches: Batch,
        warm_start_from: str | None = None,
        make: MakeOptimizer = make_optimizer,
    ) -> None:
        """Makes the model and its optimizer.

        Args:
            spec: the ranking spec.
            batches: what to train on, stacked; a cold start takes normalisation and base
                rates from them too.
            warm_start_from: folder of a training state; None for cold starts.
            make: makes the optimizer.

        Raises:
            TrainingError: the state to start from does not fit.
        """
        self.spec = spec
        self.model = build_model(spec)
        self.optimizer = make(spec.training.model_copy(update={"mixed_precision": "none"}))
        self.optimizer.build(self.model.trainable_variables)
        if warm_start_from is not None:
            restore_state(self.model, self.optimizer, warm_start_from)
        self._batches = batches
        self._warm = warm_start_from is not None
        self._loop = TrainingLoop(self.model, self.optimizer, spec, tf.distribute.get_strategy())
        self._variables = [*self.model.variables, *self.optimizer.variables]
        self._initial = [variable.numpy() for variable in self._variables]
        self._order = np.arange(batch_count(batches))
        self._feed = iter(self._in_order(self._order))

    def start(self, seed: int) -> None:
        """Goes back to the start of a training.

        Args:
            seed: of a cold start's weights, and of the order of the batches.
        """
        for variable, value in zip(self._variables, self._initial, strict=True):
            variable.assign(value)
        if not self._warm:
            keras.utils.set_random_seed(seed)
            self.model.set_weights(build_model(self.spec).get_weights())
            sample = (pick(self._batches, i) for i in range(batch_count(self._batches)))
            initialise_from_data(self.model, sample, self.spec)
        self._order = np.random.default_rng(seed).permutation(batch_count(self._batches))
        self._feed = iter(self._in_order(self._order).repeat())

    def train(self, steps: int) -> npt.NDArray[np.float32]:
        """Takes steps; returns the loss before each of them, [steps]."""
        return self._loop.run(self._feed, steps, 0).loss

    def loss(self, batch: Batch) -> tf.Tensor:
        """Returns the loss that is trained on, of a batch, a scalar; no dropout."""
        return self._loop.loss(batch)

    @tf.function(autograph=False)
    def evaluate(self, batch: Batch) -> tf.Tensor:
        """Returns `loss`, compiled."""
        return self.loss(batch)

    def batches_of(self, steps: Iterable[int]) -> Batch:
        """Returns the batches of these steps of the training, stacked."""
        return pick(self._batches, [self._order[step % len(self._order)] for step in steps])

    def _in_order(self, order: npt.NDArray[np.int64]) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(order).map(lambda i: pick(self._batches, i))
