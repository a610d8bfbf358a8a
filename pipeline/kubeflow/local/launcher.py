"""What the launcher of Kubeflow Pipelines does around a step's command.

Source: kubeflow/pipelines, backend/src/v2/component/launcher_v2.go. The object stores are a
folder, in which `minio/bucket/key` is minio://bucket/key.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import failure
from pipeline.kubeflow.entrypoint import MOUNTS_VARIABLE
from pipeline.kubeflow.local.backends import Backend
from pipeline.kubeflow.local.driver import LOGS_OUTPUT
from pipeline.kubeflow.mounts import local_path
from schemas.errors import RankerError

Json = dict[str, Any]

_FAILURE_FILE = "/tmp/failure.json"
"""Where a step's command tells what it fails with, in its container."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """Runs steps in containers of their image.

    Attributes:
        run: the beginning of the command that starts one, such as `docker run --network none`.
        volumes: folders of this machine by their path in the container.
    """

    run: Sequence[str]
    volumes: Mapping[str, str]


def launch(
    executor_input: Json,
    component: Json,
    container: Json,
    store: Path,
    pod: Path,
    log: Path,
    backend: Backend,
    attempt: int = 0,
    engine: Engine | None = None,
) -> dict[str, Json]:
    """Runs a step once, in a folder of its own.

    Only its inputs are downloaded there, and its outputs are uploaded after success; the
    folder is deleted whatever happens.

    Args:
        executor_input: the ExecutorInput as JSON.
        component: the step's ComponentSpec.
        container: its PipelineContainerSpec.
        store: folder of the object stores.
        pod: folder of the container, which stands for its `/`; made anew.
        log: file of what the command prints.
        backend: whose launcher it is.
        attempt: how often the step was run before.
        engine: starts the container. If None, the command runs in a process of this machine, and
            `python` in it is this interpreter.

    Returns:
        RuntimeArtifacts by name, as the launcher publishes them.

    Raises:
        RankerError: the command failed, with what it told (`pipeline.failure`) or the last line
            that it printed; or an output could not be uploaded. The pod ends with exit code 1 in
            either case, whatever that of the command was.
    """
    executor_input = copy.deepcopy(executor_input)
    if backend.logs_by_attempt:
        _artifacts(executor_input["outputs"])[LOGS_OUTPUT]["uri"] += f"-{attempt}"
    pod.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, pod)
        for artifact in _artifacts(executor_input["inputs"]).values():
            _download(_local(artifact["uri"], store), _local(artifact["uri"], pod))
        outputs = _artifacts(executor_input["outputs"])
        for artifact in outputs.values():
            _local(artifact["uri"], pod).parent.mkdir(parents=True, exist_ok=True)
        output_file = Path(f"{pod}{executor_input['outputs']['outputFile']}")
        for folder in (output_file.parent, pod / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        # The command line silences TensorFlow; a step's log is to have its warnings.
        variables = {"TF_CPP_MIN_LOG_LEVEL": "1", **_environment(container)}
        variables[failure.VARIABLE] = f"{'' if engine else pod}{_FAILURE_FILE}"
        given = _with_defaults(executor_input, component)
        if engine is None:
            given["outputs"] = {**given["outputs"], "outputFile": str(output_file)}
            command = _command(container, given, str(pod))
            if command[0] in ("python", "python3"):
                command[0] = sys.executable
            variables = {**os.environ, **variables, MOUNTS_VARIABLE: str(pod)}
        else:
            command = _in_container(
                engine, _command(container, given, ""), container, variables, pod
            )
            variables = dict(os.environ)
        with log.open("wb") as file:
            done = subprocess.run(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode != 0:
            told = failure.read(f"{pod}{_FAILURE_FILE}")
            if told is not None:
                raise RankerError(str(told))
            words = failure.last_line(str(log))
            ended = f"the command ended with {done.returncode}"
            raise RankerError(f"{ended}: {words}" if words else ended)
        shutil.copyfile(log, _local(outputs[LOGS_OUTPUT]["uri"], pod))
        reported = json.loads(output_file.read_text("utf-8")) if output_file.exists() else {}
        for name, artifact in _artifacts(reported).items():
            if name in outputs:
                _merge(artifact, outputs[name])
        for name, artifact in outputs.items():
            _upload(name, artifact["uri"], pod, store, lenient=backend.metadata_store)
        return outputs


def _in_container(
    engine: Engine, command: Sequence[str], container: Json, variables: Mapping[str, str], pod: Path
) -> list[str]:
    """The command that runs a step's command in its image, the launcher's folders mounted."""
    # The container's user is not this one, and writes here.
    for folder in (pod, *(path for path in pod.rglob("*") if path.is_dir())):
        folder.chmod(0o777)
    mounts = {f"/{folder.name}": str(folder) for folder in sorted(pod.iterdir())}
    options = ["--rm", "--entrypoint", command[0]]
    for inside, outside in {**engine.volumes, **mounts}.items():
        options += ["--volume", f"{outside}:{inside}"]
    for name, value in variables.items():
        options += ["--env", f"{name}={value}"]
    return [*engine.run, *options, container["image"], *command[1:]]


def placeholders(executor_input: Json, base: str) -> dict[str, str]:
    """Returns what the launcher replaces in command and arguments.

    Args:
        executor_input: the ExecutorInput as JSON.
        base: folder of the launcher's mounts, as the command sees it.
    """
    replaced = {"{{$}}": json.dumps(executor_input)}
    for kind in ("inputs", "outputs"):
        for name, artifact in _artifacts(executor_input[kind]).items():
            replaced[f"{{{{$.{kind}.artifacts['{name}'].uri}}}}"] = artifact["uri"]
            path = local_path(artifact["uri"], base)
            if path is not None:
                replaced[f"{{{{$.{kind}.artifacts['{name}'].path}}}}"] = path
    for name, value in executor_input["inputs"].get("parameterValues", {}).items():
        replaced[f"{{{{$.inputs.parameters['{name}']}}}}"] = _text(value)
    return replaced


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _with_defaults(executor_input: Json, component: Json) -> Json:
    declared = component.get("inputDefinitions", {}).get("parameters", {})
    defaults = {k: v["defaultValue"] for k, v in declared.items() if "defaultValue" in v}
    inputs = executor_input["inputs"]
    values = {**defaults, **inputs.get("parameterValues", {})}
    if values:
        inputs = {**inputs, "parameterValues": values}
    return {**executor_input, "inputs": inputs}


def _command(container: Json, executor_input: Json, base: str) -> list[str]:
    replaced = placeholders(executor_input, base)
    command = [*container["command"], *container.get("args", ())]
    for placeholder, value in replaced.items():
        command = [argument.replace(placeholder, value) for argument in command]
    return command


def _environment(container: Json) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container.get("env", ())}


def _artifacts(content: Json) -> dict[str, Json]:
    items = content.get("artifacts", {}).items()
    return {name: artifacts["artifacts"][0] for name, artifacts in items}


def _merge(reported: Json, artifact: Json) -> None:
    artifact["uri"] = reported.get("uri") or artifact["uri"]
    artifact["metadata"] = {**artifact.get("metadata", {}), **reported.get("metadata", {})}


def _local(uri: str, base: Path) -> Path:
    path = local_path(uri, str(base))
    if path is None:
        raise ValueError(f"{uri}: neither gs://, s3:// nor minio://")
    return Path(path)


def _download(source: Path, target: Path) -> None:
    """Copies a file or a folder's files; object stores have no empty folders."""
    for file in [source] if source.is_file() else sorted(source.rglob("*")):
        if file.is_file():
            _copy(file, target / file.relative_to(source))


def _upload(name: str, uri: str, pod: Path, store: Path, lenient: bool) -> None:
    """Copies an output to the object store as the launcher does.

    Args:
        name: name of the output.
        uri: its URI.
        pod: folder of the container.
        store: folder of the object stores.
        lenient: whether one is passed over whose URI is of no store, or that is not there.

    Raises:
        RankerError: it cannot be uploaded.
    """
    if local_path(uri) is None:
        if lenient:
            return
        raise RankerError(f"output {name}: {uri} is not a URI of an object store")
    source, target = _local(uri, pod), _local(uri, store)
    if not source.exists():
        if lenient:
            return
        raise RankerError(f"output {name}: the step has not written {source.relative_to(pod)}")
    for file in [source] if source.is_file() else sorted(source.rglob("*")):
        if not file.exists() and lenient:
            return  # A link to nothing counts as an output that is not there.
        # A link to a folder is read as the file that it is not.
        if file.is_symlink() and not file.is_file():
            raise RankerError(f"output {name}: {file.relative_to(pod)} is a link to no file")
        if file.is_file():
            _copy(file, target / file.relative_to(source))


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
