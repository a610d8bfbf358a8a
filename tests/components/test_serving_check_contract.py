"""What a model takes, answers and does: what its clients count on, and nothing else."""

import os

import pytest
import tensorflow as tf
from served_model import NAMED, SPEC_OF_TEST, Model, save, write_events

from components.serving_check.contract import breaches
from components.serving_check.executor import check
from components.serving_check.requests import promised

ALONE = "; an answer may depend on the request and the weights alone, and change nothing"
FORMS = ("serving_default", "raw_features")


def changed(answer_to):
    return Model(lambda features, answer: {**answer, "click": answer_to(answer["click"])})


def length_of(content):
    return tf.cast(tf.strings.length(content), tf.float32)


def written(click, path):
    with tf.control_dependencies([tf.io.write_file(path, "x")]):
        return tf.identity(click)


def counted(click):
    model.calls.assign_add(1)
    return tf.where(model.calls > 1000, 0.0, click)


model = changed(counted)


def told(saved):
    return breaches(tf.saved_model.load(saved).signatures, promised(SPEC_OF_TEST))


def test_model_that_keeps_to_the_contract_has_no_fault(tmp_path):
    more = Model(lambda features, answer: {**answer, "more": features["user"]})
    assert told(save(more, tmp_path / "model")) == []


@pytest.mark.parametrize(
    ("planted", "operation"),
    [
        (changed(lambda click: click + tf.random.uniform(tf.shape(click), 0.0, 1e-5)), "RandomUn"),
        (changed(lambda click: tf.where(tf.timestamp() > 2e9, 0.0, click)), "Timestamp"),
        (changed(lambda click: click + length_of(tf.io.read_file("/etc/hostname"))), "ReadFile"),
        (changed(lambda click: written(click, "/nowhere/x")), "WriteFile"),
        (changed(lambda click: click * tf.py_function(abs, [1.0], tf.float32)), "EagerPyFunc"),
        (model, "AssignAddVariableOp"),
    ],
    ids=["chance", "the time", "a file elsewhere", "writes", "Python", "counts its calls"],
)
def test_answers_follow_from_the_request_and_the_weights_alone(tmp_path, planted, operation):
    faults = told(save(planted, tmp_path / "model"))
    uses = [fault for fault in faults if fault.endswith(ALONE)]
    assert [fault.partition(": uses ")[0] for fault in uses] == ["evaluate", *reversed(FORMS)]
    assert all(operation in fault for fault in uses)


def without(mapping, *names):
    return {name: value for name, value in mapping.items() if name not in names}


def one_of(name, size=None, dtype=tf.string):
    return tf.TensorSpec([size], dtype, name=name)


def renamed(features):
    return {**features, "user": features["usr"]}


@pytest.mark.parametrize(
    ("planted", "signatures", "expected"),
    [
        pytest.param(
            Model(by_name=renamed),
            {"named": {**without(NAMED, "user"), "usr": one_of("usr")}},
            [
                "raw_features: takes nothing as 'user', clients send string [batch]",
                "raw_features: takes string [batch] as 'usr', clients send nothing",
            ],
            id="an input of another name",
        ),
        pytest.param(
            Model(by_name=lambda features: without(features, "country")),
            {"named": {**NAMED, "country": one_of("country")}},
            ["raw_features: takes string [batch] as 'country', clients send nothing"],
            id="an input that no client sends",
        ),
        pytest.param(
            Model(by_name=lambda f: {**f, "age": tf.cast(f["age"], tf.float32)}),
            {"named": {**NAMED, "age": one_of("age", dtype=tf.float64)}},
            ["raw_features: takes float64 [batch] as 'age', clients send float32 [batch]"],
            id="an input of another type",
        ),
        pytest.param(
            Model(),
            {"named": {**NAMED, "hour": one_of("hour", 20, tf.int64)}},
            [
                "raw_features: takes int64 [20] as 'hour', clients send int64 [batch]",
                "raw_features: answers float32 [20] as 'rate', clients read float32 [batch]",
                "raw_features: answers float32 [20] as 'score', clients read float32 [batch]",
            ],
            id="one size of a batch",
        ),
        pytest.param(
            Model(),
            {"examples": one_of("inputs")},
            [
                "serving_default: takes nothing as 'examples', clients send string [batch]",
                "serving_default: takes string [batch] as 'inputs', clients send nothing",
            ],
            id="examples of another name",
        ),
        pytest.param(
            Model(lambda features, answer: {**answer, "score": answer["rate"][:, tf.newaxis]}),
            {},
            [
                f"{f}: answers float32 [batch, 1] as 'score', clients read float32 [batch]"
                for f in FORMS
            ],
            id="columns",
        ),
        pytest.param(
            Model(
                lambda features, answer: {**answer, "score": tf.cast(answer["rate"], tf.float64)}
            ),
            {},
            [
                f"{f}: answers float64 [batch] as 'score', clients read float32 [batch]"
                for f in FORMS
            ],
            id="an output of another type",
        ),
    ],
)
def test_inputs_and_outputs_are_those_that_clients_know(tmp_path, planted, signatures, expected):
    assert told(save(planted, tmp_path / "model", **signatures)) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_model_that_breaks_the_contract_is_not_called(tmp_path):
    events, path = write_events(tmp_path / "Split-eval"), str(tmp_path / "written")
    writing = changed(lambda click: written(click, path))
    reasons = check(save(writing, tmp_path / "model"), events, SPEC_OF_TEST)["reasons"]
    assert [reason.partition(";")[0] for reason in reasons] == [
        f"{name}: uses WriteFile" for name in ("evaluate", *reversed(FORMS))
    ]
    assert not os.path.exists(path)
