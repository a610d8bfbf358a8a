import dataclasses
import math
from pathlib import Path

import pytest
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.evaluator.bounds import BASELINE, CANDIDATE, Bound, bounds_of
from components.evaluator.estimates import Estimate
from components.evaluator.eval_config import eval_config
from components.evaluator.metrics import COMPARISONS, METRICS
from components.evaluator.scores import OVERALL
from components.evaluator.verdict import CHANGE, Breach, decide, figures
from schemas.loading import load_spec
from schemas.spec import Serving
from schemas.tasks import BinaryGate, BinaryTask, Judgement, RegressionGate

DEMO = load_spec(str(Path(__file__).parents[2] / "schemas" / "demo.yaml"))
HIGHER = config_pb2.MetricDirection.HIGHER_IS_BETTER
LOWER = config_pb2.MetricDirection.LOWER_IS_BETTER


def demo_with(*overrides):
    return load_spec(str(Path(__file__).parents[2] / "schemas" / "demo.yaml"), overrides)


def thresholds_of(config, task):
    """Bounds (low, high) by metric, with ` change` where they are on it, and sliced feature."""
    (spec,) = (m for m in config.metrics_specs if list(m.output_names) == [task])
    by_metric = {m.class_name: m.per_slice_thresholds for m in spec.metrics}
    by_metric |= {name: item.thresholds for name, item in spec.per_slice_thresholds.items()}
    found = {}
    for name, items in by_metric.items():
        for item in items:
            (slicing,) = item.slicing_specs
            feature = next(iter(slicing.feature_keys), None)
            value, change = item.threshold.value_threshold, item.threshold.change_threshold
            if item.threshold.HasField("value_threshold"):
                found[name, feature] = tuple(
                    getattr(value, side).value if value.HasField(side) else None
                    for side in ("lower_bound", "upper_bound")
                )
            if item.threshold.HasField("change_threshold"):
                bound = change.absolute.value
                falling = change.direction == HIGHER
                assert falling or change.direction == LOWER
                found[f"{name} change", feature] = (bound, None) if falling else (None, bound)
    return found


BINARY_GATE = "{min_auc: 0.6, max_auc_drop: 0.03, slices: {device: {min_auc: 0.55}}}"
REGRESSION_GATE = "{max_rmse: 1.5, max_rmse_rise: 0.1, min_r2: 0.2, calibration: [0.9, 1.1]}"


@pytest.mark.parametrize("compare", [False, True], ids=["alone", "compared"])
def test_each_bound_of_the_spec_is_a_threshold_and_declared_slices_have_some_on_the_change(compare):
    spec = demo_with(
        f"tasks.click.gate={BINARY_GATE}",
        f"tasks.rating.gate={REGRESSION_GATE}",
        "tasks.like.gate={min_auc: null, max_auc_drop: null, calibration: null, "
        "max_normalised_entropy: null}",
        "slices=[device, topic]",
    )
    config = eval_config(spec, compare=compare)
    changes = {
        "click": {
            ("AUC change", None): (-0.03, None),
            ("AUC change", "device"): (-0.1, None),
            ("AUC change", "topic"): (-0.1, None),
        },
        "rating": {
            ("RootMeanSquaredError change", None): (None, 0.1),
            ("r2 change", None): (-0.1, None),
            ("r2 change", "device"): (-0.1, None),
            ("r2 change", "topic"): (-0.1, None),
        },
        "like": {
            ("AUC change", "device"): (-0.1, None),
            ("AUC change", "topic"): (-0.1, None),
        },
    }
    values = {
        "click": {
            ("AUC", None): (0.6, None),
            ("AUC", "device"): (0.55, None),
            ("Calibration", None): (0.5, 2.0),
            ("normalised_entropy", None): (None, 1.25),
        },
        "rating": {
            ("RootMeanSquaredError", None): (None, 1.5),
            ("r2", None): (0.2, None),
            ("Calibration", None): (0.9, 1.1),
        },
        "like": {},
    }
    for task, expected in values.items():
        assert thresholds_of(config, task) == {**expected, **(changes[task] if compare else {})}


