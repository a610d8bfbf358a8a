import datetime
import subprocess
import sys

import pytest

from pipeline import daily, lineage
from pipeline.beam_run import Request
from pipeline.daily import DayResult, backfill, locked
from pipeline.workspace import Workspace
from schemas.errors import ExitCode, RankerError

PUSHED, BLOCKED = ExitCode.PUSHED, ExitCode.BLOCKED
BAD_DATA, FAILED = ExitCode.BAD_DATA, ExitCode.FAILED
DATES = ["2026-01-03", "2026-01-04", "2026-01-05", "2026-01-06"]


def requests(workspace):
    return [
        Request(
            workspace=str(workspace),
            pipeline_name="test",
            spec_path="spec.yaml",
            overrides=(),
            run_date=date,
            logs_root="logs",
            beam_args=(),
        )
        for date in DATES
    ]


@pytest.fixture
def days(tmp_path, monkeypatch):
    """Stands in for running a day: codes by date to be returned, outcomes of before."""

    class Days:
        def __init__(self):
            self.codes, self.outcomes, self.ran, self.told = {}, {}, [], []

        def backfill(self, **options):
            return backfill(
                requests(tmp_path),
                lambda request: lambda component: None,
                lambda request, day: self.told.append((request.run_date, day.exit_code)),
                **options,
            )

    stand_in = Days()

    def run_day(request, on_progress):
        stand_in.ran.append(request.run_date)
        return DayResult(stand_in.codes.get(request.run_date, PUSHED), None, "log")

    def latest_run(store, run_date):
        outcome = stand_in.outcomes.get(run_date)
        if outcome is None:
            return None
        now = datetime.datetime.now(datetime.timezone.utc)
        empty = {
            "components": {},
            "reasons": (),
            "metrics": {},
            "version": None,
            "served_before": None,
        }
        names = ("run_id", "start", "baseline", "stability", "model_uri", "base_model_uri")
        text = dict.fromkeys(names, "")
        return lineage.Run(
            run_date=run_date, started=now, seconds=0.0, outcome=outcome, **empty, **text
        )

    monkeypatch.setattr(daily, "run_day", run_day)
    monkeypatch.setattr(lineage, "open_store", lambda path: object())
    monkeypatch.setattr(lineage, "latest_run", latest_run)
    return stand_in


@pytest.mark.parametrize(
    ("codes", "options", "ran", "result"),
    [
        pytest.param({}, {}, DATES, PUSHED, id="all pushed"),
        pytest.param({1: BLOCKED}, {}, DATES, BLOCKED, id="blocked day does not stop"),
        pytest.param({1: BAD_DATA}, {}, DATES[:2], BAD_DATA, id="failed day stops"),
        pytest.param(
            {1: BAD_DATA}, {"keep_going": True}, DATES, BAD_DATA, id="failed day, keep going"
        ),
        pytest.param(
            {1: FAILED, 2: BLOCKED}, {"keep_going": True}, DATES, BLOCKED, id="last code counts"
        ),
        pytest.param({0: BLOCKED, 1: FAILED}, {}, DATES[:2], FAILED, id="blocked, then failed"),
    ],
)
def test_days_run_in_order_until_one_fails(days, codes, options, ran, result):
    days.codes = {DATES[i]: code for i, code in codes.items()}
    assert days.backfill(**options) == result
    assert days.ran == ran
    assert days.told == [(date, days.codes.get(date, PUSHED)) for date in ran]


@pytest.mark.parametrize(
    ("outcomes", "options", "ran", "result"),
    [
        pytest.param(["pushed", "pushed"], {}, DATES[2:], PUSHED, id="pushed days are left out"),
        pytest.param(["pushed", "blocked"], {}, DATES[2:], BLOCKED, id="blocked days too"),
        pytest.param(["pushed", "failed"], {}, DATES[1:], PUSHED, id="failed day is run again"),
        pytest.param(["pushed", "running"], {}, DATES[1:], PUSHED, id="killed day is run again"),
        pytest.param(["pushed"] * 4, {}, [], PUSHED, id="nothing left to do"),
        pytest.param(["pushed"] * 4, {"rerun": True}, DATES, PUSHED, id="rerun"),
    ],
)
def test_range_resumes_where_it_stopped(days, outcomes, options, ran, result):
    days.outcomes = dict(zip(DATES, outcomes, strict=False))
    assert days.backfill(**options) == result
    assert days.ran == ran


def test_second_run_in_a_workspace_is_refused_while_the_first_is_under_way(tmp_path):
    workspace = Workspace(str(tmp_path / "new" / "work"))
    with locked(workspace), pytest.raises(RankerError, match="another run is under way"):
        locked(workspace).__enter__()
    with locked(workspace):
        pass


def test_lock_of_a_killed_run_is_free(tmp_path):
    holder = (
        "import sys, time\nfrom pipeline.daily import locked\n"
        "from pipeline.workspace import Workspace\n"
        "with locked(Workspace(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RankerError, match="another run is under way"):
            locked(Workspace(str(tmp_path))).__enter__()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with locked(Workspace(str(tmp_path))):
        pass
