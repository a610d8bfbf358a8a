import datetime
import functools
import json
import os
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from executions import artifact
from hypothesis import given
from served_model import SPEC, SPEC_OF_TEST, Model, save, write_events
from stability_reports import DIVERGED, HEALTHY, write_stability
from tfx.types import standard_artifacts

from components import artifacts, model_files
from components.run_plan import RunPlan
from components.serving_check import executor, fit_to_serve, process
from components.serving_check.executor import Executor, check
from components.serving_store import TRAINING_STATE
from schemas.loading import parse_spec
from trainer_module.warmup import sample_requests

GOOD = {"click": [0.1, 0.9], "rate": [1.0, 2.0], "score": [1.1, 2.9]}
EVALUATED = {"click": [0.1, 0.9], "rate": np.log1p([1.0, 2.0]).tolist(), "all_finite": [1.0, 1.0]}


def answers(**changes):
    return {name: value for name, value in {**GOOD, **changes}.items() if value is not None}


def reasons(first, second, evaluated=EVALUATED):
    predictions = {"serving_default": first, "raw_features": second, "evaluate": evaluated}
    tasks, score = SPEC_OF_TEST.tasks, SPEC_OF_TEST.serving.score
    return fit_to_serve.reasons(predictions, tasks, score, events=2)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (GOOD, GOOD, []),
        (GOOD, answers(extra=[np.nan, np.nan]), []),
        (GOOD, answers(click=[0.10005, 0.9], score=[1.10005, 2.9]), []),
        (
            answers(click=[np.nan, 0.9]),
            GOOD,
            ["serving_default: click is NaN or infinite for 1 of 2 events"],
        ),
        (
            GOOD,
            answers(rate=[np.inf, -np.inf]),
            ["raw_features: rate is NaN or infinite for 2 of 2 events"],
        ),
        (
            answers(click=[0.5, 0.5]),
            answers(click=[0.5, 0.5]),
            [
                "serving_default: click is 0.5 for all of 2 events",
                "raw_features: click is 0.5 for all of 2 events",
            ],
        ),
        (answers(rate=None), GOOD, ["serving_default: rate is not answered"]),
        (GOOD, answers(score=None), ["raw_features: score is not answered"]),
        (GOOD, answers(rate=[1.0]), ["raw_features: rate has 1 values for 2 events"]),
        (
            GOOD,
            answers(click=[0.1, 1.2]),
            ["raw_features: click is not a probability: from 0.1 to 1.2, for 1 of 2 events"],
        ),
        (
            GOOD,
            answers(click=[0.1, 0.8], score=[1.1, 2.8]),
            ["raw_features: click is 0.8 where the evaluated signature gives 0.9 (1 of 2 events)"],
        ),
        (
            answers(click=[0.1, 0.8], rate=[np.nan, 1.0]),
            GOOD,
            ["serving_default: rate is NaN or infinite for 1 of 2 events"],
        ),
    ],
    ids=[
        "good",
        "outputs that are no task do not matter",
        "float32 noise",
        "NaN",
        "infinite",
        "constant",
        "no task",
        "no score",
        "an answer for each batch",
        "no probability",
        "disagreement",
        "disagreement is moot where an answer is not finite",
    ],
)
def test_faults_of_the_answers(first, second, expected):
    assert reasons(first, second) == expected


@pytest.mark.parametrize(
    ("served", "wrong"),
    [
        pytest.param({"click": [0.9, 0.1], "score": [1.9, 2.1]}, ["click"], id="other events"),
        pytest.param({"rate": [3.0, 6.0], "score": [3.1, 6.9]}, ["rate"], id="scaled by three"),
        pytest.param(
            {"rate": [0.6931, 1.0986], "score": [0.7931, 1.9986]}, ["rate"], id="not exponentiated"
        ),
        pytest.param({"score": [-1.1, -2.9]}, ["score"], id="negated score"),
        pytest.param({"score": [0.1, 1.8]}, ["score"], id="another formula"),
        pytest.param(
            {"click": [0.3, 0.5], "rate": [0.1, 0.9], "score": [0.4, 1.4]},
            ["click", "rate"],
            id="swapped",
        ),
    ],
)
def test_what_is_served_must_be_what_is_judged_and_the_score_its_formula(served, wrong):
    # Both request forms agree, and what they answer looks well.
    found = reasons(answers(**served), answers(**served))
    assert [line.split(" is ")[0] for line in found] == [
        f"{name}: {output}" for name in ("serving_default", "raw_features") for output in wrong
    ]