def test_score_is_held_against_the_served_models_where_there_is_one():
    (score,) = (
        m
        for m in eval_config(DEMO, compare=True).metrics_specs
        if list(m.output_names) == ["score"]
    )
    metrics = ("score_scale", "score_shift", "score_correlation")
    assert score.per_slice_thresholds.keys() == set(metrics)
    assert thresholds_of(eval_config(DEMO, compare=True), "score") == {
        ("score_scale", None): (0.5, 2.0),
        ("score_shift", None): (-1.0, 1.0),
        ("score_correlation", None): (0.2, None),
    }
    fields = ("score_scale", "score_shift", "min_score_correlation")
    unbounded = demo_with(*(f"serving.{field}=null" for field in fields))
    for config in (eval_config(DEMO, compare=False), eval_config(unbounded, compare=True)):
        assert not [m for m in config.metrics_specs if list(m.output_names) == ["score"]]


def test_every_declared_slice_and_all_events_are_evaluated():
    config = eval_config(demo_with("slices=[device, topic]"), compare=False)
    assert sorted(tuple(item.feature_keys) for item in config.slicing_specs) == [
        (),
        ("device",),
        ("topic",),
    ]


def test_slice_that_only_a_gate_names_is_evaluated_once():
    config = eval_config(
        demo_with("tasks.like.gate.slices={hour: {min_auc: 0.5}}", "slices=[hour]"), compare=False
    )
    assert sorted(tuple(item.feature_keys) for item in config.slicing_specs) == [
        (),
        ("device",),
        ("hour",),
    ]


@pytest.mark.parametrize("compare", [False, True], ids=["alone", "compared"])
def test_every_prediction_must_be_finite(compare):
    ((bound, low_high),) = thresholds_of(eval_config(DEMO, compare=compare), "all_finite").items()
    assert bound == ("MeanPrediction", None)
    assert 0.9999 < low_high[0] <= 1.0


def test_comparison_adds_a_baseline_that_is_read_like_the_candidate():
    (alone,) = eval_config(DEMO, compare=False).model_specs
    candidate, baseline = eval_config(DEMO, compare=True).model_specs
    assert (candidate.is_baseline, baseline.is_baseline) == (False, True)
    assert candidate.name != baseline.name
    for model in (candidate, baseline, alone):
        assert set(model.label_keys) == {*DEMO.tasks, "all_finite"}
        assert set(model.example_weight_keys) == {*DEMO.tasks, "all_finite"}
        assert model.label_keys == alone.label_keys
        assert model.signature_name == alone.signature_name


def test_added_task_is_gated_without_further_edits():
    spec = demo_with("tasks.save={kind: binary, label: saved, gate: {min_auc: 0.7}}")
    assert thresholds_of(eval_config(spec, compare=True), "save")["AUC", None] == (0.7, None)
    assert set(eval_config(spec, compare=True).model_specs[0].label_keys) == {
        *DEMO.tasks,
        "save",
        "all_finite",
    }


@pytest.mark.parametrize("compare", [False, True], ids=["alone", "compared"])
def test_config_is_one_that_tfma_accepts(compare):
    config = eval_config(DEMO, compare=compare)
    updated = tfma.utils.update_eval_config_with_defaults(config, has_baseline=compare)
    tfma.utils.verify_eval_config(updated)


def breach(slice_name=OVERALL, value=0.5, *, task="click", is_change=False):
    return Breach(slice_name, task, "auc", value, "at least 0.6", is_change)


def labels(labelled, positives=None, **more):
    mean = 3.0 if positives is None else positives / max(labelled, 1)
    return {"weighted_example_count": float(labelled), "mean_label": mean, **more}


def estimates(metrics, model=CANDIDATE):
    """Values by slice, task and metric, without errors."""
    return {
        model: {
            name: {
                task: {metric: Estimate(value) for metric, value in values.items()}
                for task, values in tasks.items()
            }
            for name, tasks in metrics.items()
        }
    }


