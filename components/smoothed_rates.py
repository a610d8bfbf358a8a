"""What a model must beat: smoothed rates of ids, or of numbers, over the days of its window.

Events are counted day by day: the counts of a day are kept, and those of a window added up.
"""

from __future__ import annotations

import io
import os
import uuid
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.special import expit
from tfx.dsl.io import fileio

from schemas.errors import BadDataError
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask
from trainer_module import signatures
from trainer_module.preprocessing import (
    first_values,
    hashed,
    labels_and_weights,
    raw_feature_spec,
    squashed,
)

RATES_FILE = "rates.npz"
"""File of the rates, in the folder of the run's examples."""

MAX_EVENTS = 1_000_000
"""Events of a window that are counted; more would not make the rates of frequent ids better."""

PRIOR_EVENTS = 20.0
"""Events at the base rate that are added to those of each id."""

_BASE = "base rates"

# Sign, exponent and the first bits of the fraction: eight buckets between 1 and 2, 2 and 4, and so
# on. They are the same every day, so that the counts of days add up.
_NUMBER_BITS = 12

Counts = dict[str, npt.NDArray[np.float64]]
"""Labels, their sum, and for a regression that of their squares, by feature [3, buckets, tasks]; of
all events, in a bucket of its own."""


class Counter:
    """Counts events by the values of their features."""

    def __init__(self, spec: RankingSpec):
        """Makes one for the features and tasks of a spec."""
        self._spec = spec
        self._sizes = {
            name: spec.categorical[spec.table_of(name)].buckets or 0
            if name in spec.categorical
            else 1 << _NUMBER_BITS
            for name in rated_features(spec)
        }
        self._parse = tf.function(self._events, autograph=False)

    def _events(self, examples: tf.Tensor) -> tuple[Any, Any, Any]:
        """Buckets by feature, int64, labels and weights by task, float32, all [events]."""
        parsed = tf.io.parse_example(examples, raw_feature_spec(self._spec))
        labelled = labels_and_weights(parsed, self._spec)

        def flat(key: Callable[[str], str]) -> dict[str, tf.Tensor]:
            return {task: tf.reshape(labelled[key(task)], [-1]) for task in self._spec.tasks}

        buckets = event_buckets(parsed, self._spec)
        return buckets, flat(signatures.label_key), flat(signatures.weight_key)

    def nothing(self) -> Counts:
        """The counts of no event."""
        tasks = len(self._spec.tasks)
        return {n: np.zeros((3, size, tasks)) for n, size in {**self._sizes, _BASE: 1}.items()}

    def count(self, files: Sequence[str], most: int) -> Counts:
        """Counts events of files.

        Args:
            files: gzipped TFRecords of encoded events, each a random sample of them; at least one.
            most: about how many events are counted, as many of each file.
        """
        counts = self.nothing()
        of_file = -(-most // len(files))
        records = tf.data.Dataset.from_tensor_slices(sorted(files)).flat_map(
            lambda file: tf.data.TFRecordDataset(file, "GZIP").take(of_file)
        )
        batches = records.batch(8192).map(self._parse)
        for buckets, labels, weights in batches.as_numpy_iterator():
            for index, (task, declared) in enumerate(self._spec.tasks.items()):
                columns = [weights[task], weights[task] * labels[task]]
                if not isinstance(declared, BinaryTask):
                    columns.append(columns[1] * labels[task])
                for row, column in enumerate(columns):
                    counts[_BASE][row, 0, index] += column.sum(dtype=np.float64)
                    for name, values in buckets.items():
                        counts[name][row, :, index] += np.bincount(
                            values, column, self._sizes[name]
                        )
        return counts

    def load(self, path: str) -> Counts:
        """Reads what `save_counts` wrote of the same features and tasks.

        Raises:
            BadDataError: the file is damaged.
        """
        counts = self.nothing()
        with fileio.open(path, "rb") as file:
            content = file.read()
        try:
            stored = np.load(io.BytesIO(content), allow_pickle=False)
            for name, of_name in counts.items():
                of_name[:, stored[f"{name}/rows"]] = stored[f"{name}/counts"]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BadDataError.of_damaged(path, error) from error
        return counts


def save_counts(path: str, counts: Counts) -> None:
    """Writes counts, those of the buckets that have any."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, of_name in counts.items():
        rows = np.flatnonzero(of_name.any(axis=(0, 2)))
        arrays |= {f"{name}/rows": rows, f"{name}/counts": of_name[:, rows]}
    _save(path, arrays)


def _save(path: str, arrays: Mapping[str, Any]) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    fileio.makedirs(os.path.dirname(path))
    temporary = f"{path}.{uuid.uuid4().hex}"
    with fileio.open(temporary, "wb") as file:
        file.write(content.getvalue())
    fileio.rename(temporary, path, overwrite=True)


class Rates:
    """Predicts a task from the labels that each value of a feature had before.

    The log odds of a binary task are those of the base rate, and for each of `rated_features` the
    difference that the smoothed rate of its value makes: naive Bayes.
    Such a sum would exaggerate a regression, whose unit counts: it is the smoothed mean of the
    value of one feature, the one with the least squared error on events that it does not know.
    Ids are hashed into the feature's buckets, as the model does; near numbers share a bucket.
    """

    def __init__(self, spec: RankingSpec, tables: Mapping[str, npt.NDArray[np.float32]]):
        """Takes what `of` worked out.

        Args:
            spec: the ranking spec.
            tables: log odds, or differences from the mean, by feature, [buckets, tasks]; of the
                base rates, or the means, [1, tasks].
        """
        self._spec = spec
        self._tables = tables

    def predict(
        self, buckets: Mapping[str, npt.NDArray[np.int64]], events: int
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Returns each task's predictions, [events], from features' buckets, [events].

        They are in the space of the loss, and probabilities for a binary task.
        """
        sums = np.repeat(self._tables[_BASE], events, axis=0)
        for name, values in buckets.items():
            sums += self._tables[name][values]
        return {
            name: expit(sums[:, index]) if isinstance(task, BinaryTask) else sums[:, index]
            for index, (name, task) in enumerate(self._spec.tasks.items())
        }

    def save(self, path: str) -> None:
        """Writes the rates into a file, which may be remote."""
        _save(path, self._tables)

    @classmethod
    def load(cls, path: str, spec: RankingSpec) -> Rates:
        """Reads what `save` wrote."""
        with fileio.open(path, "rb") as file:
            tables = np.load(io.BytesIO(file.read()), allow_pickle=False)
            return cls(spec, dict(tables))

    @classmethod
    def of(cls, counts: Counts, spec: RankingSpec) -> Rates:
        """Works out the rates of what was counted."""
        counts = dict(counts)
        binary = np.array([isinstance(task, BinaryTask) for task in spec.tasks.values()])
        events, total, _ = counts.pop(_BASE)
        base = np.where(binary, (total + 1.0) / (events + 2.0), total / np.maximum(events, 1.0))
        tables = {_BASE: np.where(binary, _log_odds(base), base).astype(np.float32)}
        errors = [_squared_error(*sums, base=base) for sums in counts.values()]
        best = np.argmin(errors, axis=0) if errors else None
        for number, (name, (seen, labelled, _)) in enumerate(counts.items()):
            rate = (labelled + PRIOR_EVENTS * base) / (seen + PRIOR_EVENTS)
            tables[name] = np.where(
                binary,
                _log_odds(rate) - _log_odds(base),
                np.where(best == number, rate - base, 0.0),
            ).astype(np.float32)
        return cls(spec, tables)


def rated_features(spec: RankingSpec) -> tuple[str, ...]:
    """Features whose values have rates: single-valued categorical ones; without any, numbers.

    A spec of lists alone has none: its rates are the base rates.
    """
    single = (name for name, feature in spec.categorical.items() if not feature.multivalued)
    return tuple(single) or tuple(spec.dense)


def event_buckets(parsed: Mapping[str, tf.SparseTensor], spec: RankingSpec) -> dict[str, tf.Tensor]:
    """Looks up the bucket of each event's value.

    Args:
        parsed: event fields by name, sparse [events, any]; those of `rated_features` are read.
        spec: the ranking spec.

    Returns:
        Buckets by feature, int64 [events].
    """
    buckets = {}
    for name in rated_features(spec):
        if name in spec.categorical:
            values = hashed(name, parsed[name], spec)
        else:
            # 0 and -0 are one number.
            numbers = squashed(
                first_values(parsed[name], spec.dense[name].default), spec.dense[name]
            )
            bits = tf.bitcast(numbers + 0.0, tf.uint32)
            shift = tf.constant(32 - _NUMBER_BITS, tf.uint32)
            values = tf.cast(tf.bitwise.right_shift(bits, shift), tf.int64)
        buckets[name] = tf.reshape(values, [-1])
    return buckets


def _squared_error(
    seen: npt.NDArray[np.floating],
    labelled: npt.NDArray[np.floating],
    squares: npt.NDArray[np.floating],
    *,
    base: npt.NDArray[np.floating],
) -> npt.NDArray[np.floating]:
    """Squared error of the smoothed means, each of all of a value's events but the predicted one.

    Args:
        seen: events of each value, [buckets, tasks].
        labelled: sums of their labels, [buckets, tasks].
        squares: sums of the squares, [buckets, tasks].
        base: mean of all labels, [1, tasks].

    Returns:
        The sum over all events, [tasks].
    """
    # A label less such a mean is (label (seen + prior) - all) / (seen - 1 + prior).
    everything = labelled + PRIOR_EVENTS * base
    size = seen + PRIOR_EVENTS
    errors = size**2 * squares - 2.0 * size * everything * labelled + seen * everything**2
    return np.sum(errors / (size - 1.0) ** 2, axis=0)


def _log_odds(rates: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    rates = np.clip(rates, 1e-6, 1.0 - 1e-6)
    return np.log(rates / (1.0 - rates)).astype(np.float32)
