"""The work of `Pusher`."""

from __future__ import annotations

import datetime
import hashlib
import os
import re
from collections.abc import Sequence
from typing import Any

from absl import logging
from tfx.components.pusher import executor
from tfx.utils import io_utils

from components import model_files, properties, serving_store, storage
from components.channels import EVAL, TRAIN, Channels, Given
from components.run_plan import RunPlan
from schemas.errors import ServingStoreError


class Executor(executor.Executor):
    """TFX's check of the blessings, our push."""

    def Do(  # noqa: N802
        self, input_dict: Given, output_dict: Given, exec_properties: dict[str, Any]
    ) -> None:
        """Does the work; see `component.Pusher`."""
        self._push(input_dict, output_dict, exec_properties)
        # This step has the model, from where it is kept: nobody resumes its training any more.
        checkpoints = properties.CHECKPOINTS.get(Channels(input_dict)["model"])
        try:
            if checkpoints and storage.exists(checkpoints):
                storage.rmtree(checkpoints)
        except storage.errors() as error:
            # The day has its verdict, and the model may be served: that is to be told.
            logging.warning("%s: the checkpoints are left: %s", checkpoints, error)

    def _push(self, input_dict: Given, output_dict: Given, exec_properties: dict[str, Any]) -> None:
        inputs = Channels(input_dict)
        pushed = Channels(output_dict)["pushed_model"]
        if not self.CheckBlessing(input_dict):
            logging.warning("Not pushed: the model was not blessed.")
            self._MarkNotPushed(pushed)
            io_utils.write_string_file(os.path.join(pushed.uri, "NOT_PUSHED"), "")
            return
        plan, model = inputs.plan(), inputs["model"]
        path = self.GetModelPath(input_dict)
        files = model_files.digests(path, model_files.list_files(path))
        if model_files.digest_of(files) != properties.MODEL_DIGEST.get(inputs["infra_blessing"]):
            raise ServingStoreError(
                f"{path}: the model is not the one that ServingCheck saw and the Evaluator judged; "
                "nothing was pushed. Run the day again"
            )
        train, evaluated = (inputs.split("examples", split) for split in (TRAIN, EVAL))
        version = serving_store.push(
            path,
            exec_properties["serving_dir"],
            serving_store.ModelInfo(
                run_date=plan.run_date,
                trained_through=_trained_through(plan, train),
                model_fingerprint=plan.spec.model_fingerprint(),
                tasks_fingerprint=plan.spec.tasks_fingerprint(),
                model_uri=properties.OWN_URI.get(model) or model.uri,
                made_from=_made_from(plan, (train, evaluated)),
                files=files,
                ranker=plan.spec.name,
                seen=properties.SEEN.get(inputs["examples"]),
            ),
            plan.spec.serving.keep_versions,
            served_before=plan.served_version,
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
    days = re.findall(r"(\d{4}-\d{2}-\d{2})-\d+-of-", " ".join(storage.listdir(train_uri)))
    if not days:
        raise ServingStoreError(f"{train_uri}: no shard tells the day it is of")
    return datetime.date.fromisoformat(max(days))


def _made_from(plan: RunPlan, splits: Sequence[str]) -> str:
    """Identifies what a model is made from: the spec, the day, the start, the events."""
    shards = [
        (number, name, _checksum(os.path.join(split, name)))
        for number, split in enumerate(splits)
        for name in sorted(storage.listdir(split))
    ]
    content = (plan.spec.to_yaml(), str(plan.run_date), plan.base_version, shards)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _checksum(shard: str) -> tuple[int, bytes]:
    """A gzip file's size, and its last bytes: CRC and length of what it holds (RFC 1952)."""
    with storage.open(shard, "rb") as file:
        file.seek(0, os.SEEK_END)
        size = file.tell()
        file.seek(max(0, size - 8))
        return size, file.read()
