"""The gate on planted predictions: each event carries what the model is to answer."""

import math
import re

import numpy as np
import pytest
import tensorflow as tf
from planted_evaluation import (
    EVENTS,
    PLANTED,
    assert_published,
    auc,
    evaluate,
    good_events,
    planted_spec,
)
from planted_model import export_planted
from stability_reports import DIVERGED, HEALTHY

from trainer_module import export, signatures

FINITE_BOUND = "all_finite: mean_prediction is {}, must be at least 1 (all events)"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, prefix in (("candidate", ""), ("served", "served_")):
        answers = {"click": f"{prefix}click_logit", "rate": f"{prefix}rate_answer"}
        export_planted(PLANTED, answers, folder / name / "Format-Serving")
    return folder


def test_good_model_is_blessed_and_masked_labels_and_unjudgeable_slices_do_not_count(
    tmp_path, models
):
    columns = good_events()
    absent = np.arange(EVENTS) % 4 == 0
    columns["rate_answer"] = np.where(absent, 1e6, columns["rate_answer"])
    row = np.arange(EVENTS)
    columns["device"] = np.select([row < 20, row < 80], ["tv", "watch"], columns["device"])
    columns["click_logit"][row < 20] = 0.0
    columns["clicked"][(row >= 20) & (row < 80)] = 0.0
    blessing, verdict = evaluate(tmp_path, models, columns, absent={"rating": absent})

    assert verdict["reasons"] == []
    assert_published(blessing, verdict, blessed=True)
    assert sorted(verdict["notes"]) == [
        "click: auc could not be measured, must be at least 0.6 (device=watch): "
        "not counted, 0 of 50 positives",
        "click: auc is 0.5000, must be at least 0.6 (device=tv): "
        "not counted, 20 of 50 events with its label",
    ]
    assert [line.partition(" values")[0] for line in verdict["not_gated"]] == [
        "click: 2 of 4",
        "rate: 2 of 4",
    ]
    assert verdict["metrics"].keys() == {"candidate"}
    metrics = verdict["metrics"]["candidate"]
    assert metrics.keys() == {
        "all events",
        *(f"device={name}" for name in ("tv", "watch", "phone", "desktop")),
    }
    overall = metrics["all events"]
    assert overall.keys() == {"", "click", "rate"}
    assert overall[""]["example_count"] == EVENTS
    assert overall["rate"]["weighted_example_count"] == EVENTS - absent.sum()
    assert metrics["device=tv"][""]["example_count"] == 20
    errors = (columns["rate_answer"] - columns["rating"])[~absent]
    assert overall["rate"]["rmse"] == pytest.approx(math.sqrt(np.mean(errors**2)), rel=1e-4)
    assert overall["click"]["auc"] == pytest.approx(
        auc(columns["clicked"], columns["click_logit"]), abs=2e-3
    )


def test_weak_predictions_are_blocked_with_the_metric_and_the_bound(tmp_path, models):
    columns = good_events()
    phone = columns["device"] == "phone"
    # Constant on phones, good elsewhere; and ratings too high by more than the bound.
    columns["click_logit"] = np.where(phone, 0.0, columns["click_logit"])
    columns["rate_answer"] = columns["rating"] + 1.5
    blessing, verdict = evaluate(tmp_path, models, columns)

    assert_published(blessing, verdict, blessed=False)
    click, explained, rate = sorted(line for line in verdict["reasons"])
    assert click == "click: auc is 0.5000, must be at least 0.6 (device=phone)"
    variance = columns["rating"].astype("f4").var(dtype=float)
    assert explained == (
        f"rate: r2 is {1 - 2.25 / variance:.4f}, must be at least 0.01 (all events)"
    )
    assert rate == "rate: rmse is 1.5000, must be at most 1 (all events)"


def test_constant_regression_and_probabilities_three_times_too_high_are_blocked(tmp_path, models):
    columns = good_events()
    # The order of the predictions is perfect.
    columns["clicked"] = (np.arange(EVENTS) % 8 == 0).astype(float)
    probability = np.where(columns["clicked"] == 1, 0.95, (3.0 - 0.95) / 7)
    columns["click_logit"] = np.log(probability / (1 - probability))
    columns["rate_answer"] = columns["rating"].mean() + 1e-3 * np.sign(columns["rating"] - 3)
    blessing, verdict = evaluate(tmp_path, models, columns)

    assert_published(blessing, verdict, blessed=False)
    assert verdict["metrics"]["candidate"]["all events"]["click"]["auc"] == 1.0
    click, *rate = sorted(verdict["reasons"])
    assert click == (
        "click: calibration is 3.0000, must be at least 0.5 and at most 2 (all events)"
    )
    assert rate[0].startswith("rate: r2 is 0.0")


