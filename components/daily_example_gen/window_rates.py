"""The smoothed rates of a run's window, from counts that are made of each day once."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import tensorflow as tf
from apache_beam.io.filesystems import FileSystems

from components.daily_example_gen.day_store import StoredDay
from components.smoothed_rates import MAX_EVENTS, Counter, Rates, save_counts
from schemas.spec import RankingSpec


def write_rates(spec: RankingSpec, days: Sequence[StoredDay], path: str) -> None:
    """Writes the rates of the days' events, a warm start's as those of a cold one.

    A day's counts are kept beside its shards. They are of as many events of each day, and of
    `MAX_EVENTS` of a whole window.

    Args:
        spec: the ranking spec.
        days: the days of the window that have events and are trusted.
        path: target file of `Rates`.

    Raises:
        FileNotFoundError: a day is gone from the store.
    """
    counter = Counter(spec)
    total = counter.nothing()
    most = -(-MAX_EVENTS // spec.training.window_days)
    key = f"{spec.model_fingerprint()}-{most}"
    for day in days:
        kept = os.path.join(day.directory, f"value-counts-{key}.npz")
        if FileSystems.exists(kept):
            counts = counter.load(kept)
        else:
            shards = [day.shard(n) for n, events in enumerate(day.manifest.shards) if events]
            try:
                counts = counter.count(shards, most)
            except tf.errors.NotFoundError as error:
                raise FileNotFoundError(errno.ENOENT, "gone", day.directory) from error
            save_counts(kept, counts)
        for name, of_name in counts.items():
            total[name] += of_name
    Rates.of(total, spec).save(path)