@pytest.mark.parametrize("missing", ["serving_default", "raw_features", "evaluate"])
def test_model_without_a_signature_is_not_served(missing):
    predictions = {"serving_default": GOOD, "raw_features": GOOD, "evaluate": EVALUATED}
    del predictions[missing]
    found = fit_to_serve.reasons(predictions, SPEC_OF_TEST.tasks, "click + rate", events=2)
    assert found == [f"no signature {missing!r}"]


finite = st.floats(-20, 20, width=32)


@given(
    logits=st.lists(st.tuples(finite, finite), min_size=3, max_size=8, unique=True),
    factor=st.floats(1.01, 100),
)
def test_answers_of_one_model_agree_and_scaled_ones_do_not(logits, factor):
    click, rate = (np.asarray(column, np.float32) for column in zip(*logits, strict=True))
    evaluated = {"click": 1 / (1 + np.exp(-click)), "rate": np.maximum(rate, 0.1)}
    served = {"click": evaluated["click"], "rate": np.expm1(evaluated["rate"])}
    served["score"] = served["click"] + served["rate"]
    if any(np.ptp(values) == 0 for values in served.values()):
        return
    ask = functools.partial(fit_to_serve.reasons, tasks=SPEC_OF_TEST.tasks, score="click + rate")
    good = {"serving_default": served, "raw_features": served, "evaluate": evaluated}
    assert ask(good, events=len(logits)) == []
    scaled = {**served, "rate": served["rate"] * factor}
    found = ask({**good, "raw_features": scaled}, events=len(logits))
    assert [line.split(" is ")[0] for line in found] == [
        "raw_features: rate",
        "raw_features: score",
    ]


def test_single_event_cannot_show_that_predictions_are_constant():
    one = {"click": [0.5], "score": [0.5]}
    predictions = {"serving_default": one, "raw_features": one, "evaluate": one}
    tasks = {"click": SPEC_OF_TEST.tasks["click"]}
    assert fit_to_serve.reasons(predictions, tasks, "click", events=1) == []


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """Split folder with 60 events, some without each feature, in two shards."""
    return write_events(tmp_path_factory.mktemp("examples") / "Split-eval")


@pytest.mark.parametrize(("count", "events_asked"), [(20, 20), (1000, 60)])
def test_requests_are_the_first_events_without_labels(events, count, events_asked):
    files = sorted(os.path.join(events, name) for name in os.listdir(events))
    sample = sample_requests(files, SPEC_OF_TEST, count)
    requests = [tf.train.Example.FromString(item) for item in sample]
    assert len(requests) == events_asked
    names = {name for request in requests for name in request.features.feature}
    assert names == {"user", "items", "hour", "age"}


@pytest.mark.parametrize(
    ("limit", "slow"),
    [(None, []), (30.0, []), (20.0, ["raw_features"]), (5.0, ["serving_default", "raw_features"])],
)
def test_model_slower_than_the_spec_allows_is_refused(limit, slow):
    spec = parse_spec(SPEC, "spec", [f"serving.max_latency_ms={json.dumps(limit)}"])
    latency = {
        "serving_default/batch 64": {"p50": 10.0, "max": 90.0},
        "serving_default/batch 20": {"p50": 900.0, "max": 900.0},
        "raw_features/batch 64": {"p50": 30.0, "max": 31.0},
    }
    found = fit_to_serve.too_slow(latency, spec.serving)
    assert [line.partition(":")[0] for line in found] == slow
    if slow:
        assert found[-1] == (
            f"raw_features: takes 30 ms for 64 events, more than serving.max_latency_ms: {limit:g}"
        )


def save_whole(folder):
    """Saves a good model with a training state; returns the SavedModel's folder."""
    path = save(Model(), folder / "Format-Serving")
    state = folder / "Format-Serving" / TRAINING_STATE
    state.mkdir(parents=True)
    (state / "state").touch()
    return path