def test_probabilities_that_are_far_too_sure_are_blocked_though_their_mean_is_right(
    tmp_path, models
):
    columns = good_events()
    # The same order, eight times as steep around a middle that leaves the mean where it belongs.
    columns["click_logit"] = 8.0 * (columns["click_logit"] - 0.5 * columns["clicked"] + 0.2)
    blessing, verdict = evaluate(tmp_path, models, columns)
    assert_published(blessing, verdict, blessed=False)
    found = verdict["metrics"]["candidate"]["all events"]["click"]
    assert found["calibration"] == pytest.approx(1.0, abs=0.1)
    assert verdict["reasons"] == [
        f"click: normalised_entropy is {found['normalised_entropy']:.4f}, must be at most 1.25 "
        "(all events)"
    ]


def test_constant_and_not_finite_predictions_end_in_a_verdict_and_not_in_a_crash(tmp_path, models):
    columns = good_events()
    columns["click_logit"] = np.zeros(EVENTS)
    columns["rate_answer"] = columns["rating"].copy()
    columns["rate_answer"][:3] = [np.nan, np.inf, -np.inf]
    columns["click_logit"][3] = np.nan
    blessing, verdict = evaluate(
        tmp_path,
        models,
        columns,
        absent={"rating": np.arange(EVENTS) < 10},
    )
    assert_published(blessing, verdict, blessed=False)
    assert FINITE_BOUND.format(f"{(EVENTS - 4) / EVENTS:.4f}") in verdict["reasons"]
    assert any(
        line.startswith("click: auc is 0.") and line.endswith("at least 0.7 (all events)")
        for line in verdict["reasons"]
    )
    assert not any(line.startswith("rate: ") for line in verdict["reasons"])


def test_model_worse_than_the_served_one_is_blocked_though_above_the_absolute_bounds(
    tmp_path, models
):
    columns = good_events()
    columns["served_click_logit"] = 6.0 * columns["clicked"] - 3.0
    columns["served_rate_answer"] = columns["rating"] + 0.3
    columns["rate_answer"] = columns["rating"] + 0.35
    blessing, verdict = evaluate(tmp_path, models, columns, compare=True)

    assert_published(blessing, verdict, blessed=False)
    (reason,) = verdict["reasons"]
    assert verdict["metrics"].keys() == {"candidate", "baseline"}
    candidate, baseline = (
        verdict["metrics"][name]["all events"]["click"]["auc"] for name in ("candidate", "baseline")
    )
    assert baseline == pytest.approx(1.0, abs=1e-3)
    assert reason == (
        f"click: auc change against the served model is {candidate - baseline:.4f}, "
        "must be at least -0.02 (all events)"
    )


def test_slice_that_fell_and_a_score_of_another_scale_are_blocked_by_default(tmp_path, models):
    columns = good_events()
    columns["served_rate_answer"] = columns["rate_answer"].copy()
    # Half as steep: the order is the same, but on a fifth of the events, where ratings are off.
    columns["served_click_logit"] = columns["click_logit"]
    columns["click_logit"] = columns["click_logit"] / 8
    tv = np.arange(EVENTS) % 5 == 0
    columns["device"] = np.where(tv, "tv", columns["device"])
    columns["rate_answer"] = np.where(tv, 6.0 - columns["rate_answer"], columns["rate_answer"])
    blessing, verdict = evaluate(tmp_path, models, columns, compare=True)

    assert_published(blessing, verdict, blessed=False)
    assert any(
        line.startswith("rate: r2 change against the served model is -")
        and line.endswith("must be at least -0.1 (device=tv)")
        for line in verdict["reasons"]
    )
    (score,) = [line for line in verdict["reasons"] if line.startswith("score: ")]
    assert score.startswith("score: score_scale is 0.1")
    assert score.endswith("must be at least 0.5 and at most 2 (all events)")


