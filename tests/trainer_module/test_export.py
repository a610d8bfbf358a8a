import math
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from events import encode, make_events, tiny_spec, transformed

from schemas import formula
from schemas.tasks import RESERVED_TASKS
from trainer_module import signatures
from trainer_module.export import export_model
from trainer_module.inputs import model_inputs
from trainer_module.model import build_model
from trainer_module.preprocessing import raw_feature_spec


@pytest.fixture(scope="module")
def exported(transform_output, tmp_path_factory):
    spec = tiny_spec()
    model = build_model(spec)
    directory = str(tmp_path_factory.mktemp("export") / "model")
    export_model(model, transform_output, spec, directory)
    return model, tf.saved_model.load(directory), directory


def _requests(events):
    labels = ("clicked", "seconds", "rating")
    return tf.constant(
        [encode({k: v for k, v in event.items() if k not in labels}) for event in events]
    )


def test_serving_gives_probabilities_label_units_and_the_score(exported):
    model, loaded, _ = exported
    spec, events = tiny_spec(), make_events(20)
    answer = loaded.signatures["serving_default"](examples=_requests(events))
    outputs = model(model_inputs(transformed(events, spec), spec))
    raw = {name: np.asarray(value).ravel() for name, value in outputs.items()}
    click, watch = 1 / (1 + np.exp(-raw["click"])), np.maximum(np.expm1(raw["watch"]), 0.0)
    np.testing.assert_allclose(answer["click"], click, rtol=1e-5)
    np.testing.assert_allclose(answer["watch"], watch, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(answer["stars"], raw["stars"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(answer["score"], click * 2 + np.log1p(watch), rtol=1e-4, atol=1e-5)


def test_named_features_answer_as_serialized_examples_do(exported):
    _, loaded, _ = exported
    events = make_events(3)
    # As a logged -1 and as an absent value: to training, too, there is none.
    events[0]["hour"], events[1]["hour"], events[1]["age"] = [], [-1], []
    recent = [event["recent"] + [""] * (3 - len(event["recent"])) for event in events]
    named = loaded.signatures["raw_features"](
        user=tf.constant([event["user"][0] for event in events]),
        hour=tf.constant([-1, -1, events[2]["hour"][0]], tf.int64),
        recent=tf.constant(recent),
        age=tf.constant([events[0]["age"][0], math.nan, events[2]["age"][0]], tf.float32),
        price=tf.constant([event["price"][0] for event in events], tf.float32),
    )
    expected = loaded.signatures["serving_default"](examples=_requests(events))
    for name, values in expected.items():
        np.testing.assert_allclose(named[name], values, rtol=1e-5)
    events[1]["hour"] = []
    np.testing.assert_array_equal(
        loaded.signatures["serving_default"](examples=_requests(events))["score"],
        expected["score"],
    )


def test_what_judges_a_model_parses_the_same_fields(exported):
    """TensorFlow then parses events once, for both models, their labels and the slices."""
    _, loaded, _ = exported
    fields = set()
    for name in (signatures.EVALUATE, signatures.LABELS):
        graph = loaded.signatures[name].graph.as_graph_def()
        nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
        values = {node.name: node.attr["value"] for node in nodes if node.op == "Const"}
        for node in nodes:
            if node.op == "ParseExampleV2":
                keys = node.input[2].removesuffix(":output:0")
                fields.add(tuple(tf.make_ndarray(values[keys].tensor)))
    (parsed,) = fields
    assert {name.decode() for name in parsed} == set(raw_feature_spec(tiny_spec()))


@pytest.mark.parametrize("recent", [["u1", ""], ["", "u1"], ["", "u1", ""]])
def test_empty_string_in_a_list_means_the_same_in_every_signature(exported, recent):
    _, loaded, _ = exported
    (event,) = make_events(1)
    plain, padded = (
        _requests([{**event, "recent": ["u1"]}]),
        _requests([{**event, "recent": recent}]),
    )
    named = {name: tf.constant(event[name]) for name in ("user", "age", "price")}
    by_name = loaded.signatures["raw_features"](
        **named, hour=tf.constant(event["hour"], tf.int64), recent=tf.constant([recent])
    )
    for name in ("serving_default", "evaluate"):
        answers = [loaded.signatures[name](examples=request) for request in (plain, padded)]
        for output, expected in answers[0].items():
            np.testing.assert_array_equal(answers[1][output], expected)
            if name == "serving_default":
                np.testing.assert_allclose(by_name[output], expected, rtol=1e-5)


def test_evaluation_labels_are_masked_and_in_the_space_of_the_loss(exported):
    _, loaded, _ = exported
    events = make_events(30)
    answer = loaded.signatures["evaluation_labels"](
        examples=tf.constant([encode(event) for event in events])
    )
    np.testing.assert_allclose(
        answer["watch__label"], [math.log1p(e["seconds"][0]) for e in events], rtol=1e-5
    )
    np.testing.assert_array_equal(
        answer["stars__weight"], [float("rating" in event) for event in events]
    )


def test_non_finite_predictions_are_zeroed_and_counted_for_evaluation(transform_output, tmp_path):
    spec = tiny_spec()
    model = build_model(spec)
    model.get_layer("head-click").bias.assign([math.nan])
    export_model(model, transform_output, spec, str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    requests = _requests(make_events(5))
    evaluated = loaded.signatures["evaluate"](examples=requests)
    np.testing.assert_array_equal(evaluated["all_finite"], np.zeros(5))
    np.testing.assert_array_equal(evaluated["click"], np.zeros(5))
    served = loaded.signatures["serving_default"](examples=requests)
    assert np.isnan(served["click"]).all()


def test_what_is_served_is_counted_as_finite_not_what_is_evaluated(transform_output, tmp_path):
    spec = tiny_spec("serving.score=click + log1p(stars)")
    model = build_model(spec)
    model.get_layer("head-watch").bias.assign([1000.0])
    export_model(model, transform_output, spec, str(tmp_path / "overflowing"))
    model.get_layer("head-watch").bias.assign([1.0])
    model.get_layer("head-stars").bias.assign([-2000.0])
    export_model(model, transform_output, spec, str(tmp_path / "without_score"))
    for name, output in (("overflowing", "watch"), ("without_score", "score")):
        loaded = tf.saved_model.load(str(tmp_path / name))
        requests = _requests(make_events(5))
        evaluated = loaded.signatures["evaluate"](examples=requests)
        assert np.isfinite(evaluated["watch"]).all()
        assert not np.isfinite(
            loaded.signatures["serving_default"](examples=requests)[output]
        ).any()
        np.testing.assert_array_equal(evaluated["all_finite"], np.zeros(5))


@pytest.mark.parametrize(
    "score",
    [
        "maximum(0, click)",
        "click * exp(2)",
        "minimum(1, 2) * click",
        "log1p(1) + click ** 2",
        "2 ** click / sqrt(4) - -1",
    ],
)
def test_score_with_whole_numbers_is_served(score, transform_output, tmp_path):
    spec = tiny_spec(f"serving.score={score}")
    export_model(build_model(spec), transform_output, spec, str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    answer = loaded.signatures["serving_default"](examples=_requests(make_events(3)))
    functions = {name: getattr(np, name) for name in formula.FUNCTIONS}
    expected = formula.evaluate(
        formula.parse(score, spec.tasks), {n: v.numpy() for n, v in answer.items()}, functions
    )
    np.testing.assert_allclose(answer["score"], expected, rtol=1e-5)


def test_outputs_that_are_no_tasks_have_reserved_names():
    assert set(RESERVED_TASKS) == {signatures.SCORE, signatures.FINITE}


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_model_is_served_without_the_project(exported, tmp_path):
    _, _, directory = exported
    script = (
        "import sys, tensorflow as tf\n"
        f"answer = tf.saved_model.load({directory!r}).signatures['serving_default']("
        "examples=tf.constant([b'']))\n"
        "assert 'score' in answer and 'trainer_module' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, capture_output=True)
