"""Finds what open-source Kubeflow Pipelines would refuse in a package, or fail on at run time.

KFP's own protos say which fields there are and what they hold (`pipeline.kubeflow.protos`). The
rules here are what they cannot say: those of the back end's compiler and driver
(kubeflow/pipelines, backend/src/v2/compiler/argocompiler and backend/src/v2/driver), of Argo's
names and of Kubernetes' pods.
"""

from __future__ import annotations

import collections
import graphlib
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
_EXECUTORS = {"container", "importer"}
_MODULE_PARAMETERS = ("module_file", "module_path")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}
_VOLUMES = {
    "pvcMount": ("constant", "a claim"),
    "secretAsVolume": ("secretName", "a secret"),
    "configMapAsVolume": ("configMapName", "a config map"),
    "emptyDirMounts": ("volumeName", "a volume"),
    "genericEphemeralVolume": ("volumeName", "a volume"),
}
"""Field that names the pod's volume, and what it names, by setting."""

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
    problems += _check_cycles(_tasks(spec))
    if len(documents) == 2:
        problems += _check_platform(documents[1], _get(spec, "deploymentSpec", "executors"))
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
    for name, declared in _get(spec, "root", "inputDefinitions", "parameters").items():
        where = f"root.inputDefinitions.parameters.{name}"
        if "defaultValue" not in declared:
            yield f"{where}: has no defaultValue, so a run must give it; TFX drops the defaults"
        yield from _check_declared(where, declared)
    if not _tasks(spec):
        yield "root.dag.tasks: the pipeline has no task"


def _check_executors(spec: _Json) -> Iterator[str]:
    users = collections.defaultdict(list)
    for name, component in _get(spec, "components").items():
        if component.get("executorLabel"):
            users[component["executorLabel"]].append(name)
    for label, names in users.items():
        if len(names) > 1:
            yield (
                f"deploymentSpec.executors.{label}: is the container of {' and '.join(names)}; the "
                "back end wants one for each component"
            )
    for label, executor in _get(spec, "deploymentSpec", "executors").items():
        where = f"deploymentSpec.executors.{label}"
        kinds = set(executor) & {*_EXECUTORS, "resolver", "customJob"}
        if kinds == {"resolver"}:
            yield (
                f"{where}: is a resolver, which the back end does not implement; find the "
                "artifact in a component"
            )
        elif kinds == {"customJob"}:
            yield f"{where}: is a custom job, which only Vertex AI runs"
        elif len(kinds) != 1:
            yield f"{where}: expected one of container and importer, got {sorted(executor)}"
        if "container" in executor:
            yield from _check_container(where, _get(executor, "container"))


def _check_container(where: str, container: _Json) -> Iterator[str]:
    if not container.get("image"):
        yield f"{where}.container.image: is missing"
    if not container.get("command"):
        yield (
            f"{where}.container.command: is missing; the launcher runs it in place of the image's "
            "own entry point"
        )
    if "lifecycle" in container:
        yield (
            f"{where}.container.lifecycle: is a driver of TFX's file-based ExampleGen, which only "
            "Vertex AI runs; {SPAN} and dates in patterns would stay as they are"
        )
    accelerator = _get(container, "resources", "accelerator").get("type", "")
    if accelerator and "/" not in accelerator:
        yield (
            f"{where}.container.resources.accelerator.type: {accelerator!r} is Vertex AI's name; "
            "give the nodes' extended resource, such as nvidia.com/gpu"
        )


def _check_tasks(spec: _Json) -> Iterator[str]:
    tasks = _tasks(spec)
    run_parameters = _get(spec, "root", "inputDefinitions", "parameters")
    for name, task in tasks.items():
        where = f"root.dag.tasks.{name}"
        if not _NODE_NAME.fullmatch(name):
            yield f"{where}: Argo takes letters, digits and - in a name; rename the component"
        component_name = _get(task, "componentRef").get("name", "")
        component = _get(spec, "components").get(component_name)
        if component is None:
            yield f"{where}.componentRef: there is no component {component_name!r}"
            continue
        if not _NODE_NAME.fullmatch(component_name):
            yield f"components.{component_name}: Argo takes letters, digits and - in a name"
        for output, declared in _get(component, "outputDefinitions", "artifacts").items():
            yield from _check_type(
                f"components.{component_name}.outputDefinitions.artifacts.{output}",
                _get(declared, "artifactType"),
            )
        label = component.get("executorLabel")
        if label not in _get(spec, "deploymentSpec", "executors"):
            yield f"components.{component_name}.executorLabel: there is no executor {label!r}"
        if _get(task, "taskInfo").get("name") != name:
            yield f"{where}.taskInfo.name: differs, so the tasks after it cannot find its outputs"
        if "condition" in _get(task, "triggerPolicy"):
            yield (
                f"{where}.triggerPolicy.condition: TFX writes Cond for Vertex AI; decide inside "
                "the component"
            )
        if "artifactIterator" in task:
            yield f"{where}.artifactIterator: the back end does not implement it"
        for dependency in task.get("dependentTasks") or ():
            if dependency not in tasks:
                yield f"{where}.dependentTasks: there is no task {dependency!r}"
        policy = _get(task, "retryPolicy")
        if policy.get("maxRetryCount") and "backoffMaxDuration" not in policy:
            yield (
                f"{where}.retryPolicy.backoffMaxDuration: is missing and counts as 0 seconds from "
                "the first attempt's start, so nothing is tried again"
            )
        yield from _check_artifacts(where, spec, task, component)
        yield from _check_parameters(where, spec, task, component, run_parameters)


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


