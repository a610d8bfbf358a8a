"""The work of `ServingCheck`."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from absl import logging
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.utils import io_utils, path_utils

from components import model_files, properties, storage
from components.channels import EVAL, Channels, Given
from components.serving_check import fit_to_serve, requests
from components.serving_check.process import Process, take
from components.serving_store import TRAINING_STATE
from schemas.spec import RankingSpec
from trainer_module.signatures import NOT_EXPORTED
from trainer_module.stability.outcome import load_verdict
from trainer_module.warmup import sample_requests

_UNTOLD = "is empty; no model was exported, and nobody says why. Run the day again"
_NODE = re.compile(r"\s*\[\[")
_BLESSED = "INFRA_BLESSED"
_NOT_BLESSED = "INFRA_NOT_BLESSED"


class Executor(base_executor.BaseExecutor):
    """Sends requests to the model in a fresh process and judges the answers."""

    def Do(  # noqa: N802
        self, input_dict: Given, output_dict: Given, exec_properties: dict[str, Any]
    ) -> None:
        """Does the work; see `component.ServingCheck`."""
        inputs = Channels(input_dict)
        model = inputs.uri("model")
        stability = load_verdict(inputs.uri("stability"))
        not_exported = os.path.join(path_utils.serving_model_dir(model), NOT_EXPORTED)
        digest = ""
        if fileio.exists(not_exported):
            # An empty file is one whose content a full disk or a kill has taken.
            told = io_utils.read_string_file(not_exported).splitlines()
            report = _failed(*(told or [f"{not_exported}: {_UNTOLD}"]))
        elif stability.verdict == "diverged":
            report = _failed(f"training {stability.summary}")
        else:
            path = path_utils.serving_model_path(model)
            files = model_files.list_files(path)
            report = _failed(*_unfit_files(path, files))
            if not report["reasons"]:
                digest = model_files.digest_of(model_files.digests(path, files))
                report = check(path, inputs.split("examples", EVAL), inputs.plan().spec)

        blessing = Channels(output_dict)["blessing"]
        reasons = report["reasons"]
        for line in reasons or [f"latency: {report['latency']}"]:
            logging.info("ServingCheck: %s", line)
        io_utils.write_string_file(
            os.path.join(blessing.uri, "report.json"), json.dumps(report, indent=2)
        )
        # File and property are those of TFX's InfraValidator; TFX's Pusher reads one of them.
        name = _NOT_BLESSED if reasons else _BLESSED
        io_utils.write_string_file(os.path.join(blessing.uri, name), "")
        properties.SERVABLE.set(blessing, 0 if reasons else 1)
        properties.UNSERVABLE_REASONS.set(blessing, reasons)
        properties.MODEL_DIGEST.set(blessing, digest)


def check(model_dir: str, events_dir: str, spec: RankingSpec) -> dict[str, Any]:
    """Serves a sample of events in a fresh process.

    Args:
        model_dir: folder of the SavedModel.
        events_dir: folder with TFRecords of encoded events.
        spec: the ranking spec; gives the number of events and the fields of a request.

    Returns:
        `reasons`, why the model must not be served (empty: it may); `latency`, milliseconds by
        signature and batch size; and `first`, those of each signature's first request, after
        the warm-up that the model carries.
    """
    shards = sorted(tf.io.gfile.glob(os.path.join(events_dir, "*")))
    sample = sample_requests(shards, spec, spec.serving.check_events)
    if not sample:
        return _failed(f"{events_dir}: has no event to ask the model about")
    odd = requests.odd_requests(sample[0], spec)
    with tempfile.TemporaryDirectory() as folder:
        files = {"request_file": sample, "odd_file": list(odd.values())}
        for name, content in files.items():
            with tf.io.TFRecordWriter(os.path.join(folder, name)) as writer:
                for request in content:
                    writer.write(request)
        answer_file = os.path.join(folder, "answers.json")
        task = {
            "model_dir": model_dir,
            **{name: os.path.join(folder, name) for name in files},
            "answer_file": answer_file,
            "batch": spec.serving.latency_batch,
            "promised": requests.promised(spec),
        }
        process = take()
        try:
            _, errors = process.communicate(json.dumps(task), timeout=spec.serving.check_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return _failed(
                f"the model did not answer within {spec.serving.check_seconds:g} s "
                "(serving.check_seconds)"
            )
        if process.returncode != 0 or not os.path.exists(answer_file):
            logging.error("%s", errors)
            return _failed(f"the model cannot be loaded and called: {_cause(process, errors)}")
        with open(answer_file, encoding="utf-8") as file:
            answers = json.load(file)
    if "predictions" not in answers:
        return _failed(*answers["faults"])
    predictions, tasks, score = answers["predictions"], spec.tasks, spec.serving.score
    # One fault shows in each of these; the first tells it best.
    reasons = answers["faults"] + (
        fit_to_serve.reasons(predictions, tasks, score, len(sample))
        or fit_to_serve.reasons(answers["odd"], tasks, score, len(odd), odd=list(odd))
        or fit_to_serve.unsteady(
            predictions,
            answers["again"],
            tasks,
            half_precision=spec.training.mixed_precision != "none",
        )
    )
    reasons += fit_to_serve.too_slow(answers["latency"], spec.serving)
    return {"reasons": reasons, "latency": answers["latency"], "first": answers["first"]}


def _unfit_files(model_dir: str, files: Sequence[str]) -> list[str]:
    """Says what of a model's folder a push would not take along, or a later day would miss."""
    links = [
        os.path.join(folder, name)
        for folder, *names in storage.walk(model_dir)
        for name in itertools.chain(*names)
        if os.path.islink(os.path.join(folder, name))
    ]
    faults = [f"{link}: is a link; a push copies files only" for link in sorted(links)]
    if not any(file.startswith(TRAINING_STATE + os.sep) for file in files):
        state = os.path.join(model_dir, TRAINING_STATE)
        faults.append(f"{state}: is missing; no later day could start from this model")
    return faults


def _cause(process: Process, errors: str) -> str:
    if process.returncode == -signal.SIGKILL:
        return "its process was killed, perhaps because it took more memory than there is"
    if process.returncode < 0:
        return f"its process was ended by signal {-process.returncode}"
    # TensorFlow ends an error with the node that failed, [[{{node ...}}]].
    told = [line for line in errors.splitlines() if line.strip() and not _NODE.match(line)]
    return told[-1] if told else "no output"


def _failed(*reasons: str) -> dict[str, Any]:
    return {"reasons": list(reasons), "latency": {}, "first": {}}
