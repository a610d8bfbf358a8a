"""Simulated events, encoded and preprocessed."""

from __future__ import annotations

import datetime
import os
import zlib
from typing import Any

import pyarrow as pa
import tensorflow as tf

from pipeline.simulate import Day, simulate_days
from schemas.spec import RankingSpec
from trainer_module.preprocessing import preprocess, raw_feature_spec

SHARDS = 16


def event_table(spec: RankingSpec, events: int) -> pa.Table:
    """Simulates an ordinary weekday's events: a column for each field."""
    from components.daily_example_gen.fields import arrow_schema, event_fields

    day = next(iter(simulate_days(datetime.date(2026, 1, 5), 1, events)))
    fields = event_fields(spec)[1:]
    columns = {f.name: pa.array(day.columns[f.name], f.arrow_type) for f in fields}
    return pa.table(columns, schema=arrow_schema(fields)).slice(0, events)


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


def transformed(day: Day, spec: RankingSpec) -> dict[str, Any]:
    """Returns a day's events through preprocessing: tensors by name, sparse or [events, 1]."""
    sparse = {
        name: _sparse(pa.array(day.columns[name]), parsing.dtype)
        for name, parsing in raw_feature_spec(spec).items()
    }
    return preprocess(sparse, spec)


def _sparse(column: pa.Array, dtype: tf.DType) -> tf.SparseTensor:
    """A field's values, sparse [events, any]; missing ones are left out."""
    if pa.types.is_list(column.type):
        lengths, values = column.value_lengths(), column.flatten()
    else:
        lengths, values = column.is_valid().cast(pa.int64()), column.drop_null()
    return tf.RaggedTensor.from_row_lengths(
        tf.constant(values.to_numpy(zero_copy_only=False), dtype), lengths.to_numpy()
    ).to_sparse()
