"""Statistics of steps on disk: Parquet parts beside the checkpoints, a row a step."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from trainer_module.stability.events import DivergenceEvent
from trainer_module.stability.statistics import StepStatistics

MAX_ROWS = 20_000
"""Rows of an attempt that are kept besides those of events."""
EVENT_MARGIN = 50
"""Steps before an event's start and after its end that are kept with it."""

_PART = re.compile(r"rows-(\d+)-(\d+)-(\d+)\.parquet")
_BUFFERED = 4096


class StatisticsRecorder:
    """Spools statistics of steps to a folder, bounded in memory and on disk.

    Up to `max_rows` steps are kept in full. Of longer trainings the newer half of the rows
    stays, and of older steps each 2nd, 4th, ... and those in and around events.
    """

    def __init__(
        self, folder: str, attempt: int = 0, step: int = 0, max_rows: int = MAX_ROWS
    ) -> None:
        """Goes on with what the folder holds.

        Args:
            folder: may be remote, and need not exist.
            attempt: number of the attempt at training, from 0; what the folder holds of
                later ones is dropped, what it holds of earlier ones stays.
            step: first step to come of this attempt; later rows of it are dropped. An
                attempt that goes back to a snapshot begins at that snapshot's step.
            max_rows: rows of an attempt that are kept besides those of events.
        """
        self._folder = folder
        self._attempt = attempt
        self._max_rows = max_rows
        self._buffer: list[StepStatistics] = []
        tf.io.gfile.makedirs(folder)
        self._unthinned = 0
        for part, first, end in self._parts():
            if part > attempt or (part == attempt and first >= step):
                self._remove(part, first, end)
            elif part == attempt and end > step:
                kept = self._read_part(part, first, end)
                kept = kept.filter(pa.array(kept["step"].to_numpy() < step))
                self._write(kept, part, first, step)
                self._remove(part, first, end)
                self._unthinned += len(kept)
            elif part == attempt:
                self._unthinned += end - first

    def append(self, statistics: StepStatistics) -> None:
        """Takes in the next steps; writes once enough came together."""
        if not len(statistics):
            return
        self._buffer.append(statistics)
        if sum(map(len, self._buffer)) >= _BUFFERED:
            self._write_buffer()

    def flush(self, events: Sequence[DivergenceEvent] = ()) -> None:
        """Writes what was appended; call it before a checkpoint is made and at an attempt's end.

        Args:
            events: of the attempt so far (`Detector.events`); their rows are not thinned.
        """
        self._write_buffer()
        if self._unthinned > 2 * self._max_rows:
            self._thin(events)

    def read(self, events: Sequence[Sequence[DivergenceEvent]] = ()) -> pa.Table:
        """Returns all rows, by attempt and step, thinned; see `StatisticsRecorder`.

        Columns: `attempt`, `step`, `loss`, and by task or layer `task_loss/click`,
        `auc/click`, `gradient_norm/shared-0/kernel`, and likewise `update_norm`,
        `sigma_min`, `sigma_mean` and `skipped`.

        Args:
            events: of each attempt, in order.
        """
        self._write_buffer()
        of_attempt = dict(enumerate(events))
        attempts = sorted({attempt for attempt, *_ in self._parts()})
        tables = [
            thin(self._read_attempt(n), self._max_rows, of_attempt.get(n, ())) for n in attempts
        ]
        return pa.concat_tables(tables) if tables else pa.table({})

    def _write_buffer(self) -> None:
        if not self._buffer:
            return
        statistics = _joined(self._buffer)
        first, end = statistics.first_step, statistics.first_step + len(statistics)
        self._write(_table(statistics, self._attempt), self._attempt, first, end)
        self._unthinned += len(statistics)
        self._buffer = []

    def _thin(self, events: Sequence[DivergenceEvent]) -> None:
        parts = [part for part in self._parts() if part[0] == self._attempt]
        table = thin(self._read_attempt(self._attempt), self._max_rows, events)
        target = (self._attempt, parts[0][1], max(end for *_, end in parts))
        self._write(table, *target)
        # Killed here, the folder holds rows twice, which reading does not mind.
        for part in parts:
            if part != target:
                self._remove(*part)
        self._unthinned = len(table)

    def _parts(self) -> list[tuple[int, int, int]]:
        matches = map(_PART.fullmatch, tf.io.gfile.listdir(self._folder))
        return sorted(tuple(map(int, match.groups())) for match in matches if match)  # type: ignore[misc]

    def _path(self, attempt: int, first: int, end: int) -> str:
        return os.path.join(self._folder, f"rows-{attempt}-{first}-{end}.parquet")

    def _remove(self, attempt: int, first: int, end: int) -> None:
        tf.io.gfile.remove(self._path(attempt, first, end))

    def _write(self, table: pa.Table, attempt: int, first: int, end: int) -> None:
        path = self._path(attempt, first, end)
        write_parquet(table, path + ".new")
        tf.io.gfile.rename(path + ".new", path, overwrite=True)

    def _read_part(self, attempt: int, first: int, end: int) -> pa.Table:
        with tf.io.gfile.GFile(self._path(attempt, first, end), "rb") as file:
            return pq.read_table(pa.BufferReader(file.read()))

    def _read_attempt(self, attempt: int) -> pa.Table:
        table = pa.concat_tables(
            self._read_part(*part) for part in self._parts() if part[0] == attempt
        )
        _, order = np.unique(table["step"].to_numpy(), return_index=True)
        return table.take(pa.array(order))


