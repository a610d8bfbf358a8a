"""What a step's container runs: TFX's own entry point, made fit for open-source Kubeflow.

The launcher hands over an ExecutorInput, and reads an output metadata file and local copies of
the artifacts back. TFX's entry point (tfx.orchestration.kubeflow.v2.container) was made for
Vertex AI. This one

* leaves out the output `executor-logs`, which the back end adds of itself and whose type TFX
  does not know;
* fills in the types of the input artifacts, which the back end leaves empty, from the
  component's declaration, and knows the types of `components.artifacts`;
* maps URIs gs://, s3:// and minio:// to the launcher's copies and makes the folders of the
  outputs, as TFX's drivers do elsewhere, but none for a page, of which Kubeflow's UI reads the
  one object at the URI; paths in parameters (logs, day store, serving folder, spec) are not
  artifacts and stay what they are;
* writes the artifacts' own URIs into the output metadata, without which the launcher uploads
  nothing (in properties too, where an executor noted the path of an artifact), and leaves null
  values out of it, on which the launcher fails;
* has Beam's workers elsewhere answer a small job before ingestion depends on them;
* ends with the message and the exit code of the named error that the executor failed with.

With `--remote_artifacts`, artifacts are read and written at their URIs instead: Beam's workers
on other machines have no copies. The launcher finds an empty folder then, of which it uploads
nothing; without one, that of Kubeflow Pipelines 3.0 would fail.

Usage: see `pipeline.kubeflow.compile`; flags are TFX's, then Beam's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from components import properties
from pipeline import failure, notify
from pipeline.flink.check import check_workers
from pipeline.kubeflow.mounts import local_path

MOUNTS_VARIABLE = "STEADYRANK_MOUNTS"
"""Environment variable with the folder of the launcher's mounts. Only the local harness sets it;
in a container they are under `/`."""

_LOGS_OUTPUT = "executor-logs"


def run(arguments: Sequence[str], mounts: str = "/") -> None:
    """Runs an executor as the launcher asks for it.

    Args:
        arguments: the command line, without the program.
        mounts: folder of the launcher's mounts.

    Raises:
        Exception: whatever the executor fails with; no output metadata is written then.
    """
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--executor_class_path", required=True)
    parser.add_argument("--json_serialized_invocation_args", required=True)
    parser.add_argument("--json_serialized_inputs_spec_args", required=True)
    parser.add_argument("--remote_artifacts", action="store_true")
    flags, beam_args = parser.parse_known_args(arguments)
    given = json.loads(flags.json_serialized_invocation_args)
    declared = json.loads(flags.json_serialized_inputs_spec_args)
    remote = flags.remote_artifacts
    mended = mend_input(given, declared, mounts, remote)
    if flags.executor_class_path.startswith("components.daily_example_gen."):
        # The first of a run that needs Beam's workers, and would wait for them for ever.
        check_workers(beam_args, _output_folder(mended))
    flags.json_serialized_invocation_args = json.dumps(mended)
    _register_types()
    kubeflow_v2_run_executor.main((flags, beam_args))
    output_file = given["outputs"]["outputFile"]
    with open(output_file, encoding="utf-8") as file:
        output = json.load(file)
    output = mend_output(output, given, mounts, remote)
    with open(output_file, "w", encoding="utf-8") as file:
        json.dump(output, file)
    if flags.executor_class_path.startswith("components.pusher."):
        _tell_end_of_day(given, output)


def mend_input(
    executor_input: dict[str, Any], inputs_spec: dict[str, Any], mounts: str, remote: bool = False
) -> dict[str, Any]:
    """Makes an ExecutorInput one that TFX can read.

    Args:
        executor_input: the ExecutorInput as JSON, as the launcher hands it over.
        inputs_spec: the component's ComponentInputsSpec as JSON.
        mounts: folder of the launcher's mounts.
        remote: leave the URIs as they are.

    Returns:
        A changed copy. The folders of the outputs' local copies exist, except of a page that is
        to be written there.
    """
    mended = json.loads(json.dumps(executor_input))
    types = inputs_spec.get("artifacts", {})
    inputs = mended.get("inputs", {}).get("artifacts", {})
    for name, artifacts in inputs.items():
        for artifact in artifacts.get("artifacts", []):
            artifact["type"] = types[name]["artifactType"]
            # The path of the copy is gone with the pod: what is noted for later is this.
            artifact["metadata"] = {
                **artifact.get("metadata", {}),
                properties.OWN_URI.name: artifact["uri"],
            }
            artifact["uri"] = _path(artifact["uri"], mounts, remote)
    outputs = mended["outputs"].get("artifacts", {})
    outputs.pop(_LOGS_OUTPUT, None)
    for artifacts in outputs.values():
        for artifact in artifacts["artifacts"]:
            folder = _path(artifact["uri"], mounts)
            if "://" not in folder and (remote or not _is_page(artifact)):
                os.makedirs(folder, exist_ok=True)
            artifact["uri"] = _path(artifact["uri"], mounts, remote)
    return mended


def mend_output(
    executor_output: dict[str, Any],
    executor_input: dict[str, Any],
    mounts: str,
    remote: bool = False,
) -> dict[str, Any]:
    """Makes an ExecutorOutput one that the launcher can publish.

    Args:
        executor_output: the ExecutorOutput as JSON, as TFX wrote it.
        executor_input: the ExecutorInput as JSON, as the launcher handed it over.
        mounts: folder of the launcher's mounts.
        remote: whether the URIs were left as they are.

    Returns:
        A changed copy.
    """
    uris = {
        _path(artifact["uri"], mounts, remote): artifact["uri"]
        for kind in ("inputs", "outputs")
        for artifacts in executor_input.get(kind, {}).get("artifacts", {}).values()
        for artifact in artifacts["artifacts"]
    }
    mended = json.loads(json.dumps(executor_output))
    for artifacts in mended.get("artifacts", {}).values():
        for artifact in artifacts["artifacts"]:
            artifact["uri"] = uris.get(artifact["uri"], artifact["uri"])
            artifact["metadata"] = {
                key: uris.get(value, value) if isinstance(value, str) else value
                for key, value in artifact.get("metadata", {}).items()
                if value is not None
            }
    return mended


def _tell_end_of_day(given: dict[str, Any], output: dict[str, Any]) -> None:
    """Tells after the last step how the day ended; never raises.

    Args:
        given: the step's ExecutorInput as JSON.
        output: its ExecutorOutput as JSON.
    """

    def metadata(artifacts: dict[str, Any], name: str) -> dict[str, Any]:
        found = artifacts.get(name, {}).get("artifacts") or [{}]
        return found[0].get("metadata", {})

    try:
        inputs = given.get("inputs", {}).get("artifacts", {})
        pushed = metadata(output.get("artifacts", {}), "pushed_model")
        data = {
            "reason": "\n".join(properties.REFUSED_REASONS.of(metadata(inputs, "model_blessing"))),
            "served_version": properties.PUSHED_VERSION.of(pushed),
        }
        notices = notify.notices_of(
            "pushed" if properties.PUSHED.of(pushed) else "blocked",
            properties.RUN_DATE.of(metadata(inputs, "plan")),
            data,
            before="",
            notes=properties.INGESTION_NOTES.of(metadata(inputs, "examples")),
        )
        notify.send(notices, _source())
    except Exception as error:
        print(f"no notification: {error!r}", file=sys.stderr)


def _source() -> str:
    """The pod, whose name begins with that of the run."""
    return f"/steadyrank/kubeflow/{os.environ.get('HOSTNAME', '')}"


def _output_folder(mended: dict[str, Any]) -> str:
    """Where a step writes: the folder of one of its outputs."""
    artifacts = next(iter(mended["outputs"]["artifacts"].values()))["artifacts"]
    return str(artifacts[0]["uri"])


def _is_page(artifact: dict[str, Any]) -> bool:
    from components import artifacts

    return bool(artifact["type"].get("schemaTitle") == artifacts.Page.TYPE_NAME)


def _path(uri: str, mounts: str, remote: bool = False) -> str:
    return uri if remote else local_path(uri, mounts) or uri


def _register_types() -> None:
    """Tells TFX where the types of our own are; it finds only its own by their titles."""
    from tfx.orchestration.kubeflow.v2 import compiler_utils

    from components import artifacts

    for name, item in vars(artifacts).items():
        title = getattr(item, "TYPE_NAME", None)
        if title is not None:
            compiler_utils.TITLE_TO_CLASS_PATH[title] = f"{artifacts.__name__}.{name}"


def main() -> None:
    """Runs the command line; exits with 0 only if the executor has done its work."""
    try:
        run(sys.argv[1:], os.environ.get(MOUNTS_VARIABLE, "/"))
    except Exception as error:
        traceback.print_exc()
        told = failure.tell(error)
        print(told, file=sys.stderr, flush=True)
        notify.send([notify.Notice("failed", "", {"reason": str(told)})], _source())
        sys.exit(told.exit_code)


if __name__ == "__main__":
    main()
