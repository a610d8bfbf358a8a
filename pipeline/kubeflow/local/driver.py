"""What the driver of Kubeflow Pipelines does before a step: resolve inputs, provision outputs.

Source: kubeflow/pipelines, backend/src/v2/driver (driver.go, resolve.go) and
backend/src/v2/metadata (converter.go). Plain functions on JSON values.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any

from pipeline.kubeflow.local.backends import Backend
from pipeline.kubeflow.mounts import local_path
from pipeline.kubeflow.package import OVERRIDES
from schemas.errors import RankerError
from schemas.loading import parse_overrides

Json = dict[str, Any]

LOGS_OUTPUT = "executor-logs"

_NUMBERS = ("NUMBER_INTEGER", "NUMBER_DOUBLE")


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclasses.dataclass(frozen=True)
class PackageRun:
    """One run of a package.

    Attributes:
        run_id: its id.
        pipeline_name: the package's `pipelineInfo.name`.
        pipeline_root: URI under which the artifacts of all runs go.
        parameters: values of the run parameters.
        backend: the back end that it runs on.
        schedule_time: the time that the schedule made it for; None if no schedule did.
        created: when it was made.
    """

    run_id: str
    pipeline_name: str
    pipeline_root: str
    parameters: Mapping[str, Any]
    backend: Backend
    schedule_time: str | None = None
    created: str = dataclasses.field(default_factory=_now)

    def macros(self, task: str) -> dict[str, str]:
        """Returns the constants that the driver replaces in a task, whole ones only."""
        macros = {
            "{{$.pipeline_job_uuid}}": self.run_id,
            "{{$.pipeline_job_name}}": f"{self.pipeline_name} {self.run_id}",
            # That of Argo's workflow.
            "{{$.pipeline_job_resource_name}}": f"{self.pipeline_name}-{self.run_id[:5]}",
            "{{$.pipeline_task_name}}": task,
        }
        if self.backend.times != "left":
            created = scheduled = ""
            if self.backend.times == "given":
                created, scheduled = self.created, self.schedule_time or self.created
            macros["{{$.pipeline_job_create_time_utc}}"] = created
            macros["{{$.pipeline_job_schedule_time_utc}}"] = scheduled
        return macros


def run_parameters(spec: Json, given: Mapping[str, Any]) -> Json:
    """Returns the values of all run parameters, given or by default.

    Raises:
        RankerError: one is unknown.
        SpecError: the overrides are not a JSON list of assignments.
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
    run: PackageRun,
    name: str,
    task: Json,
    component: Json,
    outputs: Mapping[str, Mapping[str, Json]],
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
    macros = run.macros(name)
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
    return _without_empty({"parameterValues": parameters, "artifacts": artifacts})


def provision_outputs(run: PackageRun, name: str, component: Json, salt: str) -> Json:
    """Mints the `outputs` of a step's ExecutorInput, `executor-logs` among them.

    Args:
        run: the run.
        name: name of the task.
        component: its ComponentSpec.
        salt: makes the URIs unique.
    """
    declared = dict(component.get("outputDefinitions", {}).get("artifacts", {}))
    declared[LOGS_OUTPUT] = {"artifactType": {"schemaTitle": "system.Artifact"}}
    root = "/".join((run.pipeline_root.rstrip("/"), run.pipeline_name, run.run_id, name, salt))
    artifacts = {}
    for key, spec in declared.items():
        artifact = {"uri": f"{root}/{key}", "type": spec["artifactType"]}
        if run.backend.task_folder:
            artifact["name"] = key
        if "metadata" in spec:
            artifact["metadata"] = spec["metadata"]
        artifacts[key] = {"artifacts": [artifact]}
    folder = local_path(root) if run.backend.task_folder else "/tmp/kfp_outputs"
    return {"artifacts": artifacts, "outputFile": f"{folder}/output_metadata.json"}


def record(name: str, artifact: Json, new_id: int, run: PackageRun) -> Json:
    """Returns an output artifact as the back end gives it back: what consumers are told of it.

    Args:
        name: name of the output.
        artifact: the RuntimeArtifact that the launcher publishes.
        new_id: id of the new artifact.
        run: the run.

    Raises:
        RankerError: a value of the metadata is null, on which the launcher fails where ML
            Metadata is to keep it.
    """
    metadata = artifact.get("metadata", {})
    if not run.backend.metadata_store:
        title = artifact["type"].get("schemaTitle") or artifact["type"]["instanceSchema"]
        known = {
            "name": name,
            "artifactId": f"artifact-{new_id}",
            "uri": artifact["uri"],
            "type": {"schemaTitle": title},
            "metadata": metadata,
        }
        return _without_empty(known)
    metadata = {key: _stored(f"{name}: metadata {key}", value) for key, value in metadata.items()}
    metadata.setdefault("display_name", name)
    bucket = run.pipeline_root.partition("://")[2].partition("/")[0]
    metadata["store_session_info"] = json.dumps({"Provider": "minio", "Bucket": bucket})
    return {
        "name": str(new_id),
        "uri": artifact["uri"],
        "type": {"instanceSchema": ""},
        "metadata": metadata,
    }


def _without_empty(message: Json) -> Json:
    """As protos are written to JSON: a map without entries is left out."""
    return {key: value for key, value in message.items() if value != {}}


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
