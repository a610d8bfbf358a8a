"""What the driver of Kubeflow Pipelines does before a step: resolve inputs, provision outputs.

Source: kubeflow/pipelines, backend/src/v2/driver (driver.go, resolve.go) and
backend/src/v2/metadata (converter.go). Plain functions on JSON values.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.kubeflow.package import OVERRIDES
from schemas.errors import RankerError
from schemas.loading import parse_overrides

Json = dict[str, Any]

OUTPUT_FILE = "/tmp/kfp_outputs/output_metadata.json"
LOGS_OUTPUT = "executor-logs"

_NUMBERS = ("NUMBER_INTEGER", "NUMBER_DOUBLE")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a package.

    Attributes:
        run_id: its id.
        pipeline_name: the package's `pipelineInfo.name`.
        pipeline_root: URI under which the artifacts of all runs go.
        parameters: values of the run parameters.
        schedule_time: what the schedule-time macro becomes: a time from 2.17.0 on, an empty
            string in 2.16; None for an older back end, which leaves the macro as it is.
    """

    run_id: str
    pipeline_name: str
    pipeline_root: str
    parameters: Mapping[str, Any]
    schedule_time: str | None = None

    def macros(self) -> dict[str, str]:
        """Returns the constants that the driver replaces, whole ones only."""
        macros = {
            "{{$.pipeline_job_uuid}}": self.run_id,
            "{{$.pipeline_job_name}}": self.run_id,
            "{{$.pipeline_job_resource_name}}": self.run_id,
        }
        if self.schedule_time is not None:
            macros["{{$.pipeline_job_schedule_time_utc}}"] = self.schedule_time
        return macros


def run_parameters(spec: Json, given: Mapping[str, Any]) -> Json:
    """Returns the values of all run parameters, given or by default.

    Raises:
        RankerError: one is unknown.
        SpecError: the overrides are no JSON list of assignments.
    """
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    for name in given:
        if name not in declared:
            raise RankerError(
                f"{name}: the package has no such run parameter; it has {', '.join(declared)}"
            )
    if OVERRIDES in given:
        parse_overrides(given[OVERRIDES])
    return {
        name: given.get(name, declaration["defaultValue"]) for name, declaration in declared.items()
    }


def resolve_inputs(
    run: Run, name: str, task: Json, component: Json, outputs: Mapping[str, Mapping[str, Json]]
) -> Json:
    """Mints the `inputs` of a step's ExecutorInput.

    Args:
        run: the run.
        name: name of the task.
        task: its PipelineTaskSpec.
        component: its ComponentSpec.
        outputs: recorded artifacts by task and output.

    Raises:
        RankerError: a value has another type than declared, or there is none.
    """
    declared = component.get("inputDefinitions", {}).get("parameters", {})
    given = task.get("inputs", {})
    macros = run.macros()
    parameters = {}
    for key, source in given.get("parameters", {}).items():
        if "componentInputParameter" in source:
            value = run.parameters[source["componentInputParameter"]]
        elif "runtimeValue" in source:
            value = source["runtimeValue"]["constant"]
            value = macros.get(value, value) if isinstance(value, str) else value
        else:
            raise RankerError(f"{name}: {key}: parameters out of tasks are not run locally")
        parameters[key] = _typed(f"{name}: {key}", value, declared[key]["parameterType"])
    for key, declaration in declared.items():
        if key not in parameters and not declaration.get("isOptional"):
            raise RankerError(f"{name}: {key}: the parameter has neither value nor default")
    artifacts = {
        key: {"artifacts": [_runtime_artifact(outputs, source["taskOutputArtifact"])]}
        for key, source in given.get("artifacts", {}).items()
    }
    return {"parameterValues": parameters, "artifacts": artifacts}


def provision_outputs(run: Run, name: str, component: Json, salt: str) -> Json:
    """Mints the `outputs` of a step's ExecutorInput, `executor-logs` among them.

    Args:
        run: the run.
        name: name of the task.
        component: its ComponentSpec.
        salt: makes the URIs unique.
    """
    declared = dict(component.get("outputDefinitions", {}).get("artifacts", {}))
    declared[LOGS_OUTPUT] = {"artifactType": {"schemaTitle": "system.Artifact"}}
    root = "/".join((run.pipeline_root.rstrip("/"), run.pipeline_name, run.run_id))
    artifacts = {}
    for key, spec in declared.items():
        artifact = {"uri": f"{root}/{name}/{salt}/{key}", "type": spec["artifactType"]}
        if "metadata" in spec:
            artifact["metadata"] = spec["metadata"]
        artifacts[key] = {"artifacts": [artifact]}
    return {"artifacts": artifacts, "outputFile": OUTPUT_FILE}


def record(name: str, artifact: Json, new_id: Callable[[], int], bucket: str) -> Json:
    """Returns an output artifact as ML Metadata gives it back: what consumers are told of it.

    Args:
        name: name of the output.
        artifact: the RuntimeArtifact that the launcher publishes.
        new_id: gives the id of a new artifact.
        bucket: the bucket that it is in.

    Raises:
        RankerError: a value of the metadata is null, on which the launcher fails.
    """
    metadata = {
        key: _stored(f"{name}: metadata {key}", value)
        for key, value in artifact.get("metadata", {}).items()
    }
    metadata.setdefault("display_name", name)
    metadata["store_session_info"] = json.dumps({"Provider": "minio", "Bucket": bucket})
    return {
        "name": str(new_id()),
        "uri": artifact["uri"],
        "type": {"instanceSchema": ""},
        "metadata": metadata,
    }


def _typed(where: str, value: Any, kind: str) -> Any:
    if kind == "STRING":
        return value if isinstance(value, str) else json.dumps(value)
    if kind in _NUMBERS and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    matches = {"BOOLEAN": bool, "LIST": list, "STRUCT": dict}.get(kind)
    if matches is None or not isinstance(value, matches):
        raise RankerError(f"{where}: expected {kind}, got {value!r}")
    return value


def _runtime_artifact(outputs: Mapping[str, Mapping[str, Json]], source: Json) -> Json:
    return outputs[source["producerTask"]][source["outputArtifactKey"]]


def _stored(where: str, value: Any) -> Any:
    """What ML Metadata makes of a value: numbers are doubles, lists and structs are wrapped."""
    if value is None:
        raise RankerError(f"{where}: is null; the launcher cannot record it")
    if isinstance(value, (bool, int, float)):
        return float(value)
    if isinstance(value, list):
        return {"list": value}
    if isinstance(value, dict):
        return {"struct": value}
    return value
