"""The values of a deployment on Kubeflow Pipelines: `kubeflow/values.yaml`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic
from pydantic import Field

from schemas.documents import DocumentError, describe, load_yaml
from schemas.errors import SpecError
from schemas.loading import check_override

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([a-zA-Z]*)")
_SUFFIXES = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}


def quantity(text: str) -> float:
    """Reads a Kubernetes quantity, such as `500m`, `2` or `8Gi`.

    Raises:
        ValueError: the text is not a quantity.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"expected a quantity such as 500m, 2 or 8Gi, got {text!r}")
    return float(match[1]) * _SUFFIXES[match[2]]


def _check_quantity(value: Any) -> str:
    text = str(value)
    quantity(text)
    return text


def _check_override(value: str) -> str:
    try:
        check_override(value)
    except SpecError as error:
        raise ValueError(str(error)) from error
    return value


Override = Annotated[str, pydantic.AfterValidator(_check_override)]
Quantity = Annotated[str, pydantic.BeforeValidator(_check_quantity)]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
MountPath = Annotated[str, Field(pattern=r"^/[^:]+$")]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Gpu(_Model):
    """Accelerators of a step.

    Attributes:
        type: the extended resource of the nodes' device plugin.
        count: how many.
    """

    type: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[a-z0-9.-]+$")] = "nvidia.com/gpu"
    count: int = Field(ge=1)


class Toleration(_Model):
    """A taint of nodes that a step may run on nevertheless; fields as in Kubernetes."""

    key: str = ""
    operator: Annotated[str, Field(pattern="^(Exists|Equal)$")] = "Equal"
    value: str = ""
    effect: Annotated[str, Field(pattern="^(NoSchedule|PreferNoSchedule|NoExecute)?$")] = ""


class SecretEnv(_Model):
    """Environment variables out of a Kubernetes Secret.

    Attributes:
        secret: name of the Secret.
        keys: environment variable by key of the Secret.
    """

    secret: ObjectName
    keys: dict[str, EnvName] = Field(min_length=1)


class SecretVolume(_Model):
    """A Kubernetes Secret as files.

    Attributes:
        secret: name of the Secret.
        path: folder in the container.
    """

    secret: ObjectName
    path: MountPath


class Volume(_Model):
    """A PersistentVolumeClaim in the containers.

    Attributes:
        claim: name of the claim.
        path: folder in the container.
    """

    claim: ObjectName
    path: MountPath


class StepSettings(_Model):
    """How a step's container runs.

    Attributes:
        cpu: cores requested.
        cpu_limit: cores that it may use at most; no limit if None.
        memory: requested, and the limit.
        gpu: accelerators.
        retries: how often the step is run again after it failed.
        retry_after: seconds before the first retry; doubles with each.
        node_selector: labels of the nodes that it may run on.
        tolerations: taints of nodes that it may run on nevertheless.
        labels: labels of its pods, for a Service that selects them.
        env: environment variables.
        secret_env: environment variables out of Secrets.
        secret_volumes: Secrets as files.
        volumes: PersistentVolumeClaims.
        image_pull_secrets: Secrets with the credentials of the image's registry.
    """

    cpu: Quantity = "1"
    cpu_limit: Quantity | None = None
    memory: Quantity = "4Gi"
    gpu: Gpu | None = None
    retries: int = Field(default=0, ge=0)
    retry_after: int = Field(default=30, ge=0)
    node_selector: dict[str, str] = {}
    labels: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    env: dict[EnvName, str] = {}
    secret_env: tuple[SecretEnv, ...] = ()
    secret_volumes: tuple[SecretVolume, ...] = ()
    volumes: tuple[Volume, ...] = ()
    image_pull_secrets: tuple[ObjectName, ...] = ()


class Parameters(_Model):
    """Defaults of the run parameters.

    Attributes:
        run_date: YYYY-MM-DD; if empty, it follows from the schedule's time or the clock.
        spec: the ranking spec's YAML file.
        overrides: assignments such as `training.window_days=14`.
        logs_root: folder with a folder of event logs for each day.
        day_store: folder of the encoded days.
        serving_dir: folder of the served versions.
        checkpoint_root: folder of the checkpoints of trainings that have not ended.
    """

    run_date: Annotated[str, Field(pattern=r"^(\d{4}-\d{2}-\d{2})?$")] = ""
    spec: str = Field(min_length=1)
    overrides: tuple[Override, ...] = ()
    logs_root: str = Field(min_length=1)
    day_store: str = Field(min_length=1)
    serving_dir: str = Field(min_length=1)
    checkpoint_root: str = Field(min_length=1)


class Values(_Model):
    """All values; field names are those of the YAML file.

    Attributes:
        pipeline_name: name of the pipeline on Kubeflow, and of its runs' Argo workflows; at most
            63 characters, as Kubernetes' labels.
        image: container image of every step.
        pipeline_root: where artifacts go: gs://, s3:// or minio://.
        run_date_lag_days: days from the run date to the schedule's time, or to now.
        parameters: defaults of the run parameters.
        beam_args: options of the steps that use Beam.
        remote_artifacts: steps read and write artifacts at their URIs, not through the
            launcher's copies; for Beam runners that work elsewhere (Dataflow, Flink).
        defaults: how every step's container runs.
        steps: what differs from that, by step; a field given replaces the default's.
    """

    pipeline_name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    image: str = Field(min_length=1)
    pipeline_root: Annotated[str, Field(pattern=r"^(gs|s3|minio)://[^/]+")]
    run_date_lag_days: int = Field(default=1, ge=0)
    parameters: Parameters
    beam_args: tuple[str, ...] = ("--direct_running_mode=in_memory",)
    remote_artifacts: bool = False
    defaults: StepSettings = StepSettings()
    steps: dict[str, StepSettings] = {}

    @pydantic.model_validator(mode="before")
    @classmethod
    def _steps_start_from_the_defaults(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        defaults, steps = content.get("defaults", {}), content.get("steps", {})
        if not isinstance(defaults, Mapping) or not isinstance(steps, Mapping):
            return content
        merged = {
            name: {**defaults, **step} if isinstance(step, Mapping) else step
            for name, step in steps.items()
        }
        return {**content, "steps": merged}

    @pydantic.model_validator(mode="after")
    def _only_gs_is_read_at_its_uri(self) -> Values:
        if self.remote_artifacts and not self.pipeline_root.startswith("gs://"):
            raise ValueError(
                "remote_artifacts: needs a pipeline_root on gs://; TensorFlow cannot read "
                f"{self.pipeline_root}"
            )
        return self

    def step(self, name: str) -> StepSettings:
        """Returns how the container of step `name` runs."""
        return self.steps.get(name, self.defaults)


def parse_values(text: str, source: str) -> Values:
    """Reads values.

    Args:
        text: the YAML document.
        source: what to call it in error messages, usually its path.

    Raises:
        SpecError: naming the document, the field and what is wrong with it.
    """
    try:
        return Values.model_validate(load_yaml(text))
    except DocumentError as error:
        raise SpecError(f"{source}: {error}") from error
    except pydantic.ValidationError as error:
        faults = describe(error, Values)
        raise SpecError("\n".join(f"{source}: {fault}" for fault in faults)) from error


def load_values(path: str) -> Values:
    """Reads the values at a local path; see `parse_values`.

    Raises:
        SpecError: as `parse_values`, or where the file cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from error
    return parse_values(text, path)