SPEC = demo_with("slices=[device]", "min_slice_events=500", "min_class_events=50")
PLENTY = {
    name: labels(1000, 300) if isinstance(task, BinaryTask) else labels(1000, None)
    for name, task in SPEC.tasks.items()
}


def day(**changed):
    """Metrics of a day with labels enough; `changed` by slice, then by task."""
    slices = {OVERALL: PLENTY, "device=phone": PLENTY, "device=tv": PLENTY}
    changed = {name.replace("overall", OVERALL).replace("_", "="): c for name, c in changed.items()}
    return {name: {**tasks, **changed.get(name, {})} for name, tasks in slices.items()}


BELOW = "click: auc is 0.5000, must be at least 0.6"


@pytest.mark.parametrize(
    ("breaches", "metrics", "reasons", "notes"),
    [
        pytest.param([], day(), [], [], id="nothing failed"),
        pytest.param([breach()], day(), [f"{BELOW} (all events)"], [], id="all events"),
        pytest.param(
            [breach(value=math.nan)],
            day(),
            ["click: auc could not be measured, must be at least 0.6 (all events)"],
            [],
            id="NaN though there are labels",
        ),
        pytest.param(
            [breach("device=tv", is_change=True, value=-0.2)],
            day(),
            [
                "click: auc change against the served model is -0.2000, "
                "must be at least 0.6 (device=tv)"
            ],
            [],
            id="a change in a slice",
        ),
        pytest.param(
            [breach("device=tv")],
            day(device_tv={"click": labels(500, 50)}),
            [f"{BELOW} (device=tv)"],
            [],
            id="slice just large enough",
        ),
        pytest.param(
            [breach("device=tv")],
            day(device_tv={"click": labels(499, 250)}),
            [],
            [f"{BELOW} (device=tv): not counted, 499 of 500 events with its label"],
            id="labelled events of the slice just too few",
        ),
        pytest.param(
            [breach("device=tv"), breach(task="like")],
            day(device_tv={"click": labels(900, 49)}),
            ["like: auc is 0.5000, must be at least 0.6 (all events)"],
            [f"{BELOW} (device=tv): not counted, 49 of 50 positives"],
            id="positives of the slice just too few",
        ),
        pytest.param(
            [breach()],
            day(overall={"click": labels(1000, 951)}),
            [],
            [f"{BELOW} (all events): not counted, 49 of 50 negatives"],
            id="negatives of the day too few",
        ),
        pytest.param(
            [breach(value=math.nan, task="rating")],
            day(overall={"rating": labels(49)}),
            [],
            [
                "rating: auc could not be measured, must be at least 0.6 (all events): "
                "not counted, 49 of 50 events with its label"
            ],
            id="labels of a regression too few",
        ),
        pytest.param(
            [breach(value=math.nan, task="rating")],
            day(overall={"rating": labels(1000, label_standard_deviation=0.0)}),
            [],
            [
                "rating: auc could not be measured, must be at least 0.6 (all events): "
                "not counted, labels that are all the same"
            ],
            id="labels of a regression that do not differ",
        ),
        pytest.param(
            [breach(task="all_finite")],
            day(overall={"click": labels(0, 0)}),
            ["all_finite: auc is 0.5000, must be at least 0.6 (all events)"],
            [],
            id="what is no task's",
        ),
    ],
)
def test_decision(breaches, metrics, reasons, notes):
    verdict = decide(breaches, estimates(metrics), SPEC)
    assert verdict.blessed == (not reasons)
    assert list(verdict.reasons) == reasons
    assert list(verdict.notes) == notes
    counted = {(f.slice_name, f.task) for f in breaches if str(f) in reasons}
    assert (set(verdict.failed), len(verdict.failed)) == (counted, len(counted))


@pytest.mark.parametrize(
    "metrics", [{}, {OVERALL: {}}, {OVERALL: {n: labels(5, 2) for n in PLENTY}}]
)
def test_model_of_which_no_task_can_be_judged_is_not_blessed(metrics):
    verdict = decide([], estimates(metrics), SPEC)
    assert not verdict.blessed
    assert verdict.reasons[0].startswith("no task could be judged: ")