def execute(folder, events, training=HEALTHY):
    RunPlan(SPEC_OF_TEST, datetime.date(2026, 1, 4), window=()).save(str(folder / "plan"))

    examples = artifact(standard_artifacts.Examples, os.path.dirname(events))
    examples[0].split_names = '["eval"]'
    blessing = artifact(standard_artifacts.InfraBlessing, folder / "blessing")
    inputs = {
        "plan": artifact(artifacts.RunPlan, folder / "plan"),
        "model": artifact(standard_artifacts.Model, folder),
        "stability": artifact(artifacts.TrainingStability, folder / "stability"),
        "examples": examples,
    }
    write_stability(folder / "stability", training)
    Executor().Do(inputs, {"blessing": blessing}, {})
    return blessing[0]


@pytest.mark.slow
def test_good_model_is_blessed_with_the_latency_of_each_signature(tmp_path, events):
    save_whole(tmp_path)
    blessing = execute(tmp_path, events)
    assert blessing.get_string_custom_property("reasons") == ""
    assert blessing.get_int_custom_property("blessed") == 1
    assert sorted(os.listdir(blessing.uri)) == ["INFRA_BLESSED", "report.json"]
    with open(os.path.join(blessing.uri, "report.json")) as file:
        latency = json.load(file)["latency"]
    assert latency.keys() == {
        f"{name}/batch {batch}"
        for name in ("serving_default", "raw_features")
        for batch in (1, 20, 64)
    }
    assert all(0.0 < item["p50"] <= item["max"] for item in latency.values())


