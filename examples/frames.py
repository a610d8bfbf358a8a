"""Events of several days in memory, as the pipeline gives them to training.

History and preprocessing are the pipeline's own; days, store and Beam are left out. For
measurements, on the logs of any ranker.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import tensorflow as tf

from components import history
from schemas.spec import RankingSpec
from trainer_module.layers import PADDING
from trainer_module.preprocessing import as_rows, preprocess, raw_feature_spec

DAY = "day"


def with_history(events: pd.DataFrame, spec: RankingSpec) -> pd.DataFrame:
    """Adds the inputs that the spec's history features stand for, as ingestion does."""
    ids = {key for feature in spec.history.values() for key in feature.of}
    columns = events[[*sorted(ids), *spec.labels]]
    by_day = {
        date: pa.Table.from_pandas(columns[day], preserve_index=False)
        for date in sorted(events["date"].unique())
        if (day := (events["date"] == date).to_numpy()).any()
    }
    found = []
    for date, today in by_day.items():
        tables = {}
        for name, feature in spec.history.items():
            oldest = date - np.timedelta64(feature.days, "D")
            past = [day for earlier, day in by_day.items() if oldest <= earlier < date]
            tasks = spec.history_tasks(name)
            totals = history.count_events(pa.concat_tables([today[:0], *past]), feature, tasks)
            tables[name] = history.history_table(totals, name, feature, tasks)
        values = history.look_up(today, tables, spec).to_pandas()
        found.append(values.set_index(events.index[(events["date"] == date).to_numpy()]))
    return events.join(pd.concat(found))


def transformed(events: pd.DataFrame, spec: RankingSpec) -> dict[str, np.ndarray]:
    """Returns events as Transform gives them to training.

    Args:
        events: of `with_history`.
        spec: the ranking spec.

    Returns:
        By name: ids, int32 [events, values], padded; numbers, labels and their weights, float32
        [events, 1]; `day`, the number of each event's day, int32 [events].
    """
    sparse = {
        name: _sparse(events[name], parsing.dtype)
        for name, parsing in raw_feature_spec(spec).items()
        if name not in spec.history
    }
    for name in spec.history:
        sparse[name] = as_rows(events[list(spec.history_columns(name))].to_numpy(np.float32))
    result = {DAY: pd.factorize(events["date"], sort=True)[0].astype(np.int32)}
    for name, value in preprocess(sparse, spec).items():
        if isinstance(value, tf.SparseTensor):
            value = tf.sparse.to_dense(value, default_value=PADDING)
        array = value.numpy()
        result[name] = array.astype(np.int32 if array.dtype == np.int64 else np.float32)
    return result


def _sparse(column: pd.Series, dtype: tf.DType) -> tf.SparseTensor:
    """A field's values, sparse [events, any]; missing ones are left out."""
    lists = isinstance(column.iloc[0], list)
    counts = column.map(len).to_numpy() if lists else column.notna().to_numpy().astype(int)
    values = [v for row in column for v in row] if lists else column.dropna().tolist()
    rows = np.repeat(np.arange(len(column)), counts)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    if dtype == tf.string:
        values = [str(value) for value in values]
    return tf.SparseTensor(
        np.stack([rows, places], axis=1).astype(np.int64),
        tf.constant(values, dtype),
        [len(column), max(1, int(counts.max()))],
    )
