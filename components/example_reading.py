"""Reads encoded events in batches, each file where there is a free worker.

The read of TFX's own input is a splittable one. Flink's runner leaves its splits on one worker
(https://github.com/apache/beam/issues/21222), with all that is fused to them, and on every runner
it hands the events on one by one. Here the names of the files are spread, as any data is, and
TensorFlow reads each file in whole batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.counters import RECORDS


@beam.ptransform_fn
def ReadFiles(  # noqa: N802
    pipeline: beam.Pipeline, pattern: str, read: Callable[[str], Iterable[Any]]
) -> beam.PCollection:
    """Reads files, several at a time.

    Args:
        pipeline: the pipeline.
        pattern: of the files' names.
        read: reads the elements of the file of this name.

    Returns:
        The elements of all files.

    Raises:
        FileNotFoundError: there is no such file.
    """
    files = sorted(tf.io.gfile.glob(pattern))
    if not files:
        raise FileNotFoundError(f"{pattern}: there is no such file")
    return (
        pipeline
        | "Files" >> beam.Create(files, reshuffle=False)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.FlatMap(read)
    )


def read_records(
    file: str, size: int, most: int | None = None
) -> Iterator[npt.NDArray[np.object_]]:
    """Reads gzipped TFRecords.

    Args:
        file: name of the file.
        size: records a batch; the last one may have fewer.
        most: how many records are read, from the beginning; all if None.

    Returns:
        Arrays of records, bytes [at most `size`].
    """
    records = tf.data.TFRecordDataset(file, compression_type="GZIP")
    if most is not None:
        records = records.take(most)
    for batch in records.batch(size).as_numpy_iterator():
        RECORDS.inc(len(batch))
        yield batch
