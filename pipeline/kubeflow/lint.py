"""Finds what open-source Kubeflow Pipelines would refuse in a package, or fail on at run time.

KFP's own protos say which fields there are and what they hold (`pipeline.kubeflow.protos`). The
rules here are what they cannot say, and what a change of `pipeline.dag` or of the values could
bring: those of the back end's compiler and driver (kubeflow/pipelines,
backend/src/v2/compiler/argocompiler and backend/src/v2/driver), of Argo's names and of Kubernetes'
pods. A package is compiled, not written: that its parts name each other is not looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from pipeline.kubeflow import protos

SCHEMA_VERSION = "2.1.0"

_NODE_NAME = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]*")
_PIPELINE_NAME = re.compile(r"[a-z0-9][-a-z0-9]*")
_VOLUME_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_MODULE_PARAMETERS = ("module_file", "module_path")
_VOLUMES = {"pvcMount": "constant", "secretAsVolume": "secretName"}
"""Field that names the pod's volume, by setting."""

_Json = Mapping[str, Any]


def lint(documents: Sequence[Any]) -> list[str]:
    """Finds what is wrong with a package.

    Args:
        documents: its YAML documents: the pipeline spec, and maybe a platform spec.

    Returns:
        One line a problem: where it is, what it is, and what to do. Empty: none was found.
    """
    if not 1 <= len(documents) <= 2 or not all(isinstance(item, Mapping) for item in documents):
        return [
            "package: expected one or two YAML documents, the pipeline spec and the platform spec"
        ]
    try:
        # What the server reads is JSON, where every key is a string.
        documents = json.loads(json.dumps(documents))
    except (TypeError, ValueError) as error:
        return [f"package: cannot be written as JSON ({error})"]
    spec = documents[0]
    if "pipelineSpec" in spec:
        return [
            "package: a wrapped job as TFX writes it to .json; compile to .yaml, a bare pipeline "
            "spec"
        ]
    misread = protos.problems(documents)
    if misread:
        return misread
    problems = [*_check_head(spec), *_check_executors(spec), *_check_tasks(spec)]
    for platform in documents[1:]:
        problems += _check_platform(platform)
    return problems


def _check_head(spec: _Json) -> Iterator[str]:
    version = spec.get("schemaVersion")
    if version != SCHEMA_VERSION:
        yield (
            f"schemaVersion: {version!r}, but the back end reads {SCHEMA_VERSION}; compile with "
            "use_pipeline_spec_2_1"
        )
    name = _get(spec, "pipelineInfo").get("name") or ""
    if not _PIPELINE_NAME.fullmatch(name):
        yield (
            f"pipelineInfo.name: {name!r} cannot begin a Kubernetes name; use lower-case letters, "
            "digits and -"
        )


def _check_executors(spec: _Json) -> Iterator[str]:
    for label, executor in _get(spec, "deploymentSpec", "executors").items():
        where = f"deploymentSpec.executors.{label}"
        if "resolver" in executor:
            yield (
                f"{where}: is a resolver, which the back end does not implement; find the "
                "artifact in a component"
            )
        if "customJob" in executor:
            yield f"{where}: is a custom job, which only Vertex AI runs"
        if "lifecycle" in _get(executor, "container"):
            yield (
                f"{where}.container.lifecycle: is a driver of TFX's file-based ExampleGen, which "
                "only Vertex AI runs; {SPAN} and dates in patterns would stay as they are"
            )


def _check_tasks(spec: _Json) -> Iterator[str]:
    for name, task in _tasks(spec).items():
        where = f"root.dag.tasks.{name}"
        if not _NODE_NAME.fullmatch(name):
            yield f"{where}: Argo takes letters, digits and - in a name; rename the component"
        component = _get(task, "componentRef").get("name", "")
        declared = _get(spec, "components", component, "outputDefinitions", "artifacts")
        for output, declaration in declared.items():
            yield from _check_type(
                f"components.{component}.outputDefinitions.artifacts.{output}",
                _get(declaration, "artifactType"),
            )
        if "condition" in _get(task, "triggerPolicy"):
            yield (
                f"{where}.triggerPolicy.condition: TFX writes Cond for Vertex AI; decide inside "
                "the component"
            )
        if "artifactIterator" in task:
            yield f"{where}.artifactIterator: the back end does not implement it"
        for parameter, source in _get(task, "inputs", "parameters").items():
            here = f"{where}.inputs.parameters.{parameter}"
            if parameter in _MODULE_PARAMETERS:
                yield (
                    f"{here}: TFX would install this module with pip in the running container; "
                    "give run_fn or preprocessing_fn, and have the module in the image"
                )
            if "taskOutputParameter" in source:
                producer = _get(source, "taskOutputParameter").get("producerTask")
                yield (
                    f"{here}: there is no task {producer!r}, as TFX names it, to produce it; hand "
                    "it over in an artifact"
                )


def _check_type(where: str, artifact_type: _Json) -> Iterator[str]:
    if "schemaUri" in artifact_type:
        yield f"{where}: the back end does not read schemaUri; give schemaTitle or instanceSchema"
        return
    try:
        schema = yaml.safe_load(artifact_type.get("instanceSchema", ""))
    except yaml.YAMLError:
        schema = None
    titled = isinstance(schema, Mapping) and schema.get("title")
    if not (artifact_type.get("schemaTitle") or titled):
        yield f"{where}: its type has no title, neither in schemaTitle nor in instanceSchema"


def _check_platform(document: _Json) -> Iterator[str]:
    executors = _get(document, "platforms", "kubernetes", "deploymentSpec", "executors")
    for label, config in executors.items():
        yield from _check_volumes(f"platforms.kubernetes.deploymentSpec.executors.{label}", config)


def _check_volumes(where: str, config: _Json) -> Iterator[str]:
    """Each setting makes a volume of the pod, under the name of what it mounts."""
    taken: dict[str, str] = {}
    for setting, field in _VOLUMES.items():
        for index, mount in enumerate(config.get(setting) or ()):
            here, name = f"{where}.{setting}.{index}.{field}", mount.get(field) or ""
            if not _VOLUME_NAME.fullmatch(name):
                yield (
                    f"{here}: {name!r} cannot be the name of a volume in a pod; use lower-case "
                    "letters, digits and -, 63 at most"
                )
            if name in taken:
                yield f"{here}: {name!r} is the name of {taken[name]}, too; rename one"
            taken[name] = f"{setting}'s volume"


def dependencies(task: _Json) -> set[str]:
    """Returns the tasks that must have ended before `task`: stated, or producing its inputs."""
    sources = [
        *_get(task, "inputs", "artifacts").values(),
        *_get(task, "inputs", "parameters").values(),
    ]
    outputs = [
        source[kind]
        for source in sources
        for kind in ("taskOutputArtifact", "taskOutputParameter")
        if source.get(kind)
    ]
    stated = task.get("dependentTasks") or ()
    return {*stated, *(output.get("producerTask", "") for output in outputs)}


def _tasks(spec: _Json) -> _Json:
    return _get(spec, "root", "dag", "tasks")


def _get(content: _Json, *keys: str) -> _Json:
    for key in keys:
        content = content.get(key) or {}
    return content