def test_diverged_training_has_no_model_to_be_blessed(tmp_path, events):
    (tmp_path / "Format-Serving").mkdir()
    blessing = execute(tmp_path, events, DIVERGED)
    assert blessing.get_string_custom_property("reasons") == "training diverged after 40 steps"
    assert blessing.get_int_custom_property("blessed") == 0


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_faults_of_a_real_model_are_all_told(tmp_path, events):
    def fault(features, answer):
        rate = tf.where(features["age"] >= 38.0, np.nan, answer["rate"])
        return {"click": 0.5 * tf.ones_like(answer["click"]), "rate": rate}

    report = check(save(Model(fault), tmp_path / "model"), events, SPEC_OF_TEST)
    assert report["reasons"] == [
        f"{name}: {fault}"
        for name in ("serving_default", "raw_features")
        for fault in (
            "click is 0.5 for all of 20 events",
            "rate is NaN or infinite for 2 of 20 events",
            "score is NaN or infinite for 2 of 20 events",
        )
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_model_that_cannot_be_loaded_is_not_blessed_and_the_run_goes_on(tmp_path, events):
    path = save_whole(tmp_path)
    with open(os.path.join(path, "saved_model.pb"), "wb") as file:
        file.write(b"half a model")
    blessing = execute(tmp_path, events)
    reasons = blessing.get_string_custom_property("reasons")
    assert reasons.startswith("the model cannot be loaded and called: ")
    assert len(reasons.splitlines()) == 1
    assert blessing.get_int_custom_property("blessed") == 0
    assert sorted(os.listdir(blessing.uri)) == ["INFRA_NOT_BLESSED", "report.json"]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_signatures_that_answer_differently_are_told(tmp_path, events):
    model = Model(by_name=lambda features: {**features, "age": features["age"] + 5.0})
    report = check(save(model, tmp_path / "model"), events, SPEC_OF_TEST)
    assert [line.split(" is ")[0] for line in report["reasons"]] == [
        "raw_features: click",
        "raw_features: rate",
    ]


@pytest.mark.slow
def test_model_that_hangs_is_given_up(tmp_path, events):
    spec = parse_spec(SPEC, "spec", ["serving.check_seconds=0.05"])
    report = check(str(tmp_path), events, spec)
    assert report == {
        "reasons": ["the model did not answer within 0.05 s (serving.check_seconds)"],
        "latency": {},
        "first": {},
    }


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_process_started_early_is_the_one_that_is_taken_and_a_new_one_where_it_has_died():
    with process.started_early():
        first = process.take()
        second = process.take()
        assert first.pid != second.pid
    assert first.poll() is None
    with process.started_early():
        (early,) = process._ready
        early.kill()
        early.wait()
        third = process.take()
        assert third.pid != early.pid
    for taken in (second, third):
        assert taken.poll() is None
        taken.kill()
    # It ends by itself where nobody gives it a task: the run that started it has died.
    first.communicate()
    assert first.returncode != 0


@pytest.mark.slow
def test_process_that_nobody_took_ends_with_the_run():
    with process.started_early():
        (early,) = process._ready
    assert early.poll() is not None
    assert not process._ready


def refused(path):
    """The reasons of an executor's run on a model that is not to be loaded."""

    def not_called(*args):
        raise AssertionError("the model is loaded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "check", not_called)
        blessing = execute(path, str(path))
    assert blessing.get_int_custom_property("blessed") == 0
    return blessing.get_string_custom_property("reasons").splitlines()


def test_model_with_links_of_which_a_push_takes_nothing_along_is_refused(tmp_path):
    path = tmp_path / "Format-Serving"
    save_whole(tmp_path)
    (path / "variables").rename(tmp_path / "variables")
    (path / "variables").symlink_to(tmp_path / "variables")
    (path / "assets" / "words").symlink_to(tmp_path / "nowhere")
    assert refused(tmp_path) == [
        f"{path / name}: is a link; a push copies files only"
        for name in ("assets/words", "variables")
    ]


def test_model_without_the_state_that_the_next_day_starts_from_is_refused(tmp_path):
    path = save(Model(), tmp_path / "Format-Serving")
    assert refused(tmp_path) == [
        f"{path}/assets.extra/training_state: is missing; no later day could start from this model"
    ]


@pytest.mark.parametrize(
    ("does", "cause"),
    [
        (
            "os.kill(os.getpid(), 9)",
            "its process was killed, perhaps because it took more memory than there is",
        ),
        ("os.kill(os.getpid(), 6)", "its process was ended by signal 6"),
        ("os._exit(0)", "no output"),
        (
            "sys.exit('Error\\nindices[0] = 5 is not in [0, 2)\\n\\t [[{{node Gather}}]]\\n')",
            "indices[0] = 5 is not in [0, 2)",
        ),
        (r"sys.stderr.buffer.write(b'bad \xff\n'); sys.exit(1)", "bad \ufffd"),
    ],
    ids=["out of memory", "aborted", "no answer", "TensorFlow's error", "no UTF-8"],
)
def test_process_that_ends_without_an_answer_is_a_refusal_with_its_cause(
    monkeypatch, events, tmp_path, does, cause
):
    start = subprocess.Popen
    command = [sys.executable, "-c", f"import os, sys; sys.stdin.read(); {does}"]
    monkeypatch.setattr(process.subprocess, "Popen", lambda _, **kwargs: start(command, **kwargs))
    assert check(str(tmp_path), events, SPEC_OF_TEST)["reasons"] == [
        f"the model cannot be loaded and called: {cause}"
    ]


def test_training_that_exported_nothing_and_does_not_say_why_is_refused(tmp_path):
    (tmp_path / "Format-Serving").mkdir()
    (tmp_path / "Format-Serving" / "NOT_EXPORTED").touch()
    path = tmp_path / "Format-Serving" / "NOT_EXPORTED"
    (reason,) = refused(tmp_path)
    assert reason.startswith(f"{path}: is empty; no model was exported")


def test_training_that_exported_nothing_is_told_by_its_reasons(tmp_path, events):
    (tmp_path / "Format-Serving").mkdir()
    reasons = "shared-0/kernel is NaN\nhead-click is where it was"
    (tmp_path / "Format-Serving" / "NOT_EXPORTED").write_text(reasons)
    blessing = execute(tmp_path, events)
    assert blessing.get_string_custom_property("reasons") == reasons
    assert blessing.get_int_custom_property("blessed") == 0
    assert blessing.get_string_custom_property("model_digest") == ""


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_blessing_names_the_files_that_were_checked(tmp_path, events):
    path = save_whole(tmp_path)
    blessing = execute(tmp_path, events)
    files = model_files.digests(path, model_files.list_files(path))
    assert blessing.get_string_custom_property("model_digest") == model_files.digest_of(files)