def test_score_that_ranks_the_other_way_round_is_blocked_though_scale_and_mean_are_right(
    tmp_path, models
):
    columns = good_events()
    mean = (1 / (1 + np.exp(-columns["click_logit"]))).mean()
    spec = planted_spec(f"serving.score={2 * mean:.4f} - click")
    answers = {"click": "click_logit", "rate": "rate_answer"}
    export_planted(spec, answers, tmp_path / "turned" / "Format-Serving")
    blessing, verdict = evaluate(
        tmp_path, models, columns, spec=spec, compare=True, model=tmp_path / "turned"
    )
    assert_published(blessing, verdict, blessed=False)
    assert verdict["reasons"] == [
        "score: score_correlation is -1.0000, must be at least 0.2 (all events)"
    ]


def test_model_that_knows_no_more_than_the_rates_of_a_feature_is_blocked(tmp_path, models):
    lifted = planted_spec("tasks.click.gate.min_auc_lift=0.01")
    columns = good_events()
    # All that is to be known is the device.
    phone = columns["device"] == "phone"
    columns["clicked"] = np.where(np.arange(EVENTS) % 10 < 2, ~phone, phone).astype(float)
    columns["click_logit"] = np.where(phone, 1.0, -1.0)
    blessing, verdict = evaluate(tmp_path, models, columns, spec=lifted)
    assert_published(blessing, verdict, blessed=False)
    overall = verdict["metrics"]["candidate"]["all events"]["click"]
    assert overall["auc"] == pytest.approx(0.8)
    assert overall["auc_lift"] == pytest.approx(0.0, abs=1e-9)
    assert verdict["reasons"] == ["click: auc_lift is 0.0000, must be at least 0.01 (all events)"]


@pytest.mark.slow
def test_fall_that_the_day_cannot_tell_is_blocked_where_a_confidence_is_asked_for(tmp_path, models):
    columns = good_events()
    noise = np.random.default_rng(1).normal(0.0, 0.4, EVENTS)
    columns["served_click_logit"] = columns["click_logit"] + noise
    columns["click_logit"] = columns["click_logit"] + np.roll(noise, 7)
    verdicts = {}
    for name, gate in (
        ("point", "{min_auc: 0.7, max_auc_drop: 0.02}"),
        ("sure", "{min_auc: 0.7, max_auc_drop: 0.005, confidence: 0.999}"),
        ("lenient", "{min_auc: 0.7, max_auc_drop: 0.0, confidence: 0.999, undecided: pass}"),
    ):
        spec = planted_spec(f"tasks.click.gate={gate}")
        _, verdicts[name] = evaluate(tmp_path / name, models, columns, spec=spec, compare=True)
    assert {name: v["blessed"] for name, v in verdicts.items()} == {
        "point": True,
        "sure": False,
        "lenient": True,
    }
    change = verdicts["sure"]["intervals"]["change"]["all events"]["click"]["auc"]
    (reason,) = verdicts["sure"]["reasons"]
    found = re.fullmatch(
        r"click: auc change against the served model is (.*), at worst (.*) with confidence "
        r"0\.999, must be at least -0\.005 \(all events\)",
        reason,
    )
    assert found, reason
    low = change["value"] - 3.225 * change["standard_error"]  # Student's t, 63 degrees
    assert [float(x) for x in found.groups()] == pytest.approx([change["value"], low], abs=1e-4)
    assert change["low"] < change["value"] < change["high"]


def test_day_without_a_positive_is_not_held_against_the_model(tmp_path, models):
    columns = good_events()
    columns["clicked"] = np.zeros(EVENTS)
    blessing, verdict = evaluate(tmp_path, models, columns)
    assert_published(blessing, verdict, blessed=True)
    assert verdict["not_gated"][0] == "click: 0 of 50 positives"


def test_day_that_has_lost_its_labels_is_told_by_what_the_served_model_expects(tmp_path, models):
    columns = good_events()
    columns["clicked"] = np.zeros(EVENTS)
    columns["served_click_logit"] = np.ones(EVENTS)
    # Trained on such a day, the model has learned that there are no clicks.
    columns["click_logit"] = np.full(EVENTS, -9.0) + 0.01 * columns["click_logit"]
    blessing, verdict = evaluate(tmp_path, models, columns, compare=True)
    assert_published(blessing, verdict, blessed=False)
    assert any(
        reason.startswith(
            "click: the day has 0 positives, and the served model expects 292: labels are late"
        )
        for reason in verdict["reasons"]
    )


