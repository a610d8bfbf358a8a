import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from events import encode, make_events, tiny_spec, write_events
from tensorflow_serving.apis import prediction_log_pb2

from components.serving_check import probe, requests
from trainer_module.export import export_model
from trainer_module.model import build_model
from trainer_module.warmup import PATH, write_warmup

BATCH = 16
SPEC = tiny_spec(f"serving.latency_batch={BATCH}")
LABELS = ("clicked", "seconds", "rating")


def without_some_features(events):
    return [
        {k: v for k, v in event.items() if row % 3 or k not in ("age", "hour", "user")}
        for row, event in enumerate(events)
    ]


@pytest.fixture(scope="module")
def newest():
    return without_some_features(make_events(40, seed=5))


@pytest.fixture(scope="module")
def exported(transform_output, newest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("warmup")
    files = []
    for day, events in (("2026-01-02", make_events(40)), ("2026-01-03", newest)):
        for path in write_events(events, folder / "parts"):
            files.append(str(folder / f"{day}-{os.path.basename(path)}"))
            os.rename(path, files[-1])
    directory = str(folder / "model")
    export_model(build_model(SPEC), transform_output, SPEC, directory)
    write_warmup(directory, files, SPEC)
    return directory


def logged(directory):
    records = tf.data.TFRecordDataset(os.path.join(directory, PATH)).as_numpy_iterator()
    return [prediction_log_pb2.PredictionLog.FromString(r).predict_log.request for r in records]


def test_each_served_signature_is_asked_for_one_event_and_for_a_batch(exported):
    asked = [
        (request.model_spec.signature_name, {v.tensor_shape.dim[0].size for v in inputs.values()})
        for request in logged(exported)
        for inputs in [request.inputs]
    ]
    assert asked == [
        (signature, {size})
        for size in (1, BATCH)
        for signature in ("serving_default", "raw_features")
    ]


def test_requests_are_events_of_the_newest_day_without_labels(exported, newest):
    asked = tf.make_ndarray(logged(exported)[2].inputs["examples"])
    known = {encode({k: v for k, v in event.items() if k not in LABELS}) for event in newest}
    parsed = {tf.train.Example.FromString(r).SerializeToString(deterministic=True) for r in asked}
    assert len(parsed) == BATCH
    assert parsed <= {
        tf.train.Example.FromString(r).SerializeToString(deterministic=True) for r in known
    }


def test_both_forms_of_a_request_get_the_same_answers(exported):
    model = tf.saved_model.load(exported)
    answers = []
    for request in logged(exported):
        inputs = {name: tf.constant(tf.make_ndarray(v)) for name, v in request.inputs.items()}
        answers.append(model.signatures[request.model_spec.signature_name](**inputs))
    for serialized, named in (answers[:2], answers[2:]):
        for name, values in serialized.items():
            np.testing.assert_allclose(named[name], values, rtol=1e-5)


def test_first_request_after_the_warm_up_is_not_the_slow_one(exported, newest, tmp_path):
    asked, answered = str(tmp_path / "requests"), str(tmp_path / "answers")
    with tf.io.TFRecordWriter(asked) as writer:
        for event in newest[:20]:
            writer.write(encode({k: v for k, v in event.items() if k not in LABELS}))
    cold = str(tmp_path / "cold")
    shutil.copytree(exported, cold)
    os.remove(os.path.join(cold, PATH))
    answers = []
    for directory in (cold, exported):
        probe.main(directory, asked, asked, answered, BATCH, requests.promised(SPEC))
        with open(answered, encoding="utf-8") as file:
            answers.append(json.load(file))
    for signature in ("serving_default", "raw_features"):
        assert answers[1]["first"][signature] < 0.5 * answers[0]["first"][signature]
        assert f"{signature}/batch {BATCH}" in answers[1]["latency"]
