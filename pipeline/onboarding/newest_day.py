"""What is odd about the newest day of the logs, held against the days before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.daily_example_gen.fields import Field
from components.daily_example_gen.sampling import Sample
from pipeline.onboarding import columns, reading
from pipeline.onboarding.findings import Finding, place_of
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask

_AGAIN = 0.05
"""Share of a day's events from which on an earlier day does not have them by chance."""
_UNLIKE = 4.0
"""Factor from which on labels and numbers of a day do not differ from others by chance."""
_BACK = 0.2
"""Share of a day's values that come back from the day before, where they are written alike."""
_PART = 0.3
"""Share of a usual day's events below which a day is perhaps not yet complete."""


def differences(
    spec: RankingSpec, samples: Sequence[Sample], fields: Sequence[Field]
) -> Iterator[Finding]:
    """Finds how the newest day differs from those before it, beyond chance.

    Args:
        spec: the ranking spec.
        samples: what was read of each day, newest first.
        fields: the fields that were read.
    """
    newest, *before = samples
    if not before:
        return
    usual = float(np.median([sample.day_events for sample in before]))
    if newest.day_events < _PART * usual:
        yield Finding(
            f"logs of {newest.date}",
            f"about {newest.day_events:,} events, where the days before have {usual:,.0f}: is the "
            "day complete?",
        )
    if not newest.events.num_rows:
        return
    earlier = pa.concat_tables([sample.events for sample in before])
    yield from _gone(spec, newest, earlier, fields)
    yield from _of_another_size(spec, newest, earlier, fields)
    yield from _written_otherwise(spec, samples, fields)


def repeated_events(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Events that an earlier day has, too: a model would be judged on what it was trained on.

    Args:
        samples: what was read of each day, all fields of the spec, newest first.
    """
    newest, *before = samples
    events = _hashes(newest)
    for sample in before:
        again = int(np.isin(events, _hashes(sample)).sum())
        if again > _AGAIN * len(events):
            yield Finding(
                f"logs of {newest.date}",
                f"{reading.share(again, len(events))} of the events are among those of "
                f"{sample.date}, alike in all fields: a folder must hold its own day alone",
            )
            return


def _hashes(sample: Sample) -> np.ndarray:
    single = [field.name for field in sample.events.schema if not pa.types.is_list(field.type)]
    values = sample.events.select(single).to_pandas()
    return pd.util.hash_pandas_object(values, index=False).to_numpy()


def _gone(
    spec: RankingSpec, newest: Sample, earlier: pa.Table, fields: Sequence[Field]
) -> Iterator[Finding]:
    for field in fields:
        now, then = (columns.describe(day[field.name]) for day in (newest.events, earlier))
        if then.present and not now.present:
            what = f"no event of {newest.date} has a value, those of days before do"
            yield Finding(place_of(spec, field), what + ": is it still logged?")


def _of_another_size(
    spec: RankingSpec, newest: Sample, earlier: pa.Table, fields: Sequence[Field]
) -> Iterator[Finding]:
    binary = {task.label for task in spec.tasks.values() if isinstance(task, BinaryTask)}
    sized = {task.label for task in spec.tasks.values()} | spec.dense.keys()
    for field in fields:
        if field.name not in sized:
            continue
        now, then = (columns.describe(day[field.name]).numbers for day in (newest.events, earlier))
        if field.name not in binary:
            now, then = (np.abs(numbers[numbers != 0]) for numbers in (now, then))
        if min(len(now), len(then)) < spec.min_class_events:
            continue
        if field.name in binary:
            ones = now.sum(), then.mean() * len(now)
            # Few labels of a kind, on either side, tell nothing.
            if min(max(ones), len(now) - min(ones)) < spec.min_class_events:
                continue
            ratio = _odds(now) / _odds(then)
            what = f"{now.mean():.2%} of the labels of {newest.date} are 1, {then.mean():.2%} of "
            what += "those of days before: are they complete, and right?"
        else:
            middle, usual = float(np.median(now)), float(np.median(then))
            ratio = middle / usual
            what = f"values of {newest.date} are about {middle:.3g}, those of days before "
            what += f"{usual:.3g}: another unit?"
        if not 1 / _UNLIKE < ratio < _UNLIKE:
            yield Finding(place_of(spec, field), what)


def _odds(labels: np.ndarray) -> float:
    return float((labels.sum() + 0.5) / (len(labels) - labels.sum() + 0.5))


def _written_otherwise(
    spec: RankingSpec, samples: Sequence[Sample], fields: Sequence[Field]
) -> Iterator[Finding]:
    """Ids and categories that the day before lacks, though its own had come back."""
    if len(samples) < 3:
        return
    newest, before, earlier = (sample.events for sample in samples[:3])
    for name in sorted(spec.categorical.keys() & {field.name for field in fields}):
        again, usual = _again(newest[name], before[name]), _again(before[name], earlier[name])
        if usual > _BACK and again < _BACK * usual:
            yield Finding(
                f"features.{name}",
                f"{again:.2%} of {samples[0].date}'s values are among those of the day before, of "
                f"which {usual:.2%} were: are they written in another way?",
            )


def _again(values: pa.ChunkedArray, before: pa.ChunkedArray) -> float:
    """Share of the values that a day before has, too."""
    if pa.types.is_list(values.type):
        values, before = pc.list_flatten(values), pc.list_flatten(before)
    found = pc.is_in(values.drop_null(), before.drop_null().unique())
    return float(pc.mean(found).as_py() or 0.0)
