"""The documents' figures are those of the recorded results."""

import pytest

from benchmarks import sizing

PER_MILLION = {"DailyExampleGen": 36.0, "StatisticsGen": 12.0, "Evaluator": 6.0}
JOB = 20.0


def planted(factor=1.0):
    """Results in which Flink costs `factor` times what Direct does, and a job 20 CPU seconds."""
    cells = []
    for component, million in PER_MILLION.items():
        for contender in ("direct", "flink-1", "flink-2"):
            flink = contender != "direct"
            for events in (1_000_000, 3_000_000, 200_000):
                used = million * events / 1e6 * (factor if flink else 1.0)
                cpu = {"driver": used}
                if flink:
                    cpu = {"driver": JOB / 2, "worker-0": JOB / 4, "worker-1": JOB / 4}
                    cpu |= {"beam": used}
                cells.append(
                    {
                        "component": component,
                        "contender": contender,
                        "day": events,
                        "events": events,
                        "seconds": 100.0,
                        "cpu_seconds": cpu,
                    }
                )
    return {"bytes_per_event": {"logs_gzip": 60.0, "day_store": 300.0}, "cells": cells}


TRAINING = {"cases": [{"case": "laptop, batch 1024", "events_per_second": {"ours": 250_000}}]}


def row(text, first):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("name", ["flink.md", "kubeflow.md"])
def test_the_documents_have_the_recorded_figures(name):
    (found,) = [(path, text) for path, text in sizing.documents() if path.name == name]
    path, text = found
    assert path.read_text(encoding="utf-8") == text, (
        "out of date: run `python -m benchmarks.sizing`"
    )


def test_a_line_through_the_days_tells_a_million_events_from_a_job():
    text = sizing.costs(planted(factor=2.0))
    table = text.split("\n\n")[1]
    # A million on Direct, one and two workers; then a job.
    assert row(table, "DailyExampleGen") == ["DailyExampleGen", "36", "72", "72", "0", "20", "20"]
    by_part = text.split("\n\n")[3]
    assert row(by_part, "Beam's workers")[1:3] == ["72.0", "0"]
    assert row(by_part, "the TaskManagers")[1:3] == ["0.0", "10"]


def test_a_billion_events_take_what_a_million_takes_a_thousand_times():
    text = sizing.billion(planted(), TRAINING)
    # 36 s a million: 36 000 core seconds, 20 cores for half an hour, 29 at 70 %, 8 workers of 4.
    assert row(text, "ingestion")[2] == "10.0 core hours"
    assert "36 000 core seconds / 1 800 s = 20.0 cores" in " ".join(text.split())
    assert "29 cores: 8 workers of 4 cores" in " ".join(text.split())
    assert row(text, "logs")[2] == "60 GB a day"
    assert row(text, "day store")[2] == "300 GB a day, 2.1 TB for 7 days"
    # 4 000 s at 250 000 events a second; two hours leave time to spare.
    assert row(text, "training")[2] == "4 000 s = 1.1 h"
    assert "139 000 events a second, 0.6 times" in " ".join(text.split())
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 100


def test_what_costs_twice_as_much_on_flink_takes_twice_the_cores():
    text = " ".join(sizing.billion(planted(factor=2.0), TRAINING).split())
    assert "= 40.0 cores" in text


def test_only_the_section_is_replaced_and_its_first_paragraph_stays():
    document = "# A\n\na\n\n## B\n\nfirst\n\nold\n\nolder\n\n## C\n\nc\n"
    assert (
        sizing.replaced(document, "B", "new") == "# A\n\na\n\n## B\n\nfirst\n\nnew\n\n## C\n\nc\n"
    )
    with pytest.raises(ValueError, match="'D'"):
        sizing.replaced(document, "D", "new")
