"""History features in the exported model: tables that it carries and looks ids up in."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from schemas.errors import TrainingError
from schemas.spec import RankingSpec
from trainer_module import signatures
from trainer_module.preprocessing import as_rows, first_values

_KEYS = np.iinfo(np.int64).max


def load_tables(spec: RankingSpec, directory: str) -> dict[str, pa.Table]:
    """Reads the history tables that the model is to carry.

    Args:
        spec: the ranking spec.
        directory: folder with a Parquet file for each history feature; may be remote.

    Returns:
        By history feature its table: the columns of the id, string or int64, and float32
        ones of the inputs' names.

    Raises:
        TrainingError: one is missing.
    """
    tables = {}
    for name, feature in spec.history.items():
        if feature.serving != "table":
            continue
        path = os.path.join(directory, f"{name}.parquet")
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                tables[name] = pq.ParquetFile(pa.BufferReader(file.read())).read(use_threads=False)
        except tf.errors.NotFoundError as error:
            raise TrainingError(
                f"{path}: the table of history feature {name!r} is missing"
            ) from error
    return tables


class HistoryLookup(tf.Module):
    """The table of one history feature: sorted keys and a row of values for each.

    Keys and values are variables, so that they are not part of the graph, which is limited to
    2 GB. No step trains them, and no training state holds them.
    """

    def __init__(self, name: str, spec: RankingSpec, table: pa.Table):
        """Makes the table.

        Args:
            name: the history feature.
            spec: the ranking spec.
            table: as `load_tables` gives it.
        """
        super().__init__()
        self._name = name
        self._of = spec.history[name].of
        keys = _keys([tf.constant(table[key].to_numpy()) for key in self._of]).numpy()
        order = np.argsort(keys)
        values = [table[column].to_numpy() for column in spec.history_columns(name)]
        # The last row is that of every id that has none.
        rows = np.zeros((len(keys) + 1, len(values)), np.float32)
        rows[:-1] = np.stack(values, axis=1)[order]
        self._keys = tf.Variable(np.append(keys[order], _KEYS), trainable=False)
        self._rows = tf.Variable(rows, trainable=False)

    def __call__(self, raw: Mapping[str, tf.SparseTensor]) -> dict[str, tf.SparseTensor]:
        """Looks up.

        Args:
            raw: raw features by name, sparse [batch, any]; those of the id are read.

        Returns:
            The history feature by its name: the values of `RankingSpec.history_columns`, sparse
            float32 [batch, columns], all of them there.
        """
        ids, present = [], tf.constant(True)
        for name in self._of:
            absent = "" if raw[name].dtype == tf.string else signatures.ABSENT_ID
            value = first_values(raw[name], absent)[:, 0]
            ids.append(value)
            present &= tf.not_equal(value, tf.constant(absent, value.dtype))
        keys = _keys(ids)
        position = tf.searchsorted(self._keys, keys)
        found = present & tf.equal(tf.gather(self._keys, position), keys)
        rows = tf.gather(self._rows, tf.where(found, position, tf.size(self._keys) - 1))
        return {self._name: as_rows(rows)}


def _keys(ids: list[tf.Tensor]) -> tf.Tensor:
    """A number below `_KEYS` for each id, int64 [ids]; of several parts, one of all of them."""
    texts = [part if part.dtype == tf.string else tf.strings.as_string(part) for part in ids]
    return tf.strings.to_hash_bucket_fast(tf.strings.join(texts, "\0"), _KEYS)
