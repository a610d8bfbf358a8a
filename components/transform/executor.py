"""The work of `Transform`."""

from __future__ import annotations

import json
from typing import Any

from tfx import types
from tfx.components.transform import executor
from tfx.types import artifact_utils

from components.run_plan import load_plan


class Executor(executor.Executor):
    """TFX's executor with the plan's spec as `custom_config`."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Does the work; see `component.Transform`."""
        inputs = dict(input_dict)
        plan = load_plan(artifact_utils.get_single_uri(inputs.pop("plan")))
        properties = {
            **exec_properties,
            "custom_config": json.dumps({"spec": plan.spec.to_yaml()}),
        }
        super().Do(inputs, output_dict, properties)
