"""Compiles the pipeline to a package that open-source Kubeflow Pipelines 2.5 to 2.17 runs.

TFX's own runner writes for Vertex AI. What it leaves out for the open-source back end is put
in here: defaults of the run parameters, our container command, resources, retries, and the
Kubernetes settings, which are a second YAML document (kubeflow/pipelines,
kubernetes_platform/proto/kubernetes_executor_config.proto; its deprecated fields for constant
names are the ones that every version reads).
"""

from __future__ import annotations

import json
import re
import tempfile
from unittest import mock

import yaml
from tfx.orchestration import data_types
from tfx.orchestration.kubeflow.v2 import compiler_utils, kubeflow_v2_dag_runner

from pipeline.dag import RunParameters, create_pipeline
from pipeline.kubeflow.lint import lint
from pipeline.kubeflow.package import Document
from pipeline.kubeflow.values import Parameters, StepSettings, Values, quantity
from schemas.errors import RankerError

SCHEDULE_TIME = "{{$.pipeline_job_schedule_time_utc}}"
"""From 2.17.0 on the back end puts in the time that the schedule made the run for, or when the run
was made, where this is the whole constant of a task's parameter; 2.16 puts in an empty string,
older ones leave it as it is. In the value of a run parameter nothing is put in."""

ENTRYPOINT = ("python", "-m", "pipeline.kubeflow.entrypoint")
REMOTE_ARTIFACTS = "--remote_artifacts"

_RETRIES_END = "2592000s"
"""Argo gives up on a step when this long has passed since its first attempt began, however many
retries are left. It is to be no limit: a month. Without the field, the limit is 0 seconds."""


def compile_package(values: Values) -> list[Document]:
    """Compiles the one definition of the pipeline.

    No step is cached. Plan must not be: it reads the serving folder, the spec and the clock.
    Every other step takes Plan's artifact, so no key of the cache ever comes a second time; and
    DailyExampleGen, Trainer and Pusher also read or write folders that no key knows of.

    Args:
        values: the values of the deployment.

    Returns:
        The pipeline spec and the Kubernetes platform spec.

    Raises:
        RankerError: the values name a step that does not exist, or the package could not run.
    """
    pipeline_spec = _compile_with_tfx(values)
    _set_defaults(pipeline_spec, values.parameters)
    _name_types_of_kubeflow(pipeline_spec)
    pipeline_spec["defaultPipelineRoot"] = values.pipeline_root
    tasks = pipeline_spec["root"]["dag"]["tasks"]
    unknown = sorted(set(values.steps) - set(tasks))
    if unknown:
        raise RankerError(
            f"steps.{unknown[0]}: the pipeline has no such step; it has {', '.join(sorted(tasks))}"
        )
    kubernetes = {}
    for name, task in tasks.items():
        step = values.step(name)
        label = pipeline_spec["components"][task["componentRef"]["name"]]["executorLabel"]
        container = pipeline_spec["deploymentSpec"]["executors"][label]["container"]
        container["resources"] = _resources(step)
        if step.env:
            container["env"] = [{"name": k, "value": v} for k, v in sorted(step.env.items())]
        task["cachingOptions"] = {"enableCache": False}
        if step.retries:
            task["retryPolicy"] = {
                "maxRetryCount": step.retries,
                "backoffDuration": f"{step.retry_after}s",
                "backoffFactor": 2.0,
                "backoffMaxDuration": _RETRIES_END,
            }
        config = _kubernetes_config(step)
        if config:
            kubernetes[label] = config
    documents = [pipeline_spec]
    if kubernetes:
        executors = {"deploymentSpec": {"executors": kubernetes}}
        documents.append({"platforms": {"kubernetes": executors}})
    problems = lint(documents)
    if problems:
        raise RankerError("The package would not run:\n" + "\n".join(f"  {p}" for p in problems))
    return documents


def _compile_with_tfx(values: Values) -> Document:
    parameters = {
        name: data_types.RuntimeParameter(name=name, ptype=str) for name in Parameters.model_fields
    }
    tfx_pipeline = create_pipeline(
        values.pipeline_name,
        values.pipeline_root,
        RunParameters(
            spec_path=parameters.pop("spec"),
            **parameters,
            schedule_time=SCHEDULE_TIME,
            run_date_lag_days=values.run_date_lag_days,
        ),
        beam_pipeline_args=values.beam_args,
    )
    command = [*ENTRYPOINT, *([REMOTE_ARTIFACTS] if values.remote_artifacts else [])]
    config = kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
        default_image=values.image, default_commands=command, use_pipeline_spec_2_1=True
    )
    # TFX takes the titles of types of one's own for import paths with a single dot; our entry
    # point looks them up by name.
    any_title = re.compile(r"[A-Za-z][\w.-]*")
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(compiler_utils, "_SCHEMA_TITLE_RE", any_title),
    ):
        runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(config, folder, "pipeline.yaml")
        return runner.run(tfx_pipeline, write_out=False)["pipelineSpec"]


def _set_defaults(pipeline_spec: Document, defaults: Parameters) -> None:
    given = {**defaults.model_dump(), "overrides": json.dumps(defaults.overrides)}
    for name, declared in pipeline_spec["root"]["inputDefinitions"]["parameters"].items():
        declared.update(defaultValue=given[name], isOptional=True)


def _name_types_of_kubeflow(pipeline_spec: Document) -> None:
    """Declares the outputs of Kubeflow's own types as its SDK does: by title, without a schema."""
    for component in pipeline_spec["components"].values():
        for output in component["outputDefinitions"]["artifacts"].values():
            title = yaml.safe_load(output["artifactType"]["instanceSchema"])["title"]
            if title.startswith("system."):
                output["artifactType"] = {"schemaTitle": title, "schemaVersion": "0.0.1"}


def _resources(step: StepSettings) -> Document:
    """`ResourceSpec` in the fields that every version reads: cores, and memory in 1e9 bytes."""
    memory = quantity(step.memory) / 1e9
    resources: Document = {
        "cpuRequest": quantity(step.cpu),
        "memoryRequest": memory,
        "memoryLimit": memory,
    }
    if step.cpu_limit is not None:
        resources["cpuLimit"] = quantity(step.cpu_limit)
    if step.gpu is not None:
        resources["accelerator"] = {"type": step.gpu.type, "count": step.gpu.count}
    return resources


def _kubernetes_config(step: StepSettings) -> Document:
    """`KubernetesExecutorConfig` as JSON."""
    config: Document = {}
    if step.node_selector:
        config["nodeSelector"] = {"labels": dict(step.node_selector)}
    if step.tolerations:
        config["tolerations"] = [
            {key: value for key, value in item.model_dump().items() if value}
            for item in step.tolerations
        ]
    if step.labels:
        config["podMetadata"] = {"labels": dict(step.labels)}
    if step.secret_env:
        config["secretAsEnv"] = [
            {
                "secretName": item.secret,
                "keyToEnv": [
                    {"secretKey": key, "envVar": variable}
                    for key, variable in sorted(item.keys.items())
                ],
            }
            for item in step.secret_env
        ]
    if step.secret_volumes:
        config["secretAsVolume"] = [
            {"secretName": item.secret, "mountPath": item.path} for item in step.secret_volumes
        ]
    if step.volumes:
        config["pvcMount"] = [
            {"constant": item.claim, "mountPath": item.path} for item in step.volumes
        ]
    if step.image_pull_secrets:
        config["imagePullSecret"] = [{"secretName": name} for name in step.image_pull_secrets]
    return config