def test_model_is_blocked_where_no_task_has_a_label(tmp_path, models):
    everything = np.ones(EVENTS, bool)
    absent = {"clicked": everything, "rating": everything}
    blessing, verdict = evaluate(tmp_path, models, good_events(), absent=absent)
    assert_published(blessing, verdict, blessed=False)
    assert verdict["reasons"] == ["no task could be judged: 0 of 50 positives"]


def test_diverged_training_is_not_blessed_however_good_its_model(tmp_path, models):
    blessing, verdict = evaluate(tmp_path, models, good_events(), stability=DIVERGED)
    assert_published(blessing, verdict, blessed=False)
    assert verdict["reasons"] == ["training diverged after 40 steps"]


def test_model_that_cannot_be_evaluated_though_it_was_served_is_an_error(tmp_path, models):
    with pytest.raises(Exception, match="none"):
        evaluate(tmp_path, models, good_events(), model=tmp_path / "none")


@pytest.mark.parametrize("training", [HEALTHY, DIVERGED], ids=["healthy", "diverged"])
def test_refused_model_is_a_verdict_and_is_not_loaded_again(
    tmp_path, models, monkeypatch, training
):
    loaded = []
    monkeypatch.setattr(tf.saved_model, "load", lambda *args, **_: loaded.append(args))
    refusal = "the model cannot be loaded and called: Aborted\nand is slow"
    blessing, verdict = evaluate(
        tmp_path,
        models,
        good_events(),
        infra_reasons=refusal,
        servable=0,
        model=tmp_path / "none",
        stability=training,
    )
    assert_published(blessing, verdict, blessed=False)
    assert verdict["reasons"] == refusal.splitlines()
    assert verdict["metrics"] == {}
    assert not loaded


@pytest.mark.parametrize("servable", [0, None])
def test_model_that_serving_check_has_not_blessed_is_refused_though_no_reason_is_told(
    tmp_path, models, servable
):
    blessing, verdict = evaluate(
        tmp_path, models, good_events(), servable=servable, model=tmp_path / "none"
    )
    assert_published(blessing, verdict, blessed=False)
    assert verdict["reasons"] == [
        f"{tmp_path / 'infra'}: does not say whether ServingCheck could serve the model; "
        "run the day again"
    ]


def test_labels_are_those_of_the_events_whatever_the_model_says_they_are(
    tmp_path, models, monkeypatch
):
    def what_it_answers(self, examples):
        answer = self._evaluate(examples)
        labels = {"click": tf.round(answer["click"]), "rate": answer["rate"]}
        ones = tf.ones_like(answer["rate"])
        return {
            **{signatures.label_key(name): label for name, label in labels.items()},
            **{signatures.weight_key(name): ones for name in labels},
            **{key("all_finite"): ones for key in (signatures.label_key, signatures.weight_key)},
        }

    monkeypatch.setattr(export._Ranker, "_labels", what_it_answers)
    answers = {"click": "click_logit", "rate": "rate_answer"}
    export_planted(PLANTED, answers, tmp_path / "planted" / "Format-Serving")
    columns = good_events()
    columns["click_logit"] = np.random.default_rng(1).normal(0.0, 1.0, EVENTS)
    blessing, verdict = evaluate(tmp_path, models, columns, model=tmp_path / "planted")
    assert_published(blessing, verdict, blessed=False)
    found = verdict["metrics"]["candidate"]["all events"]["click"]
    assert found["auc"] == pytest.approx(auc(columns["clicked"], columns["click_logit"]), abs=2e-3)


def test_bound_within_groups_fails_where_no_event_has_a_group(tmp_path, models):
    grouped = ["evaluation.group_by=device", "tasks.click.gate.min_gauc=0.5"]
    grouped += ["tasks.click.gate.max_gauc_drop=0.1", "serving.score_gate.min_ndcg=0.1"]
    absent = {"device": np.ones(EVENTS, bool)}
    blessing, verdict = evaluate(
        tmp_path, models, good_events(), spec=planted_spec(*grouped), absent=absent, compare=True
    )
    assert_published(blessing, verdict, blessed=False)
    assert verdict["reasons"] == [
        "click: gauc could not be measured, must be at least 0.5 (all events)",
        "click: gauc change against the served model could not be measured, "
        "must be at least -0.1 (all events)",
        "score: ndcg could not be measured, must be at least 0.1 (all events)",
    ]
    assert verdict["not_gated"] == [
        "device: no event has a value, so there is no slice to be gated"
    ]
