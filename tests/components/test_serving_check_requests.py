"""Faults that the usual requests do not show: those of rare requests, and of other batches."""

import pytest
import tensorflow as tf
from served_model import SPEC, SPEC_OF_TEST, Model, save, write_events

from components.serving_check import fit_to_serve
from components.serving_check.executor import check
from components.serving_check.requests import odd_requests
from schemas.loading import parse_spec


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    return write_events(tmp_path_factory.mktemp("examples") / "Split-eval")


def changed(change):
    def fault(features, answer):
        return {**answer, "click": tf.clip_by_value(change(features, answer["click"]), 0.0, 1.0)}

    return Model(fault)


def read_otherwise(name, change):
    return Model(by_name=lambda features: {**features, name: change(features[name])})


RARE = {
    "NaN for large values": (
        changed(lambda f, click: tf.where(f["age"] > 1e6, float("nan"), click)),
        [
            f"{form}: click is NaN or infinite for 1 of 13 odd requests, first: age: 3.4e38"
            for form in ("serving_default", "raw_features")
        ],
    ),
    "an id of which the vocabulary knows nothing": (
        read_otherwise("user", lambda user: tf.where(tf.strings.length(user) > 9, "u", user)),
        ["raw_features: rate", "1 of 13 odd requests, first: user: an unknown id"],
    ),
    "an id beyond the range": (
        read_otherwise("hour", lambda h: tf.where(h > 23, tf.zeros_like(h), h)),
        ["raw_features: rate", "1 of 13 odd requests, first: hour: 2**63 - 1"],
    ),
    "long lists cut off": (
        read_otherwise("items", lambda items: items[:, :4]),
        ["raw_features: click", "1 of 13 odd requests, first: items: 1001 ids"],
    ),
}


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
@pytest.mark.parametrize(("planted", "expected"), RARE.values(), ids=RARE)
def test_rare_requests_are_answered_well_and_alike(tmp_path, events, planted, expected):
    reasons = check(save(planted, tmp_path / "model"), events, SPEC_OF_TEST)["reasons"]
    for words in expected:
        assert any(words in reason for reason in reasons), reasons
    assert all("odd requests" in reason for reason in reasons)


BATCHES = {
    "statistics of the batch": lambda f, click: click - tf.reduce_mean(click) + 0.5,
    "the place in the batch": lambda f, click: click * (1.0 - 0.01 * place(click)),
    "the neighbour": lambda f, click: 0.9 * click + 0.1 * tf.roll(click, 1, 0),
}


def place(values):
    return tf.range(tf.cast(tf.size(values), tf.float32))


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
@pytest.mark.parametrize("fault", BATCHES.values(), ids=BATCHES)
def test_an_answer_does_not_depend_on_the_rest_of_the_request(tmp_path, events, fault):
    reasons = check(save(changed(fault), tmp_path / "model"), events, SPEC_OF_TEST)["reasons"]
    assert any(
        reason.startswith(f"{form}: click in a request for 64 events is ")
        and "where an earlier one for 20 gives" in reason
        for reason in reasons
        for form in ("serving_default", "raw_features")
    ), reasons


def test_answers_that_change_from_one_call_to_the_next_are_told():
    first = {"click": [0.1, 0.2], "score": [1.0, 2.0], "more": [1.0, 2.0]}
    later = {"click": [0.2, 0.1], "score": [2.0, 1.5], "more": [5.0, 5.0]}
    ask = {"serving_default": [([1, 0], later), ([0], {**first, "click": [0.1], "score": [1.0]})]}
    assert fit_to_serve.unsteady({"serving_default": first}, ask, ["click"]) == [
        "serving_default: score in a request for 2 events is 1.5 "
        "where an earlier one for 2 gives 1 (1 of 2 events)"
    ]


@pytest.mark.parametrize(
    ("half", "by", "told"), [(False, 5e-3, 1), (True, 5e-3, 0), (True, 0.1, 1)]
)
def test_layers_in_half_precision_may_differ_in_their_last_bits(half, by, told):
    first, later = {"score": [1.0, 2.0]}, {"score": [1.0, 2.0 + 2.0 * by]}
    again = {"raw_features": [([0, 1], later)]}
    found = fit_to_serve.unsteady({"raw_features": first}, again, [], half_precision=half)
    assert len(found) == told


def test_odd_requests_have_each_feature_in_turn_absent_unknown_or_extreme():
    spec = parse_spec(SPEC, "spec", ["features.items.max_length=2"])
    usual = tf.train.Example()
    usual.features.feature["user"].bytes_list.value.append(b"u")
    usual.features.feature["age"].float_list.value.append(30.0)
    odd = odd_requests(usual.SerializeToString(), spec)
    assert list(odd) == [
        "a request without any feature",
        *(f"user: {what}" for what in ("no value", "an unknown id")),
        *(f"items: {what}" for what in ("no value", "an unknown id", "3 ids")),
        *(f"hour: {what}" for what in ("no value", "-2**63", "2**63 - 1")),
        *(f"age: {what}" for what in ("no value", "0", "-3.4e38", "3.4e38")),
    ]
    sent = {what: tf.train.Example.FromString(request).features for what, request in odd.items()}
    assert not sent["a request without any feature"].feature
    assert list(sent["user: no value"].feature) == ["age"]
    assert len(sent["items: 3 ids"].feature["items"].bytes_list.value) == 3
    assert sent["hour: -2**63"].feature["hour"].int64_list.value == [-(2**63)]
    assert sent["age: 3.4e38"].feature["age"].float_list.value[0] > 3.4e38
    assert sent["age: 0"].feature["user"].bytes_list.value == [b"u"]
