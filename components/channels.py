"""The artifacts that an executor is given, by the name of their channel."""

from __future__ import annotations

from typing import Any, TypeAlias

from tfx import types
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components.run_plan import RunPlan, load_plan

Given: TypeAlias = dict[str, list[types.Artifact]]
"""What TFX gives to an executor: the artifacts of each channel."""

TRAIN, EVAL = "train", "eval"
"""Splits of the examples: of the window's days, and of the run date."""


class Channels:
    """Inputs or outputs of a step, of which each channel holds one artifact."""

    def __init__(self, artifacts: Given) -> None:
        """Takes the `input_dict` or `output_dict` of `Do`."""
        self._artifacts = artifacts

    def __getitem__(self, name: str) -> Any:
        """The artifact of a channel, a TFX one of the type that the component declares."""
        return artifact_utils.get_single_instance(self._artifacts[name])

    def uri(self, name: str) -> str:
        """Folder of an artifact."""
        return str(self[name].uri)

    def split(self, name: str, split: str) -> str:
        """Folder of a split of an artifact that names its splits."""
        return artifact_utils.get_split_uri([self[name]], split)

    def plan(self) -> RunPlan:
        """The run's plan, from the channel `plan`."""
        return load_plan(self.uri("plan"))

    def schema(self) -> Any:
        """The TFDV schema, from the channel `schema`."""
        return io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(self.uri("schema")))