def thin(table: pa.Table, max_rows: int, events: Sequence[DivergenceEvent]) -> pa.Table:
    """Returns at most `max_rows` rows of one attempt, and those in and around events.

    Args:
        table: with `step`, increasing.
        max_rows: the newer half of them is the newest rows.
        events: whose rows are all kept.
    """
    if len(table) <= max_rows:
        return table
    steps = table["step"].to_numpy()
    newest = max_rows // 2
    old = steps[-newest - 1] + 1 - steps[0]
    stride = 1
    while old > stride * (max_rows - newest - 1):
        stride *= 2
    kept = steps % stride == 0
    kept[-newest:] = True
    for event in events:
        end = steps[-1] if event.ended is None else event.ended
        kept |= (steps >= event.start - EVENT_MARGIN) & (steps <= end + EVENT_MARGIN)
    return table.filter(pa.array(kept))


def write_parquet(table: pa.Table, path: str) -> None:
    """Writes a table to one file; the path may be remote."""
    sink = pa.BufferOutputStream()
    # Hardly a float occurs twice: dictionaries would take three times as long, and more space.
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(sink.getvalue().to_pybytes())


def _joined(chunks: Sequence[StepStatistics]) -> StepStatistics:
    """Returns the statistics of steps that follow one another as one."""
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(chunk, name) for chunk in chunks])
        for name, value in vars(chunks[0]).items()
        if isinstance(value, np.ndarray)
    }
    return dataclasses.replace(chunks[0], **arrays)


def _table(statistics: StepStatistics, attempt: int) -> pa.Table:
    count = len(statistics)
    steps = np.arange(statistics.first_step, statistics.first_step + count, dtype=np.int64)
    columns: dict[str, npt.NDArray] = {
        "attempt": np.full(count, attempt, np.int32),
        "step": steps,
        "loss": statistics.loss,
    }
    for field, names in (
        ("task_loss", statistics.tasks),
        ("auc", statistics.binary_tasks),
        ("gradient_norm", statistics.layers),
        ("update_norm", statistics.layers),
        ("sigma_min", statistics.layers),
        ("sigma_mean", statistics.layers),
        ("skipped", statistics.layers),
    ):
        values = getattr(statistics, field)
        for column, name in enumerate(names):
            columns[f"{field}/{name}"] = np.ascontiguousarray(values[:, column])
    return pa.table(columns)
