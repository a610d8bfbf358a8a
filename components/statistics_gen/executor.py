"""The work of `StatisticsGen`."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tfx.components.statistics_gen.executor import DEFAULT_FILE_NAME
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx_bsl.coders import example_coder

from components import properties
from components.channels import Channels, Given
from components.example_reading import ReadFiles, read_records

_BATCH = 1000
"""Events that TFDV gets at once: the most that TFX's own input gives it."""


class Executor(base_beam_executor.BaseBeamExecutor):
    """Does what TFX's does, with a read that is spread over all workers, of a sample at most."""

    def Do(  # noqa: N802
        self, input_dict: Given, output_dict: Given, exec_properties: dict[str, Any]
    ) -> None:
        """Does the work; see `component.StatisticsGen`."""
        inputs, outputs = Channels(input_dict), Channels(output_dict)
        most = inputs.plan().spec.validation.max_statistics_events
        examples, statistics = inputs["examples"], outputs["statistics"]
        statistics.split_names = examples.split_names
        statistics.span = examples.span
        given = exec_properties.get("stats_options_json")
        options = tfdv.StatsOptions.from_json(given) if given else tfdv.StatsOptions()
        options.schema = inputs.schema()
        notes = []
        with self._make_beam_pipeline() as pipeline:
            for split in artifact_utils.decode_split_names(examples.split_names):
                files = os.path.join(inputs.split("examples", split), "*")
                read = read_events
                events = properties.SPLIT_EVENTS[split].get(examples) or 0
                if most is not None and events > most:
                    read = functools.partial(read_events, most=shares(files, most))
                    notes.append(
                        f"statistics of the split {split} are those of a sample, {most:,} of "
                        f"{events:,} events (validation.max_statistics_events)"
                    )
                output = outputs.split("statistics", split)
                _ = (
                    pipeline
                    | f"Read[{split}]" >> ReadFiles(files, read)
                    | f"Generate[{split}]" >> tfdv.GenerateStatistics(options)
                    | f"Write[{split}]"
                    >> tfdv.WriteStatisticsToBinaryFile(os.path.join(output, DEFAULT_FILE_NAME))
                )
        properties.STATISTICS_NOTES.set(statistics, notes)


def shares(pattern: str, most: int) -> dict[str, int]:
    """Says how many events each file gives to a sample of `most`: as its size, in bytes, says."""
    sizes = {file: tf.io.gfile.stat(file).length for file in tf.io.gfile.glob(pattern)}
    total = sum(sizes.values())
    return {file: math.ceil(most * size / total) for file, size in sizes.items()}


def read_events(file: str, most: Mapping[str, int] | None = None) -> Iterator[pa.RecordBatch]:
    """Reads a file of encoded events as TFX's own input does, their names and types from them.

    Args:
        file: name of the file.
        most: by file, how many events are read, from its beginning: shards are in random order.

    Returns:
        Batches of 1000 events at most.
    """
    decoder = example_coder.ExamplesToRecordBatchDecoder()
    for records in read_records(file, _BATCH, most=most[file] if most else None):
        yield decoder.DecodeBatch(records)
