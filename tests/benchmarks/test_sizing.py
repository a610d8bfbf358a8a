"""The sizing example of docs/kubeflow.md follows from what was measured."""

import json

import pytest

from benchmarks import scale, sizing


def cell(component, contender, events, cpu_seconds):
    return {
        "component": component,
        "contender": contender,
        "events": events,
        "cpu_seconds": cpu_seconds,
    }


def test_cost_of_an_event_is_free_of_what_a_job_costs():
    cells = [
        cell("StatisticsGen", "direct", 10_000, 30.0),
        cell("StatisticsGen", "direct", 110_000, 35.0),
        cell("StatisticsGen", "flink-2", 10_000, 90.0),
        cell("StatisticsGen", "flink-2", 110_000, 97.0),
        cell("Evaluator", "direct", 10_000, 1.0),
    ]
    found = scale.cost(cells, "StatisticsGen", "direct")
    assert found["cpu_seconds_per_million"] == pytest.approx(50)
    assert found["cpu_seconds_of_a_job"] == pytest.approx(29.5)
    assert scale.cost(cells, "StatisticsGen", "flink-2")[
        "cpu_seconds_per_million"
    ] == pytest.approx(70)


def test_cost_wants_two_sizes():
    with pytest.raises(ValueError, match="two sizes"):
        scale.cost([cell("StatisticsGen", "direct", 10_000, 30.0)], "StatisticsGen", "direct")


def test_example_is_computed():
    cost = {"cpu_seconds_per_million": 36.0, "cpu_seconds_of_a_job": 40.0}
    costs = dict.fromkeys(("DailyExampleGen", "StatisticsGen", "Evaluator"), cost)
    measured = {
        "costs": {"direct": costs, "flink-2": costs},
        "bytes_per_event": {"logs_gzip": 54.0, "day_store": 95.0},
    }
    train = {
        "cores": 2,
        "cases": [{"case": sizing.TRAINING_CASE, "events_per_second": {"ours": 100_000}}],
    }
    text = sizing.sizing(measured, train)
    # 36 s a million: 36 000 s a day of 10^9 events, 10 hours; / 1800 s = 20 cores; / 0.7 = 28.6.
    (ingestion,) = [line for line in text.splitlines() if line.startswith("| ingestion")]
    assert ingestion.endswith("| 36 | 36 | 10.00 |")
    assert "36,000 core seconds / 1,800 s = 20.0 cores busy all the time, 29 at 70% use" in text
    (evaluation,) = [line for line in text.splitlines() if line.startswith("| evaluation")]
    assert evaluation.endswith("| 36 | 36 | 0.01 |")
    assert "| 54 | 54 GB |" in text
    assert "100,000 events a second, so 2.8 hours" in text


def test_document_says_what_the_results_say():
    results = [json.loads((sizing.RESULTS / f"{n}.json").read_text()) for n in ("scale", "train")]
    document = sizing.DOCUMENT.read_text()
    shown = document.partition(sizing.BEGIN)[2].partition(sizing.END)[0]
    assert shown.strip() == sizing.sizing(*results)
