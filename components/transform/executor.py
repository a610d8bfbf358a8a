"""The work of `Transform`."""

from __future__ import annotations

import json
from typing import Any

from tfx.components.transform import executor

from components.channels import Channels, Given


class Executor(executor.Executor):
    """TFX's executor with the plan's spec as `custom_config`."""

    def Do(  # noqa: N802
        self, input_dict: Given, output_dict: Given, exec_properties: dict[str, Any]
    ) -> None:
        """Does the work; see `component.Transform`."""
        spec = Channels(input_dict).plan().spec
        inputs = {name: given for name, given in input_dict.items() if name != "plan"}
        config = json.dumps({"spec": spec.to_yaml()})
        super().Do(inputs, output_dict, {**exec_properties, "custom_config": config})
