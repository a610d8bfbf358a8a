"""What a model must beat: the smoothed rates of ids over the days that it was trained on."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tfx.dsl.io import fileio

from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask
from trainer_module import signatures
from trainer_module.preprocessing import preprocess, raw_feature_spec

MAX_EVENTS = 1_000_000
"""Training events that are counted; more would not make the rates of frequent ids better."""

PRIOR_EVENTS = 20.0
"""Events at the base rate that are added to those of each id."""

_BASE = "base rates"


class Rates:
    """Predicts a binary task from how often each value of a feature had its label before.

    The log odds of an event are those of the base rate, and for each single-valued
    categorical feature the difference that the smoothed rate of its value makes: naive Bayes.
    Values are hashed into the feature's buckets, as the model does.

    Attributes:
        tasks: names of the binary tasks.
    """

    def __init__(self, tasks: Sequence[str], tables: Mapping[str, npt.NDArray[np.float32]]):
        """Takes what `fit` counted.

        Args:
            tasks: names of the binary tasks.
            tables: log odds by feature, [buckets, tasks]; of the base rates, [1, tasks].
        """
        self.tasks = tuple(tasks)
        self._tables = tables

    def predict(
        self, buckets: Mapping[str, npt.NDArray[np.int64]], events: int
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Returns each task's probabilities, [events], from features' buckets, [events]."""
        log_odds = np.repeat(self._tables[_BASE], events, axis=0)
        for name, values in buckets.items():
            log_odds += self._tables[name][values]
        probabilities = 1.0 / (1.0 + np.exp(-log_odds))
        return {task: probabilities[:, index] for index, task in enumerate(self.tasks)}

    def save(self, path: str) -> None:
        """Writes the rates into a file, which may be remote."""
        content = io.BytesIO()
        np.savez_compressed(content, **self._tables)
        fileio.makedirs(os.path.dirname(path))
        with fileio.open(path, "wb") as file:
            file.write(content.getvalue())

    @classmethod
    def load(cls, path: str, spec: RankingSpec) -> Rates:
        """Reads what `save` wrote."""
        with fileio.open(path, "rb") as file:
            tables = np.load(io.BytesIO(file.read()), allow_pickle=False)
            return cls(_binary(spec), dict(tables))

    @classmethod
    def fit(cls, files: Sequence[str], spec: RankingSpec) -> Rates:
        """Counts at most `MAX_EVENTS` events.

        Args:
            files: gzipped TFRecords of encoded events.
            spec: the ranking spec.

        Returns:
            The rates.
        """
        tasks = _binary(spec)
        sizes = {n: spec.categorical[spec.table_of(n)].buckets or 0 for n in rated_features(spec)}
        # Events, and positives among them; those of all events are in a bucket of their own.
        counts = {n: np.zeros((2, size, len(tasks))) for n, size in {**sizes, _BASE: 1}.items()}
        # A file is a random sample of its day: each day counts by its number of files.
        of_file = -(-MAX_EVENTS // len(files))
        records = tf.data.Dataset.from_tensor_slices(sorted(files)).flat_map(
            lambda file: tf.data.TFRecordDataset(file, "GZIP").take(of_file)
        )
        batches = records.batch(8192).map(lambda batch: event_buckets(batch, spec))
        for buckets, labels, weights in batches.as_numpy_iterator():
            for index, task in enumerate(tasks):
                for row, column in enumerate((weights[task], weights[task] * labels[task])):
                    counts[_BASE][row, 0, index] += column.sum(dtype=np.float64)
                    for name, values in buckets.items():
                        counts[name][row, :, index] += np.bincount(values, column, sizes[name])
        events, positives = counts.pop(_BASE)
        base = (positives + 1.0) / (events + 2.0)
        tables = {_BASE: _log_odds(base)}
        for name, (seen, labelled) in counts.items():
            rate = (labelled + PRIOR_EVENTS * base) / (seen + PRIOR_EVENTS)
            tables[name] = _log_odds(rate) - tables[_BASE]
        return cls(tasks, tables)


def rated_features(spec: RankingSpec) -> tuple[str, ...]:
    """Features whose values have rates."""
    return tuple(name for name, feature in spec.categorical.items() if not feature.multivalued)


def event_buckets(examples: tf.Tensor, spec: RankingSpec) -> tuple[Any, Any, Any]:
    """Looks up what rates are counted of.

    Args:
        examples: serialized events, [events].
        spec: the ranking spec.

    Returns:
        Buckets by feature, int64, labels and weights by binary task, float32, all [events].
    """
    values = preprocess(tf.io.parse_example(examples, raw_feature_spec(spec)), spec)

    def flat(names: Mapping[str, str]) -> dict[str, tf.Tensor]:
        return {name: tf.reshape(values[key], [-1]) for name, key in names.items()}

    tasks = _binary(spec)
    return (
        flat({name: name for name in rated_features(spec)}),
        flat({task: signatures.label_key(task) for task in tasks}),
        flat({task: signatures.weight_key(task) for task in tasks}),
    )


def _binary(spec: RankingSpec) -> tuple[str, ...]:
    return tuple(name for name, task in spec.tasks.items() if isinstance(task, BinaryTask))


def _log_odds(rates: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    rates = np.clip(rates, 1e-6, 1.0 - 1e-6)
    return np.log(rates / (1.0 - rates)).astype(np.float32)
