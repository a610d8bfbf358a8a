"""Simulated events, encoded and preprocessed."""

from __future__ import annotations

import datetime
import os
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf

from pipeline.simulate import simulate_days
from schemas.spec import RankingSpec
from trainer_module.layers import PADDING
from trainer_module.preprocessing import preprocess, raw_feature_spec

SHARDS = 16
_LISTED = 10
_AT_ONCE = 1 << 17
"""Events preprocessed at once: their ids as Python's and TensorFlow's strings are large."""


def event_table(spec: RankingSpec, events: int) -> pa.Table:
    """Simulates an ordinary weekday's events: a column for each field."""
    from components.daily_example_gen.fields import arrow_schema, event_fields

    day = next(iter(simulate_days(datetime.date(2026, 1, 5), 1, events)))
    fields = event_fields(spec)[1:]
    return day.columns.select([f.name for f in fields]).cast(arrow_schema(fields)).slice(0, events)


def history_tables(spec: RankingSpec, events: int) -> dict[str, pa.Table]:
    """The history tables that a model carries after such a day."""
    from components.history import count_events, history_table

    table = event_table(spec, events)
    tables = {}
    for name, feature in spec.history.items():
        tasks = spec.history_tasks(name)
        totals = count_events(table, feature, tasks)
        tables[name] = history_table(totals, name, feature, tasks)
    return tables


def write_events(spec: RankingSpec, events: int, folder: str) -> list[str]:
    """Writes simulated events as DailyExampleGen does; returns the files."""
    from components.daily_example_gen.shards import encode_examples, tf_records

    table = event_table(spec, events)
    os.makedirs(folder, exist_ok=True)
    files = [os.path.join(folder, f"data-{n:05d}-of-{SHARDS:05d}.gz") for n in range(SHARDS)]
    for shard, path in enumerate(files):
        start, end = (number * table.num_rows // SHARDS for number in (shard, shard + 1))
        compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
        with open(path, "wb") as file:
            part = table.slice(start, end - start).combine_chunks()
            for batch in part.to_batches(max_chunksize=8192):
                file.write(compressor.compress(tf_records(encode_examples(batch))))
            file.write(compressor.flush())
    return files


def transformed(events: pa.Table, spec: RankingSpec) -> dict[str, npt.NDArray[Any]]:
    """Returns events through preprocessing.

    Args:
        events: a column for each field.
        spec: the ranking spec.

    Returns:
        By feature, label and weight, [events, values]; lists padded to ten values, ids as int32.
    """
    parts = []
    for start in range(0, events.num_rows, _AT_ONCE):
        some = events.slice(start, _AT_ONCE).combine_chunks()
        sparse = {
            name: _sparse(some[name].chunk(0), parsing.dtype)
            for name, parsing in raw_feature_spec(spec).items()
        }
        part = preprocess(sparse, spec)
        parts.append({name: _as_column(value) for name, value in part.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _as_column(value: Any) -> npt.NDArray[Any]:
    if isinstance(value, tf.SparseTensor):
        value = tf.RaggedTensor.from_sparse(value).to_tensor(PADDING, shape=(None, _LISTED))
    array = np.asarray(value)
    return array.astype(np.int32) if array.dtype == np.int64 else array


def _sparse(column: pa.Array, dtype: tf.DType) -> tf.SparseTensor:
    """A field's values, sparse [events, any]; missing ones are left out."""
    if pa.types.is_list(column.type):
        lengths, values = column.value_lengths(), column.flatten()
    else:
        lengths, values = column.is_valid().cast(pa.int64()), column.drop_null()
    return tf.RaggedTensor.from_row_lengths(
        tf.constant(values.to_numpy(zero_copy_only=False), dtype), lengths.to_numpy()
    ).to_sparse()