@pytest.mark.parametrize(
    ("positives", "predicted", "lost"),
    [
        (0, 0.2, "the day has 0 positives, and the served model expects 200"),
        (0, 0.19, None),
        (49, 0.25, "the day has 49 positives, and the served model expects 250"),
        (50, 0.9, None),
        (1000, 0.8, "the day has 0 negatives, and the served model expects 200"),
        (1000, 0.95, None),
        (3, 0.003, None),
    ],
)
def test_task_whose_labels_the_day_has_lost_blocks_and_a_rare_one_does_not(
    positives, predicted, lost
):
    metrics = day(overall={"click": labels(1000, positives)})
    served = {OVERALL: {"click": {**labels(1000, positives), "mean_prediction": predicted}}}
    verdict = decide([], estimates(metrics) | estimates(served, BASELINE), SPEC)
    assert [reason.partition(": labels")[0] for reason in verdict.reasons] == (
        [f"click: {lost}"] if lost else []
    )


def test_what_is_not_gated_is_said_once_for_a_task_and_for_a_feature():
    metrics = day(
        overall={"like": labels(1000, 0)},
        device_tv={"click": labels(100, 50), "rating": labels(0)},
        device_phone={"click": labels(900, 300)},
    )
    verdict = decide([], estimates(metrics), SPEC)
    assert verdict.blessed
    assert verdict.not_gated == (
        "like: 0 of 50 positives",
        "click: 1 of 2 values of device, 10 % of their events; "
        "device=tv has 100 of 500 events with its label",
        "rating: 1 of 2 values of device, 0 % of their events; "
        "device=tv has 0 of 500 events with its label",
    )


def test_bounds_that_a_constant_model_passes_are_named():
    spec = demo_with(
        "tasks.click.gate.min_auc=0.5",
        "tasks.like.gate.min_auc=null",
        "tasks.rating.gate={max_rmse: 1e30}",
        "tasks.watch_time.gate={max_rmse: 0.9}",
    )
    deviations = {"label_standard_deviation": 0.95}
    metrics = day(overall={name: labels(1000, **deviations) for name in ("rating", "watch_time")})
    assert decide([], estimates(metrics), spec).notes == (
        "click: a model that answers always the same passes min_auc",
        "like: a model that answers always the same passes min_auc",
        "rating: a model that answers always the same passes max_rmse 1e+30, "
        "since its RMSE is 0.95",
    )


def change_of(value, error, freedom=63):
    return {CHANGE: {OVERALL: {"click": {"auc": Estimate(value, error, freedom)}}}}


CLICK = Bound("auc", low=-0.005, is_change=True)
T95 = 1.6694  # Student's t with 63 degrees of freedom


@pytest.mark.parametrize(
    ("confidence", "undecided", "value", "error", "judged", "holds"),
    [
        (0.5, "block", -0.004, 1.0, -0.004, True),
        (0.5, "block", -0.006, 1.0, -0.006, False),
        (0.95, "block", -0.002, 0.001, -0.002, True),
        (0.95, "block", -0.002, 0.002, -0.002 - 0.002 * T95, False),
        (0.95, "pass", -0.006, 0.001, -0.006, True),
        (0.95, "pass", -0.007, 0.001, -0.007 + 0.001 * T95, False),
        (0.95, "block", -0.002, math.nan, math.nan, False),
        (0.95, "pass", -0.006, math.nan, -0.006, False),
        (0.5, "block", -0.002, math.nan, -0.002, True),
    ],
)
def test_bound_is_held_to_the_limit_that_the_confidence_asks_for(
    confidence, undecided, value, error, judged, holds
):
    bound = dataclasses.replace(CLICK, confidence=confidence, undecided=undecided)
    found = bound.judged(Estimate(value, error, 0 if math.isnan(error) else 63))
    if holds:
        assert bound.holds(found)
    else:
        assert found == pytest.approx(judged, rel=1e-4, nan_ok=True)
        assert not bound.holds(found)