def _check_artifacts(where: str, spec: _Json, task: _Json, component: _Json) -> Iterator[str]:
    declared = _get(component, "inputDefinitions", "artifacts")
    given = _get(task, "inputs", "artifacts")
    for name in declared:
        if name not in given and not declared[name].get("isOptional"):
            yield f"{where}.inputs.artifacts.{name}: the component needs it"
    for name, source in given.items():
        here = f"{where}.inputs.artifacts.{name}"
        if name not in declared:
            yield f"{here}: the component has no such input"
        output = source.get("taskOutputArtifact")
        if output is None:
            yield f"{here}: comes from no task"
            continue
        yield from _check_producer(
            here, spec, output.get("producerTask"), output.get("outputArtifactKey"), "artifacts"
        )


def _check_parameters(
    where: str, spec: _Json, task: _Json, component: _Json, run_parameters: _Json
) -> Iterator[str]:
    declared = _get(component, "inputDefinitions", "parameters")
    given = _get(task, "inputs", "parameters")
    for name, declaration in declared.items():
        yield from _check_declared(f"{where}: parameter {name}", declaration)
        if (
            name not in given
            and "defaultValue" not in declaration
            and not declaration.get("isOptional")
        ):
            yield f"{where}.inputs.parameters.{name}: the component needs it"
    for name, source in given.items():
        here = f"{where}.inputs.parameters.{name}"
        if name not in declared:
            yield f"{here}: the component has no such parameter"
        if name in _MODULE_PARAMETERS:
            yield (
                f"{here}: TFX would install this module with pip in the running container; give "
                "run_fn or preprocessing_fn, and have the module in the image"
            )
        if "componentInputParameter" in source:
            if source["componentInputParameter"] not in run_parameters:
                yield f"{here}: there is no run parameter {source['componentInputParameter']!r}"
        elif "taskOutputParameter" in source:
            output = _get(source, "taskOutputParameter")
            yield from _check_producer(
                here,
                spec,
                output.get("producerTask"),
                output.get("outputParameterKey"),
                "parameters",
            )
        elif "constant" not in _get(source, "runtimeValue"):
            yield (
                f"{here}: has neither a run parameter, nor a producer, nor a constant of schema "
                f"{SCHEMA_VERSION}"
            )
        elif name in declared:
            yield from _check_value(here, source["runtimeValue"]["constant"], declared[name])


def _check_producer(here: str, spec: _Json, producer: Any, key: Any, kind: str) -> Iterator[str]:
    task = _tasks(spec).get(producer)
    if task is None:
        yield f"{here}: there is no task {producer!r} to produce it"
        return
    component = _get(spec, "components").get(_get(task, "componentRef").get("name", ""), {})
    if key not in _get(component, "outputDefinitions", kind):
        yield f"{here}: task {producer!r} has no output {key!r}"


def _check_declared(where: str, declaration: _Json) -> Iterator[str]:
    if "parameterType" not in declaration:
        yield f"{where}: has no parameterType, as in schema 2.0; compile for {SCHEMA_VERSION}"
    if "defaultValue" in declaration:
        yield from _check_value(f"{where}: defaultValue", declaration["defaultValue"], declaration)


def _check_value(where: str, value: Any, declaration: _Json) -> Iterator[str]:
    kind = declaration.get("parameterType", "")
    types = _TYPES.get(kind)
    fits = types is None or (
        isinstance(value, types) and (bool in types or not isinstance(value, bool))
    )
    if fits and kind == "NUMBER_INTEGER":
        fits = float(value).is_integer()
    if not fits:
        yield f"{where}: is declared as {kind}, got {value!r:.60}"


def _check_cycles(tasks: _Json) -> Iterator[str]:
    graph = {name: dependencies(task) & set(tasks) for name, task in tasks.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield f"root.dag.tasks: each waits for the next: {' <- '.join(error.args[1])}"


def _check_platform(document: _Json, executors: _Json) -> Iterator[str]:
    if set(document) != {"platforms"} or set(_get(document, "platforms")) != {"kubernetes"}:
        yield "platform spec: expected platforms.kubernetes and nothing else"
        return
    for label, config in _get(
        document, "platforms", "kubernetes", "deploymentSpec", "executors"
    ).items():
        where = f"platforms.kubernetes.deploymentSpec.executors.{label}"
        if label not in executors:
            yield f"{where}: there is no such executor in the pipeline spec"
        yield from _check_volumes(where, config)


def _check_volumes(where: str, config: _Json) -> Iterator[str]:
    """Each setting makes a volume of the pod, under the name of what it mounts."""
    taken: dict[str, str] = {}
    for setting, (field, what) in _VOLUMES.items():
        for index, mount in enumerate(config.get(setting) or ()):
            here = f"{where}.{setting}.{index}"
            name = mount.get(field) or ""
            if not name:
                yield f"{here}.{field}: is missing; name {what}"
                continue
            if not _VOLUME_NAME.fullmatch(name):
                yield (
                    f"{here}.{field}: {name!r} cannot be the name of a volume in a pod; use "
                    "lower-case letters, digits and -, 63 at most"
                )
            if name in taken:
                yield f"{here}.{field}: {name!r} is the name of {taken[name]}, too; rename one"
            taken[name] = f"{setting}'s volume"
            if not mount.get("mountPath"):
                yield f"{here}.mountPath: is missing"


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
