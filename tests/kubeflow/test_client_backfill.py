import datetime

import pytest
from deployments import DAY, NOTHING, deployment_on
from fake_kfp_http import Fault

from pipeline.kubeflow.client import failed
from pipeline.kubeflow.package import RunSettings
from schemas.errors import RankerError

WEEK = [DAY + datetime.timedelta(days=day) for day in range(5)]


def fill(fake, deployment, package, **options):
    return deployment.backfill(package, WEEK, NOTHING, poll_seconds=10, **options)


def test_backfill_runs_the_days_in_order_one_at_a_time(fake, deployment, package):
    runs = fill(fake, deployment, package)
    assert fake.days() == [str(day) for day in WEEK]
    assert fake.most_at_once == 1
    assert not failed(WEEK, runs)


@pytest.mark.parametrize("parallel", [2, 3])
def test_backfill_in_parallel_is_bounded(fake, deployment, package, parallel):
    fake.durations[str(WEEK[0])] = 500
    fill(fake, deployment, package, parallel=parallel)
    assert fake.most_at_once == parallel
    assert fake.days() == [str(day) for day in WEEK]


def test_failed_day_ends_the_backfill(fake, deployment, package):
    fake.outcomes[str(WEEK[1])] = "FAILED"
    runs = fill(fake, deployment, package)
    assert fake.days() == [str(day) for day in WEEK[:2]]
    lines = failed(WEEK, runs)
    assert lines[0].startswith("2026-01-06: failed")
    assert lines[0].endswith(": step Trainer failed")
    assert lines[1:] == [f"{day}: not started" for day in WEEK[2:]]


def test_keep_going_goes_on_after_a_failed_day(fake, deployment, package):
    fake.outcomes[str(WEEK[1])] = "FAILED"
    runs = fill(fake, deployment, package, keep_going=True)
    assert fake.days() == [str(day) for day in WEEK]
    assert len(failed(WEEK, runs)) == 1


def test_parallel_days_under_way_are_awaited_after_a_failure(fake, deployment, package):
    fake.outcomes[str(WEEK[0])] = "FAILED"
    fake.durations[str(WEEK[1])] = 300
    runs = fill(fake, deployment, package, parallel=2)
    assert fake.days() == [str(day) for day in WEEK[:2]]
    assert runs[WEEK[1]].succeeded


def test_backfill_goes_on_where_it_stopped(fake, deployment, package):
    fake.outcomes[str(WEEK[2])] = "FAILED"
    fill(fake, deployment, package)
    fake.outcomes.clear()
    runs = fill(fake, deployment_on(fake), package)
    assert fake.days() == [str(day) for day in [*WEEK[:3], *WEEK[2:]]]
    assert not failed(WEEK, runs)


def test_backfill_that_is_done_starts_nothing(fake, deployment, package):
    fill(fake, deployment, package)
    posts = fake.requests.count("POST /runs")
    assert not failed(WEEK, fill(fake, deployment, package))
    assert fake.requests.count("POST /runs") == posts


def test_later_failure_does_not_undo_a_day_that_succeeded(fake, deployment, package):
    fill(fake, deployment, package)
    fake.outcomes[str(WEEK[0])] = "FAILED"
    deployment.start(package, WEEK[0], NOTHING)
    fake.advance(120)
    assert not failed(WEEK, fill(fake, deployment, package))


def test_day_found_under_way_is_awaited(fake, deployment, package):
    deployment.start(package, WEEK[3], NOTHING)
    runs = fill(fake, deployment, package)
    assert fake.days() == [str(WEEK[3]), *(str(day) for day in WEEK if day != WEEK[3])]
    assert fake.most_at_once == 1
    assert not failed(WEEK, runs)


def test_backfill_survives_faults_of_the_server(fake, deployment, package):
    fake.faults += [
        Fault("GET /runs/", "drop", times=4),
        Fault("POST /runs", "lose", times=2),
        Fault("GET /runs$", 500, times=3),
        Fault("GET /runs/", 503, times=3),
    ]
    assert not failed(WEEK, fill(fake, deployment, package))
    assert fake.days() == [str(day) for day in WEEK]


def test_run_that_does_not_end_is_given_up(fake, deployment, package, monkeypatch):
    fake.durations[str(DAY)] = 1e9
    deployment.start(package, DAY, NOTHING)
    with pytest.raises(RankerError, match=r"no end of ranker-2026-01-05-1 .* after 2.0 hours"):
        fill(fake, deployment, package, timeout_seconds=7200)


def test_progress_is_told(fake, package):
    events = []
    fill(fake, deployment_on(fake, events), package)
    told = [line for line in events if line.startswith("2026-01-05")]
    assert [line.split(",")[0].split(" (")[0] for line in told] == [
        "2026-01-05: started ranker-2026-01-05-1",
        "2026-01-05: running",
        "2026-01-05: succeeded",
    ]


def test_unknown_parameter_starts_nothing(fake, deployment, package):
    with pytest.raises(RankerError, match="no such run parameter"):
        deployment.backfill(package, WEEK, RunSettings({"log_root": "x"}))
    assert not fake.requests
