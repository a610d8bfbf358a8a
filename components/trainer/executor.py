"""The work of `Trainer`."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from tfx.components.trainer import executor
from tfx.dsl.io import fileio
from tfx.utils import path_utils

from components import properties
from components.channels import TRAIN, Channels, Given
from components.run_plan import RunPlan
from components.serving_store import TRAINING_STATE
from schemas.errors import TrainingError
from trainer_module.distribution import number_of_workers
from trainer_module.stability.outcome import load_verdict
from trainer_module.steps import describe_steps


class Executor(executor.GenericExecutor):
    """TFX's executor with spec and warm-start folder as `custom_config`."""

    def Do(  # noqa: N802
        self, input_dict: Given, output_dict: Given, exec_properties: dict[str, Any]
    ) -> None:
        """Does the work; see `component.Trainer`."""
        inputs, outputs = Channels(input_dict), Channels(output_dict)
        plan = inputs.plan()
        warm_start_from = None
        if plan.warm_start:
            warm_start_from = os.path.join(
                path_utils.serving_model_dir(inputs.uri("base_model")), TRAINING_STATE
            )
        day_events = properties.DAY_EVENTS.get(inputs["examples"])
        if day_events is None:
            raise TrainingError(f"{inputs.uri('examples')}: does not say how many events a day has")
        spec = plan.spec.fitted(day_events, plan.warm_start)
        fingerprint = _fingerprint(plan, inputs.split("examples", TRAIN))
        checkpoint_dir = os.path.join(
            exec_properties["checkpoint_root"], f"{plan.run_date}-{fingerprint}"
        )
        stability = outputs["stability"]
        custom_config = {
            "spec": spec.to_yaml(),
            "history_dir": inputs.uri("history"),
            "warm_start_from": warm_start_from,
            "checkpoint_dir": checkpoint_dir,
            "stability_dir": stability.uri,
            "training_state_subdir": TRAINING_STATE,
            "run_date": str(plan.run_date),
        }
        # TFX's own executor knows nothing of these.
        ours = ("plan", "history", "base_model")
        super().Do(
            {name: given for name, given in input_dict.items() if name not in ours},
            output_dict,
            {**exec_properties, "custom_config": json.dumps(custom_config)},
        )
        report = load_verdict(stability.uri)
        properties.STABILITY.set(stability, report.summary)
        steps = report.attempts[-1].steps
        properties.TRAINING.set(
            stability, describe_steps(plan.spec.training, day_events, plan.warm_start, steps)
        )
        # They go when a later step has the model: it may yet be lost with this machine.
        properties.CHECKPOINTS.set(outputs["model"], checkpoint_dir)


def _fingerprint(plan: RunPlan, train_uri: str) -> str:
    """Identifies a training: only one of the same plan, data and workers may resume another's."""
    sizes = [
        (name, fileio.stat(os.path.join(train_uri, name)).length)
        for name in sorted(fileio.listdir(train_uri))
    ]
    # So many workers share out the data: other shares, other batches.
    workers = number_of_workers(plan.spec.training)
    content = (plan.spec.to_yaml(), str(plan.run_date), plan.base_version, sizes, workers)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]
