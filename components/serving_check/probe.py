"""Serves requests from a SavedModel and prints nothing else: the fresh process.

Imports TensorFlow, and of the project only what does so, too. So a model that needs the project's
code to load fails here and not in the model server.

Usage: python -m components.serving_check.probe < TASK.json
where the task is an object of the arguments of `main`.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

# A fifth of its time goes into walking what the imports and the model make, which all stays.
gc.disable()

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from components.serving_check import contract  # noqa: E402

_REPEATS = 20
_SERVED = ("serving_default", "raw_features")


def main(
    model_dir: str,
    request_file: str,
    odd_file: str,
    answer_file: str,
    batch: int,
    promised: Mapping[str, Any],
) -> None:
    """Calls each signature on the requests; writes predictions, latencies, faults.

    Args:
        model_dir: folder of the SavedModel.
        request_file: TFRecord file of the requests, serialized tf.Examples.
        odd_file: the same of requests that a day need not have.
        answer_file: JSON file for the answers.
        batch: size of the requests that latency is measured on, beside those of one event and
            of all.
        promised: what the served signatures take and answer, see `contract.breaches`; a model
            that breaks it is not called.
    """
    # As TensorFlow Serving loads it.
    model = tf.saved_model.load(model_dir, tags=[tf.saved_model.SERVING])
    answers: dict[str, Any] = {"faults": contract.breaches(model.signatures, promised)}
    if not answers["faults"]:
        answers = _answers(model, model_dir, request_file, odd_file, batch)
    with open(answer_file, "w", encoding="utf-8") as file:
        json.dump(answers, file)


def _answers(
    model: Any, model_dir: str, request_file: str, odd_file: str, batch: int
) -> dict[str, Any]:
    _warm_up(model, os.path.join(model_dir, "assets.extra", "tf_serving_warmup_requests"))
    requests = _read(request_file)
    odd_requests = _read(odd_file)
    # The sizes that latency is measured on; the second one in another order.
    everything = range(len(requests))
    backwards = list(itertools.islice(itertools.cycle(reversed(everything)), batch))
    predictions: dict[str, Any] = {}
    odd: dict[str, Any] = {}
    again: dict[str, Any] = {}
    first = {}
    latency = {}
    for name, signature in sorted(model.signatures.items()):
        # The others take serialized events; all must answer.
        as_arguments = _raw if name == "raw_features" else _serialized
        if name in _SERVED:
            first[name] = _milliseconds(signature, as_arguments(requests[:1], signature))
        answer = signature(**as_arguments(requests, signature))
        if name in (*_SERVED, "evaluate"):
            predictions[name] = _values(answer)
            odd[name] = _values(signature(**as_arguments(odd_requests, signature)))
        if name in _SERVED:
            again[name] = []
            for places in ([0], backwards, list(everything)):
                arguments = as_arguments([requests[place] for place in places], signature)
                latency[f"{name}/batch {len(places)}"] = _latency(signature, arguments)
                again[name].append((places, _values(signature(**arguments))))
    return {
        "faults": _not_finite(model_dir),
        "predictions": predictions,
        "odd": odd,
        "again": again,
        "latency": latency,
        "first": first,
    }


def _read(file: str) -> list[bytes]:
    return list(tf.data.TFRecordDataset(file).as_numpy_iterator())


def _values(answer: Mapping[str, tf.Tensor]) -> dict[str, list[float]]:
    return {
        key: np.asarray(value, np.float64).reshape(-1).tolist()
        for key, value in answer.items()
        if value.dtype != tf.string
    }


def _warm_up(model: Any, path: str) -> None:
    """Asks the model what TensorFlow Serving asks it as it loads it."""
    if not tf.io.gfile.exists(path):
        return
    from tensorflow_serving.apis import prediction_log_pb2

    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {
            name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()
        }
        model.signatures[request.model_spec.signature_name](**inputs)


def _not_finite(model_dir: str) -> list[str]:
    """Says which variables, of the model or for a warm start, hold what no request may show.

    A kernel may turn a NaN into a zero on one machine and not on another, and a row of an
    embedding may be that of an id in none of the requests.
    """
    faults = []
    for folder, _, files in tf.io.gfile.walk(model_dir):
        for file in files:
            stem, suffix = os.path.splitext(file)
            if suffix != ".index":
                continue
            reader = tf.train.load_checkpoint(os.path.join(folder, stem))
            for name, dtype in sorted(reader.get_variable_to_dtype_map().items()):
                # The statistics are of the last step, which may have been skipped.
                if not dtype.is_floating or name.startswith("optimizer/statistics/"):
                    continue
                values = reader.get_tensor(name)
                bad = int(np.count_nonzero(~np.isfinite(values)))
                if bad:
                    path = os.path.relpath(os.path.join(folder, stem), model_dir)
                    short = name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
                    faults.append(
                        f"{path}: {short} is NaN or infinite in {bad} of {np.size(values)} places"
                    )
    return faults


def _serialized(requests: list[bytes], signature: Any) -> dict[str, tf.Tensor]:
    (name,) = signature.structured_input_signature[1]
    return {name: tf.constant(requests)}


def _raw(requests: list[bytes], signature: Any) -> dict[str, tf.Tensor]:
    """Named features as a JSON client sends them; lists are padded, `` and -1 are absent."""
    features = [tf.train.Example.FromString(request).features.feature for request in requests]
    arguments = {}
    for name, spec in signature.structured_input_signature[1].items():
        kind, absent = {
            tf.string: ("bytes_list", b""),
            tf.int64: ("int64_list", -1),
            tf.float32: ("float_list", float("nan")),
        }[spec.dtype]
        lists = [list(getattr(f[name], kind).value) if name in f else [] for f in features]
        width = 1 if spec.shape.rank == 1 else max(1, *map(len, lists))
        rows = [(values + [absent] * width)[:width] for values in lists]
        tensor = tf.constant(rows, spec.dtype)
        arguments[name] = tf.squeeze(tensor, 1) if spec.shape.rank == 1 else tensor
    return arguments


def _milliseconds(call: Callable[..., Any], arguments: dict[str, tf.Tensor]) -> float:
    start = time.perf_counter()
    call(**arguments)
    return round(1e3 * (time.perf_counter() - start), 3)


def _latency(call: Callable[..., Any], arguments: dict[str, tf.Tensor]) -> dict[str, float]:
    call(**arguments)
    times = [_milliseconds(call, arguments) for _ in range(_REPEATS)]
    return {"p50": round(float(np.median(times)), 3), "max": max(times)}


if __name__ == "__main__":
    try:
        main(**json.load(sys.stdin))
    finally:
        # Or Python walks it all once more as it ends: seconds.
        gc.freeze()
