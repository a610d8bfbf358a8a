"""The work of `Pusher`."""

from __future__ import annotations

import datetime
import os
import re
from typing import Any

from absl import logging
from tfx import types
from tfx.components.pusher import executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components import serving_store
from components.run_plan import RunPlan, load_plan
from schemas.errors import ServingStoreError


class Executor(executor.Executor):
    """TFX's check of the blessings, our push."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Does the work; see `component.Pusher`."""
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            logging.warning("Not pushed: the model was not blessed.")
            self._MarkNotPushed(pushed)
            io_utils.write_string_file(os.path.join(pushed.uri, "NOT_PUSHED"), "")
            return
        plan = load_plan(artifact_utils.get_single_uri(input_dict["plan"]))
        model = artifact_utils.get_single_instance(input_dict["model"])
        version = serving_store.push(
            self.GetModelPath(input_dict),
            exec_properties["serving_dir"],
            serving_store.ModelInfo(
                run_date=plan.run_date,
                trained_through=_trained_through(
                    plan, artifact_utils.get_split_uri(input_dict["examples"], "train")
                ),
                model_fingerprint=plan.spec.model_fingerprint(),
                tasks_fingerprint=plan.spec.tasks_fingerprint(),
                model_uri=model.uri,
            ),
            plan.spec.serving.keep_versions,
        )
        self._MarkPushed(
            pushed, pushed_destination=version.path, pushed_version=str(version.version)
        )
        io_utils.write_string_file(os.path.join(pushed.uri, "PUSHED"), version.path)


def _trained_through(plan: RunPlan, train_uri: str) -> datetime.date:
    newest = newest_day(train_uri)
    # The logs of the newest days may be gone by now; the weights have seen them all the same.
    return max(newest, plan.base_trained_through or newest)


def newest_day(train_uri: str) -> datetime.date:
    """Returns the newest day among the shards of a split that `DailyExampleGen` laid out.

    Raises:
        ServingStoreError: no shard's name holds a day.
    """
    days = re.findall(r"(\d{4}-\d{2}-\d{2})-\d+-of-", " ".join(fileio.listdir(train_uri)))
    if not days:
        raise ServingStoreError(f"{train_uri}: no shard tells the day it is of")
    return datetime.date.fromisoformat(max(days))
