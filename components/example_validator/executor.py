"""The work of `ExampleValidator`."""

from __future__ import annotations

import os
from typing import Any

import tensorflow_data_validation as tfdv
from absl import logging
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import writer_utils

from components import properties
from components.channels import EVAL, TRAIN, Channels, Given
from components.example_validator.presence import note_lost_values, presence
from components.example_validator.severity import findings, stopping
from schemas.errors import BadDataError

_FILE = "SchemaDiff.pb"
_MAX_QUOTED = 10


class Executor(base_executor.BaseExecutor):
    """Validates both splits, writes what it finds, and stops the run if it must."""

    def Do(  # noqa: N802
        self, input_dict: Given, output_dict: Given, exec_properties: dict[str, Any]
    ) -> None:
        """Does the work; see `component.ExampleValidator`.

        Raises:
            BadDataError: naming each anomaly that reaches `validation.stop_at`.
        """
        inputs, outputs = Channels(input_dict), Channels(output_dict)
        plan = inputs.plan()
        validation = plan.spec.validation
        train, evaluation = (
            stats_artifact_utils.load_statistics(inputs["statistics"], split).proto()
            for split in (TRAIN, EVAL)
        )
        output = outputs["anomalies"]
        output.split_names = artifact_utils.encode_split_names([TRAIN, EVAL])
        found = []
        for split, anomalies in validate(train, evaluation, inputs.schema()).items():
            writer_utils.write_anomalies(
                os.path.join(outputs.split("anomalies", split), _FILE), anomalies
            )
            found.extend(findings(split, anomalies, validation))
        for finding in found:
            logging.warning("%s", finding)
        properties.FINDINGS.set(output, [str(finding) for finding in found])
        stop = stopping(found, validation)
        if stop:
            quoted = "\n".join(f"  {finding}" for finding in stop[:_MAX_QUOTED])
            more = f"\n  and {len(stop) - _MAX_QUOTED} more" if len(stop) > _MAX_QUOTED else ""
            raise BadDataError(
                f"{plan.run_date}: {len(stop)} anomalies of severity {validation.stop_at} or "
                f"above; the model was not trained:\n{quoted}{more}\nMend the logs, or change "
                "the feature's limits or validation.severity in the spec."
            )


def validate(
    train: statistics_pb2.DatasetFeatureStatisticsList,
    evaluation: statistics_pb2.DatasetFeatureStatisticsList,
    schema: schema_pb2.Schema,
) -> dict[str, anomalies_pb2.Anomalies]:
    """Validates both splits.

    The run date's events are the newest that the served model produced: their drift is
    measured against the training days before them, and training is checked for skew
    against them.

    Args:
        train: statistics of the training days.
        evaluation: statistics of the run date.
        schema: the TFDV schema.

    Returns:
        The anomalies of `train` and `eval`.
    """
    result = {
        TRAIN: tfdv.validate_statistics(
            train, schema, environment="TRAINING", serving_statistics=evaluation
        ),
        EVAL: tfdv.validate_statistics(
            evaluation, schema, environment="TRAINING", previous_statistics=train
        ),
    }
    in_train, in_evaluation = presence(train), presence(evaluation)
    for feature in schema.feature:
        shares = in_train.get(feature.name, 0.0), in_evaluation.get(feature.name, 0.0)
        note_lost_values(result[TRAIN], feature.name, feature.skew_comparator, *shares)
        note_lost_values(result[EVAL], feature.name, feature.drift_comparator, *reversed(shares))
    return result