@pytest.mark.parametrize(
    ("value", "error", "judged"),
    [(1.0, 0.05, None), (0.85, 0.05, 0.85 - 0.05 * T95), (1.15, 0.05, 1.15 + 0.05 * T95)],
)
def test_pair_of_bounds_is_judged_on_the_side_that_is_near(value, error, judged):
    bound = Bound("calibration", 0.8, 1.2, confidence=0.95)
    found = bound.judged(Estimate(value, error, 63))
    assert bound.holds(found) == (judged is None)
    if judged is not None:
        assert found == pytest.approx(judged, rel=1e-4)


def test_confidence_is_that_of_the_slice_the_task_or_the_spec_and_defaults_of_slices_are_lenient():
    spec = demo_with(
        "evaluation={confidence: 0.9}",
        "tasks.click.gate={min_auc: 0.6, slices: {device: {min_auc: 0.55}}}",
        "tasks.like.gate={min_auc: 0.6, confidence: 0.5, slices: {device: {confidence: 0.8}}}",
        "slices=[device, topic]",
    )
    bounds = bounds_of(spec, compare=True)
    sure = {
        (task, feature): {(b.confidence, b.undecided) for b in several}
        for task in ("click", "like")
        for feature, several in bounds[task].items()
    }
    assert sure == {
        ("click", None): {(0.9, "block")},
        ("click", "device"): {(0.9, "block")},
        ("click", "topic"): {(0.99, "pass")},
        ("like", None): {(0.5, "block")},
        ("like", "device"): {(0.8, "block")},
        ("like", "topic"): {(0.99, "pass")},
    }
    assert {b.confidence for b in bounds["score"][None]} == {0.9}


def test_value_beyond_its_bound_that_passes_undecided_is_named():
    spec = demo_with("tasks.click.gate={min_auc: 0.6, undecided: pass, confidence: 0.95}")
    found = estimates(day()) | change_of(-0.11, 0.02)
    (note,) = decide([], found, spec).notes
    assert note == (
        "click: auc change -0.1100 is beyond its bound, but may be -0.1500 to -0.0700 "
        "(all events): not counted, undecided"
    )
    assert not decide([], estimates(day()) | change_of(-0.09, 0.02), spec).notes


def test_every_bound_of_the_spec_is_one_of_a_metric_and_every_metric_can_be_bounded():
    read = {
        kind: {
            field
            for metric in (*METRICS, *COMPARISONS)
            if kind in metric.kinds
            for field in {
                1: (f"min_{metric.name}", f"max_{metric.name}_drop"),
                -1: (f"max_{metric.name}", f"max_{metric.name}_rise"),
                0: (metric.name,),
            }[metric.better]
        }
        for kind in ("binary", "regression", "score")
    }
    declared = {
        kind: {name for name in part.model_fields if name not in Judgement.model_fields}
        for kind, part in (("binary", BinaryGate), ("regression", RegressionGate))
    }
    for kind, names in declared.items():
        assert names - {"slices"} <= read[kind]
        unbounded = read[kind] - names
        assert unbounded <= {
            "weighted_example_count",
            "mean_label",
            "mean_prediction",
            "label_standard_deviation",
            "max_auc_lift_drop",
            "max_r2_lift_drop",
        }
    assert {"score_scale", "score_shift"} <= set(Serving.model_fields) & read["score"]


def test_figures_say_value_and_change_with_intervals_in_the_order_of_the_spec():
    spec = demo_with("tasks.click.gate={min_auc: 0.6, max_log_loss: 1.0}")
    found = {
        CANDIDATE: {
            OVERALL: {
                "rating": {"rmse": Estimate(1.5)},
                "click": {"auc": Estimate(0.7, 0.01, 63), "log_loss": Estimate(0.5)},
            }
        },
        **change_of(0.001, 0.002),
    }
    assert list(figures(found, spec)) == [
        "click: auc 0.7000 (0.6800 to 0.7200), change +0.0010 (-0.0030 to +0.0050); "
        "log_loss 0.5000",
        "rating: rmse 1.5000",
    ]
