"""Packages as files, and what is to be known of one before it is run anywhere."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import yaml

from schemas.errors import RankerError
from schemas.loading import parse_overrides

Document = dict[str, Any]

OVERRIDES = "overrides"
"""The run parameter with a JSON list of overrides of the spec."""


@dataclasses.dataclass(frozen=True)
class Package:
    """A compiled pipeline.

    Attributes:
        path: the YAML file.
        pipeline: the pipeline's name.
        version: name of the pipeline version that has just this content.
        pipeline_root: where the artifacts of its runs go. No back end reads it in the package:
            runs and schedules are given it.
        parameters: type of each run parameter, by name.
        run_date: default of the run date; empty if it is left open.
        lag_days: days from a run date that was left open to its schedule's time.
    """

    path: str
    pipeline: str
    version: str
    pipeline_root: str
    parameters: Mapping[str, str]
    run_date: str
    lag_days: int


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What runs are given.

    Attributes:
        parameters: run parameters that differ from the package's defaults.
        service_account: of the runs' pods; the server's default if None.
    """

    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    service_account: str | None = None


def write_package(documents: list[Document], path: str) -> None:
    """Writes a package as YAML; the back end takes no JSON with a platform spec.

    Raises:
        RankerError: the name does not end in .yaml, or the file cannot be written.
    """
    if not path.endswith((".yaml", ".yml")):
        raise RankerError(f"{path}: a package's name ends in .yaml")
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            yaml.safe_dump_all(documents, file, width=100)
    except OSError as error:
        raise RankerError(f"{path}: cannot be written ({error.strerror})") from error


def load_package(path: str) -> list[Document]:
    """Reads a package's documents.

    Raises:
        RankerError: the file cannot be read, or is not YAML.
    """
    try:
        with open(path, encoding="utf-8") as file:
            documents = list(yaml.safe_load_all(file))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RankerError(f"{path}: cannot be read as a package: {error}") from error
    if not documents:
        raise RankerError(f"{path}: is empty")
    return documents


def read_package(path: str) -> Package:
    """Reads what the client has to know of a compiled pipeline.

    Raises:
        RankerError: the file cannot be read, or is not a package of this pipeline.
    """
    documents = load_package(path)
    try:
        spec = documents[0]
        declared = spec["root"]["inputDefinitions"]["parameters"]
        parameters = {name: item["parameterType"] for name, item in declared.items()}
        run_date = str(declared["run_date"].get("defaultValue", ""))
        name = spec["pipelineInfo"]["name"]
        pipeline_root = spec["defaultPipelineRoot"]
        plan = spec["root"]["dag"]["tasks"]["Plan"]["inputs"]["parameters"]
        lag_days = int(plan["run_date_lag_days"]["runtimeValue"]["constant"])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise RankerError(
            f"{path}: not a package of this pipeline ({type(error).__name__}: {error}); "
            "make one with `steadyrank kubeflow compile`"
        ) from error
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()[:12]
    return Package(path, name, f"{name}-{digest}", pipeline_root, parameters, run_date, lag_days)


def check_parameters(package: Package, given: Mapping[str, Any]) -> dict[str, Any]:
    """Holds run parameters against the package.

    Args:
        package: what declares them.
        given: values by name; a string stands for a value of another type as JSON.

    Returns:
        The values, of the declared types.

    Raises:
        RankerError: a parameter is unknown, or no value of its type.
        SpecError: the overrides are not a JSON list of assignments.
    """
    checked = {}
    for name, value in given.items():
        if name not in package.parameters:
            raise RankerError(
                f"{name}: {package.path} has no such run parameter; it has "
                f"{', '.join(sorted(package.parameters))}"
            )
        if package.parameters[name] != "STRING" and isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                raise RankerError(
                    f"{name}: expected {package.parameters[name]}, got {value!r}"
                ) from error
        if name == OVERRIDES:
            parse_overrides(value)
        checked[name] = value
    return checked
