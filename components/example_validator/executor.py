"""The work of `ExampleValidator`."""

from __future__ import annotations

import os
from typing import Any

import tensorflow_data_validation as tfdv
from absl import logging
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx import types
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, writer_utils

from components.example_validator.severity import findings, stopping
from components.run_plan import load_plan
from schemas.errors import BadDataError

_FILE = "SchemaDiff.pb"
_MAX_QUOTED = 10


class Executor(base_executor.BaseExecutor):
    """Validates both splits, writes what it finds, and stops the run if it must."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Does the work; see `component.ExampleValidator`.

        Raises:
            BadDataError: naming each anomaly that reaches `validation.stop_at`.
        """
        plan = load_plan(artifact_utils.get_single_uri(input_dict["plan"]))
        validation = plan.spec.validation
        statistics = artifact_utils.get_single_instance(input_dict["statistics"])
        schema = io_utils.SchemaReader().read(
            io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict["schema"]))
        )
        train, evaluation = (
            stats_artifact_utils.load_statistics(statistics, split).proto()
            for split in ("train", "eval")
        )
        output = artifact_utils.get_single_instance(output_dict["anomalies"])
        output.split_names = artifact_utils.encode_split_names(["train", "eval"])
        found = []
        for split, anomalies in validate(train, evaluation, schema).items():
            writer_utils.write_anomalies(
                os.path.join(artifact_utils.get_split_uri([output], split), _FILE), anomalies
            )
            found.extend(findings(split, anomalies, validation))
        for finding in found:
            logging.warning("%s", finding)
        output.set_string_custom_property("findings", "\n".join(map(str, found)))
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
        "train": tfdv.validate_statistics(
            train, schema, environment="TRAINING", serving_statistics=evaluation
        ),
        "eval": tfdv.validate_statistics(
            evaluation, schema, environment="TRAINING", previous_statistics=train
        ),
    }
    in_train, in_evaluation = _value_counts(train), _value_counts(evaluation)
    for feature in schema.feature:
        values = in_train.get(feature.name, 0), in_evaluation.get(feature.name, 0)
        if feature.skew_comparator.HasField("jensen_shannon_divergence"):
            _note_missing(result["train"], feature.name, *values)
        if feature.drift_comparator.HasField("jensen_shannon_divergence"):
            _note_missing(result["eval"], feature.name, *reversed(values))
    return result


def _value_counts(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> dict[str, int]:
    """Returns how many events have a value of each feature."""
    (dataset,) = statistics.datasets
    counts = {}
    for feature in dataset.features:
        common = getattr(feature, feature.WhichOneof("stats")).common_stats
        counts[feature.path.step[0]] = common.num_non_missing
    return counts


def _note_missing(
    anomalies: anomalies_pb2.Anomalies, name: str, treatment: int, control: int
) -> None:
    """Adds that one side of a comparison has no values, on which TFDV mostly keeps silent."""
    kinds = anomalies_pb2.AnomalyInfo
    if bool(treatment) == bool(control):
        return
    kind = (
        kinds.COMPARATOR_CONTROL_DATA_MISSING
        if treatment
        else kinds.COMPARATOR_TREATMENT_DATA_MISSING
    )
    info = anomalies.anomaly_info[name]
    if any(reason.type == kind for reason in info.reason):
        return
    info.severity = kinds.ERROR
    info.reason.add(
        type=kind,
        short_description="No values to compare",
        description=f"The feature has {treatment} values here, and {control} where it is compared",
    )
