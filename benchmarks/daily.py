"""Day after day in memory: the project's own model, optimizer and loop, without TFX.

A cold start on the window's days, then a warm start on each day that follows, every model
held against the day after. The events have been through the project's preprocessing.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from benchmarks.simulated import transformed
from pipeline.simulate import Shape, simulate_days
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask, Task
from trainer_module import signatures
from trainer_module.averaging import WeightAverage
from trainer_module.distribution import make_strategy
from trainer_module.inputs import Batch
from trainer_module.model import build_model, initialise_from_data
from trainer_module.training import make_average, make_optimizer
from trainer_module.training_loop import TrainingLoop
from trainer_module.training_state import inner_optimizer

START = datetime.date(2026, 1, 5)
_SAMPLE = 200_000
_EVALUATED_AT_ONCE = 8192

Columns = dict[str, npt.NDArray[Any]]
"""Transformed events by feature, label and weight, [events, values]; `day` numbers each one's."""


def metric(task: Task, label: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> float:
    """Returns the AUC of a binary task or the RMSE of a regression over labelled events.

    Args:
        task: the task.
        label: [events], in the space of the loss; NaN where there is none.
        prediction: [events].
    """
    labelled = np.isfinite(label)
    label, prediction = label[labelled], prediction[labelled]
    if not isinstance(task, BinaryTask):
        return float(np.sqrt(np.mean(np.square(label - prediction))))
    _, places, counts = np.unique(prediction, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[places]
    positives = label.sum()
    negatives = len(label) - positives
    if not positives or not negatives:
        return float("nan")
    excess = ranks[label == 1].sum() - positives * (positives + 1) / 2
    return float(excess / (positives * negatives))


def simulated(
    spec: RankingSpec, shape: Shape, days: int, rows: int, seed: int
) -> tuple[Columns, list[dict[str, float]]]:
    """Returns a world's events, and by day what no model exceeds: each task's AUC or RMSE."""
    parts, best = [], []
    for number, day in enumerate(simulate_days(START, days, rows, seed, shape)):
        part = {n: _smallest(column) for n, column in transformed(day.columns, spec).items()}
        part["day"] = np.full(day.columns.num_rows, number, np.int16)
        best.append(
            {
                name: metric(task, label_of(part, name, slice(None)), day.best[task.label])
                for name, task in spec.tasks.items()
            }
        )
        parts.append(part)
    # A column at a time: a large world fits into memory once, and not twice.
    columns = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
    return columns, best


def _smallest(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns the values as int8 or int16 where nothing is lost: most columns are flags."""
    for dtype in (np.int8, np.int16):
        small = column.astype(dtype)
        if np.array_equal(small, column):
            return small
    return column


def label_of(
    columns: Columns, task: str, rows: npt.NDArray[Any] | slice
) -> npt.NDArray[np.float64]:
    """Returns a task's labels, NaN where there is none."""
    label = columns[signatures.label_key(task)][rows, 0].astype(np.float64)
    return np.where(columns[signatures.weight_key(task)][rows, 0] > 0, label, np.nan)


class Ranker:
    """A model on its way from day to day.

    Args:
        spec: the ranking spec; its `auto` settings are fitted to the days it is given.
        columns: the events.
        seed: of weights and order.
    """

    def __init__(self, spec: RankingSpec, columns: Columns, seed: int) -> None:
        self._spec = spec
        self._columns = columns
        self._seed = seed
        self._model: keras.Model | None = None
        self._optimizer: keras.optimizers.Optimizer | None = None
        self._average: WeightAverage | None = None
        self._loop: TrainingLoop | None = None
        self._batch_size = 0
        self._rng = np.random.default_rng(seed)

    def train(self, days: Sequence[int], replay: Sequence[int] = ()) -> int:
        """Trains on these days and on the replay share of others; returns the number of steps."""
        warm = self._model is not None
        counts = np.bincount(self._columns["day"])
        spec = self._spec.fitted(float(np.mean(counts[[*days, *replay]])), warm)
        training = spec.training
        rows = np.flatnonzero(np.isin(self._columns["day"], list(days)))
        for day in replay:
            old = np.flatnonzero(self._columns["day"] == day)
            some = round(training.replay_share * len(old))
            rows = np.append(rows, self._rng.choice(old, some, replace=False))
        if self._model is None:
            keras.utils.set_random_seed(self._seed)
            self._model = build_model(spec)
            self._optimizer = make_optimizer(training)
            self._optimizer.build(self._model.trainable_variables)
            sample = self._rng.permutation(rows)[:_SAMPLE]
            initialise_from_data(self._model, [self._batch(sample)], spec)
        inner_optimizer(self._optimizer).iterations.assign(0)
        order = np.concatenate([self._rng.permutation(rows) for _ in range(training.epochs)])
        batches = np.array_split(
            order, np.arange(training.batch_size, len(order), training.batch_size)
        )
        if self._loop is None or self._batch_size != training.batch_size:
            # Tracing it takes longer than training a small day.
            strategy = make_strategy(training)
            self._average = make_average(self._model, training, strategy)
            self._loop = TrainingLoop(self._model, self._optimizer, spec, strategy, self._average)
            self._batch_size = training.batch_size
        if self._average is not None:
            self._average.start()
        feed = iter(self._dataset(batches))
        steps = 0
        while done := len(self._loop.run(feed, training.steps_per_execution, steps)):
            steps += done
        if self._average is not None:
            self._average.assign()
        return steps

    def predict(self, day: int) -> dict[str, npt.NDArray[np.float64]]:
        """Returns each task's output for a day's events, [events]."""
        assert self._model is not None
        rows = np.flatnonzero(self._columns["day"] == day)
        parts = [
            self._model({n: self._columns[n][some] for n in self._spec.inputs}, training=False)
            for some in np.array_split(rows, max(1, len(rows) // _EVALUATED_AT_ONCE))
        ]
        return {
            name: np.concatenate([np.asarray(part[name])[:, 0] for part in parts]).astype(float)
            for name in self._spec.tasks
        }

    def evaluate(self, day: int) -> dict[str, float]:
        """Returns each task's AUC or RMSE on a day's events."""
        outputs = self.predict(day)
        rows = np.flatnonzero(self._columns["day"] == day)
        return {
            name: metric(task, label_of(self._columns, name, rows), outputs[name])
            for name, task in self._spec.tasks.items()
        }

    def _batch(self, rows: npt.NDArray[Any]) -> Batch:
        def numbers(key: Callable[[str], str]) -> dict[str, npt.NDArray[np.float32]]:
            return {n: self._columns[key(n)][rows].astype(np.float32) for n in self._spec.tasks}

        features = {name: self._columns[name][rows] for name in self._spec.inputs}
        return features, numbers(signatures.label_key), numbers(signatures.weight_key)

    def _dataset(self, batches: Sequence[npt.NDArray[Any]]) -> tf.data.Dataset:
        """The batches, each gathered when its turn comes."""
        signature = tf.nest.map_structure(
            lambda column: tf.TensorSpec((None, *column.shape[1:]), column.dtype),
            self._batch(batches[0]),
        )
        gathered = tf.data.Dataset.from_generator(
            lambda: map(self._batch, batches), output_signature=signature
        )
        return gathered.prefetch(4)


def run_days(
    spec: RankingSpec, columns: Columns, cold: Sequence[int], last: int, seed: int
) -> list[dict[str, float]]:
    """Trains cold, then warm day by day; returns each next day's metrics, up to day `last`."""
    ranker = Ranker(spec, columns, seed)
    results = []
    window = list(cold)
    ranker.train(window)
    while True:
        today = window[-1] + 1
        results.append(ranker.evaluate(today))
        if today == last:
            return results
        window = [*window, today][-spec.training.window_days :]
        ranker.train([today], window[:-1])
