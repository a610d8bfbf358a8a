import math
from pathlib import Path

import pytest
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.evaluator.eval_config import eval_config, metric_name
from components.evaluator.verdict import OVERALL, Failure, decide
from schemas.spec import BinaryTask, load_spec

DEMO = load_spec(str(Path(__file__).parents[2] / "schemas" / "demo.yaml"))
HIGHER = config_pb2.MetricDirection.HIGHER_IS_BETTER
LOWER = config_pb2.MetricDirection.LOWER_IS_BETTER
CLASS_NAMES = {"auc": "AUC", "root_mean_squared_error": "RootMeanSquaredError"}


def demo_with(*overrides):
    return load_spec(str(Path(__file__).parents[2] / "schemas" / "demo.yaml"), overrides)


def metric(config, task, class_name):
    (found,) = (
        metric
        for metrics in config.metrics_specs
        if list(metrics.output_names) == [task]
        for metric in metrics.metrics
        if metric.class_name == class_name
    )
    return found


def thresholds(metric):
    """Threshold by the sliced feature, None for all events."""
    found = {}
    for item in metric.per_slice_thresholds:
        (slicing,) = item.slicing_specs
        found[next(iter(slicing.feature_keys), None)] = item.threshold
    return found


@pytest.mark.parametrize("compare", [False, True], ids=["alone", "compared"])
@pytest.mark.parametrize("name", DEMO.tasks)
def test_each_task_of_the_demo_is_held_to_its_bounds(name, compare):
    task = DEMO.tasks[name]
    config = eval_config(DEMO, compare=compare)
    by_slice = thresholds(metric(config, name, CLASS_NAMES[metric_name(task)]))
    assert by_slice.keys() == {None, *task.gate.slices}
    for key, bounds in {None: task.gate, **task.gate.slices}.items():
        value = by_slice[key].value_threshold
        change = by_slice[key].change_threshold
        if isinstance(task, BinaryTask):
            assert value.lower_bound.value == bounds.min_auc
            assert not value.HasField("upper_bound")
            allowed = bounds.max_auc_drop
            expected = (HIGHER, None if allowed is None else -allowed)
        else:
            assert value.upper_bound.value == bounds.max_rmse
            assert not value.HasField("lower_bound")
            expected = (LOWER, bounds.max_rmse_rise)
        if compare and expected[1] is not None:
            assert (change.direction, change.absolute.value) == expected
            assert not change.HasField("relative")
        else:
            assert not by_slice[key].HasField("change_threshold")


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


@pytest.mark.parametrize(
    ("override", "task", "slices"),
    [
        ("tasks.click.gate.calibration=[0.8, 1.25]", "click", {None}),
        ("tasks.rating.gate.calibration=[0.8, 1.25]", "rating", {None}),
        (
            "tasks.click.gate.slices={device: {min_auc: 0.5, calibration: [0.8, 1.25]}}",
            "click",
            {"device"},
        ),
    ],
)
def test_calibration_is_bounded_where_the_spec_says_so(override, task, slices):
    by_slice = thresholds(
        metric(eval_config(demo_with(override), compare=True), task, "Calibration")
    )
    assert by_slice.keys() == slices
    for threshold in by_slice.values():
        assert threshold.value_threshold.lower_bound.value == 0.8
        assert threshold.value_threshold.upper_bound.value == 1.25
        assert not threshold.HasField("change_threshold")


def test_calibration_is_reported_but_not_bounded_otherwise():
    config = eval_config(DEMO, compare=True)
    for name in DEMO.tasks:
        assert not metric(config, name, "Calibration").per_slice_thresholds


@pytest.mark.parametrize("compare", [False, True], ids=["alone", "compared"])
def test_every_prediction_must_be_finite(compare):
    found = metric(eval_config(DEMO, compare=compare), "all_finite", "MeanPrediction")
    assert 0.9999 < found.threshold.value_threshold.lower_bound.value <= 1.0


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
    by_slice = thresholds(metric(eval_config(spec, compare=True), "save", "AUC"))
    assert by_slice[None].value_threshold.lower_bound.value == 0.7
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


def failure(slice_name=OVERALL, value=0.5, *, task="click", is_change=False):
    return Failure(slice_name, task, "auc", value, "at least 0.6", is_change)


EVENTS = {OVERALL: 1000.0, "device=phone": 500.0, "device=tv": 499.0}


@pytest.mark.parametrize(
    ("failures", "reasons", "notes"),
    [
        pytest.param([], (), (), id="nothing failed"),
        pytest.param(
            [failure()],
            ("click: auc is 0.5000, must be at least 0.6 (all events)",),
            (),
            id="all events",
        ),
        pytest.param(
            [failure(value=math.nan)],
            ("click: auc could not be measured, must be at least 0.6 (all events)",),
            (),
            id="NaN over all events",
        ),
        pytest.param(
            [failure("device=phone")],
            ("click: auc is 0.5000, must be at least 0.6 (device=phone)",),
            (),
            id="slice just large enough",
        ),
        pytest.param(
            [failure("device=tv")],
            (),
            (
                "click: auc is 0.5000, must be at least 0.6 (device=tv): not counted, "
                "499 of 500 events",
            ),
            id="slice just too small",
        ),
        pytest.param(
            [failure("device=phone", math.nan)],
            (),
            ("click: auc could not be measured, must be at least 0.6 (device=phone): not counted",),
            id="NaN in a large slice",
        ),
        pytest.param(
            [failure("slice device", math.nan)],
            (),
            (
                "click: auc could not be measured, must be at least 0.6 (slice device): "
                "not counted, 0 of 500 events",
            ),
            id="slice without any events",
        ),
        pytest.param(
            [failure(is_change=True, value=-0.05)],
            (
                "click: auc change against the served model is -0.0500, "
                "must be at least 0.6 (all events)",
            ),
            (),
            id="a change",
        ),
        pytest.param(
            [failure("device=tv"), failure(task="like")],
            ("like: auc is 0.5000, must be at least 0.6 (all events)",),
            (
                "click: auc is 0.5000, must be at least 0.6 (device=tv): not counted, "
                "499 of 500 events",
            ),
            id="a note beside a reason",
        ),
    ],
)
def test_decision(failures, reasons, notes):
    verdict = decide(failures, EVENTS, min_slice_events=500)
    assert verdict.blessed == (not reasons)
    assert verdict.reasons == reasons
    assert verdict.notes == notes
