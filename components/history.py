"""What past days say of an id: totals of a day, merged over days, as counts and rates.

Totals are Arrow tables with a row for each id that the days hold: the id's own columns, the
number of its events, and for each task the number of its labels and their sum in the space
of the loss. A history table has the id's columns and those of the model's inputs. An id
that it lacks has nothing but zeros there: no events, and rates like everyone's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.features import HistoryFeature, history_column
from schemas.spec import RankingSpec
from schemas.tasks import Task

_EVENTS = "events"


def _labels(task: str) -> str:
    return f"{task}__labels"


def _sum(task: str) -> str:
    return f"{task}__sum"


def count_events(events: pa.Table, feature: HistoryFeature, tasks: Mapping[str, Task]) -> pa.Table:
    """Counts events by id.

    Args:
        events: a column for each of `feature.of` and each task's label; null where missing.
            Events that lack an id count for none.
        feature: the history feature.
        tasks: its tasks by name.

    Returns:
        Their totals.
    """
    for name in feature.of:
        events = events.filter(pc.is_valid(events[name]))
    columns = {name: events[name] for name in feature.of}
    columns[_EVENTS] = pa.array(np.ones(events.num_rows, np.int64))
    for name, task in tasks.items():
        label = events[task.label].cast(pa.float64())
        columns[_labels(name)] = pc.is_valid(label).cast(pa.int64())
        columns[_sum(name)] = pc.fill_null(_in_loss_space(label, task), 0.0)
    return merge([pa.table(columns)], feature)


def _in_loss_space(label: pa.ChunkedArray, task: Task) -> pa.ChunkedArray:
    if task.kind == "regression" and task.transform == "log1p":
        return pc.log1p(pc.max_element_wise(label, 0.0, skip_nulls=False))
    return label


def merge(totals: Sequence[pa.Table], feature: HistoryFeature) -> pa.Table:
    """Adds totals up; at least one, and all of one feature."""
    table = pa.concat_tables(totals).combine_chunks()
    # Not `Table.group_by` and `join`: Arrow 10 crashes in the one on a chunk without rows, and
    # waits for ever in the other on a machine with a single core.
    codes = _id_of(table, feature).dictionary_encode().combine_chunks().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    merged = {name: table[name].take(pa.array(first)) for name in feature.of}
    for name in table.column_names:
        if name not in feature.of:
            sums = np.bincount(codes, table[name].to_numpy(), minlength=len(first))
            merged[name] = pa.array(sums.astype(table[name].type.to_pandas_dtype()))
    return pa.table(merged)


def _id_of(table: pa.Table, feature: HistoryFeature) -> pa.ChunkedArray:
    """The id that history is of, as one column; null where a part of it is."""
    if len(feature.of) == 1:
        return table[feature.of[0]]
    return pc.binary_join_element_wise(
        *(table[name].cast(pa.string()) for name in feature.of), "\0"
    )


def history_table(
    totals: pa.Table, name: str, feature: HistoryFeature, tasks: Mapping[str, Task]
) -> pa.Table:
    """Makes a history table.

    A rate is smoothed: events like everyone's are added to the id's own, k of them to a mean
    and k / sqrt(r (1 - r)) to a rate that is r for everyone, with k `feature.prior_strength`.
    It is given as its distance from everyone's, in log odds (binary) or in the space of the
    loss (regression): an id without events then has zeros, and a day on which everyone clicks
    more moves no input of every event at once.

    Args:
        totals: of all days that count.
        name: the history feature's name.
        feature: the feature.
        tasks: its tasks by name.

    Returns:
        Of the `feature.max_ids` most frequent ids, the most frequent first: their columns,
        then one float32 column an input of the model.
    """
    columns = {}
    for task, declared in tasks.items():
        labels = totals[_labels(task)].to_numpy().astype(np.float64)
        sums = totals[_sum(task)].to_numpy()
        columns[task] = _smoothed(labels, sums, feature.prior_strength, declared)
    result = totals.select(list(feature.of))
    result = result.append_column(
        history_column(name), totals[_EVENTS].cast(pa.float32(), safe=False)
    )
    for task, values in columns.items():
        result = result.append_column(
            history_column(name, task), pa.array(values.astype(np.float32))
        )
    keys = [(history_column(name), "descending"), *((key, "ascending") for key in feature.of)]
    order = pc.sort_indices(result, sort_keys=keys)
    return result.take(order[: feature.max_ids])


def _smoothed(labels: np.ndarray, sums: np.ndarray, strength: float, task: Task) -> np.ndarray:
    """Distance of each id's smoothed rate from everyone's, [ids]."""
    if task.kind == "regression":
        everyone = sums.sum() / max(labels.sum(), 1.0)
        return (sums - labels * everyone) / (labels + strength)
    # Half an event of each kind keeps a rate that no event speaks for from an infinity.
    everyone = (sums.sum() + 0.5) / (labels.sum() + 1.0)
    # The rarer a task, the more events it takes to tell an id's rate from everyone's.
    strength /= np.sqrt(everyone * (1.0 - everyone))
    positives = sums + strength * everyone
    negatives = labels - sums + strength * (1.0 - everyone)
    return np.log(positives / negatives) - np.log(everyone / (1.0 - everyone))


def look_up(events: pa.Table, tables: Mapping[str, pa.Table], spec: RankingSpec) -> pa.Table:
    """Gives each event the history of its ids.

    Args:
        events: a column for each id, null where missing.
        tables: history table by feature.
        spec: the ranking spec.

    Returns:
        One float32 column for each input that `spec.history` stands for, in the order of
        the events.
    """
    columns = {}
    for name, feature in spec.history.items():
        rows = _rows_of(_id_of(events, feature), _id_of(tables[name], feature))
        for column in spec.history_columns(name):
            columns[column] = pc.fill_null(
                tables[name][column].take(rows), pa.scalar(0.0, pa.float32())
            )
    return pa.table(columns)


def _rows_of(asked: pa.ChunkedArray, known: pa.ChunkedArray) -> pa.Array:
    """The row of each id among those that are known, none of them twice; null where it is not.

    Known ids are many more than those of a shard: these are what is hashed.
    """
    ids = asked.dictionary_encode().combine_chunks()
    places = pc.index_in(known, ids.dictionary)
    rows = np.flatnonzero(places.is_valid())
    found = np.full(len(ids.dictionary), -1, np.int64)
    found[places.drop_null().to_numpy()] = rows
    of_ids = pa.array(found, mask=found < 0)
    return of_ids.take(ids.indices)


def as_fields(values: pa.Table, spec: RankingSpec) -> pa.Table:
    """Packs the columns of `look_up`: for each history feature a field, a float32 list of values.

    With a field for each column, their names took more room than the rest of an event, and
    encoding and parsing them took more time.
    """
    fields = {}
    for name in spec.history:
        columns = [values[column].to_numpy() for column in spec.history_columns(name)]
        flat = pa.array(np.stack(columns, axis=1).ravel())
        ends = np.arange(values.num_rows + 1, dtype=np.int32) * len(columns)
        fields[name] = pa.ListArray.from_arrays(pa.array(ends), flat)
    return pa.table(fields)
