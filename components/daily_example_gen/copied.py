"""Whether a run date's logs are those of another day: its model would have seen the answers."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from components.daily_example_gen.day_store import StoredDay
from components.daily_example_gen.shards import read_records
from schemas.spec import RankingSpec


def copied_from(day: StoredDay, others: Iterable[StoredDay], spec: RankingSpec) -> StoredDay | None:
    """Returns the first of some days that has the same events as a day, whatever their order.

    Events are spread over the shards by a hash of their id, so days of other events differ in the
    number that each shard has. Only days that agree in these are read.
    """
    for other in others:
        shards = day.manifest.shards
        if other.manifest.shards == shards and all(
            _events(day, number, spec) == _events(other, number, spec)
            for number, events in enumerate(shards)
            if events
        ):
            return other
    return None


def _events(day: StoredDay, number: int, spec: RankingSpec) -> list[bytes]:
    """A shard's events in an order of their own, without what was joined from earlier days."""
    events = []
    for record in read_records(day.shard(number)):
        example = tf.train.Example.FromString(record)
        for name in set(example.features.feature) - {*spec.logged, *spec.labels}:
            del example.features.feature[name]
        events.append(example.SerializeToString(deterministic=True))
    return sorted(events)
