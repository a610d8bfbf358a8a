"""The work of `StatisticsGen`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import tensorflow_data_validation as tfdv
from tfx import types
from tfx.components.statistics_gen.executor import DEFAULT_FILE_NAME
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils
from tfx_bsl.coders import example_coder

from components.example_reading import ReadFiles, read_records

_BATCH = 1000
"""Events that TFDV gets at once: the most that TFX's own input gives it."""


class Executor(base_beam_executor.BaseBeamExecutor):
    """Does what TFX's does, with a read that is spread over all workers."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Does the work; see `component.StatisticsGen`."""
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        statistics = artifact_utils.get_single_instance(output_dict["statistics"])
        statistics.split_names = examples.split_names
        statistics.span = examples.span
        given = exec_properties.get("stats_options_json")
        options = tfdv.StatsOptions.from_json(given) if given else tfdv.StatsOptions()
        options.schema = io_utils.SchemaReader().read(
            io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict["schema"]))
        )
        with self._make_beam_pipeline() as pipeline:
            for split in artifact_utils.decode_split_names(examples.split_names):
                files = os.path.join(artifact_utils.get_split_uri([examples], split), "*")
                output = artifact_utils.get_split_uri([statistics], split)
                _ = (
                    pipeline
                    | f"Read[{split}]" >> ReadFiles(files, read_events)
                    | f"Generate[{split}]" >> tfdv.GenerateStatistics(options)
                    | f"Write[{split}]"
                    >> tfdv.WriteStatisticsToBinaryFile(os.path.join(output, DEFAULT_FILE_NAME))
                )


def read_events(file: str) -> Iterator[pa.RecordBatch]:
    """Reads a file of encoded events as TFX's own input does, their names and types from them."""
    decoder = example_coder.ExamplesToRecordBatchDecoder()
    for records in read_records(file, _BATCH):
        yield decoder.DecodeBatch(records)
