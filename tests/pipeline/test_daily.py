import dataclasses
import datetime
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from planted_runs import Store

from pipeline import daily, failure, lineage
from pipeline.beam_run import Request
from pipeline.daily import DEFAULT_BEAM_ARGS, DayResult, backfill, beam_args_for, locked
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
                lock=-1,
                **options,
            )

    stand_in = Days()

    def run_day(request, lock, on_progress):
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
        names = (
            "run_id",
            "start",
            "baseline",
            "stability",
            "training",
            "model_uri",
            "base_model_uri",
        )
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
            {1: FAILED, 2: BLOCKED}, {"keep_going": True}, DATES, FAILED, id="failed, then blocked"
        ),
        pytest.param(
            {0: BLOCKED, 1: BAD_DATA, 2: FAILED},
            {"keep_going": True},
            DATES,
            BAD_DATA,
            id="code of the first failure counts",
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


def test_file_system_that_cannot_lock_is_not_taken_for_another_run(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RankerError, match=r"cannot be locked \(No locks available\)"):
        locked(Workspace(str(tmp_path))).__enter__()


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


def run_in(workspace, monkeypatch=None, child="", **changes):
    """Runs a day, by `child` (Python, in the workspace) in place of the pipeline if given."""
    if child:
        program = workspace / "python"
        path = f"import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})"
        program.write_text(f"#!{sys.executable}\n{path}\n{child}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
    request = dataclasses.replace(requests(workspace)[0], **changes)
    with locked(Workspace(str(workspace))) as lock:
        return daily.run_day(request, lock, lambda component: None)


@pytest.mark.parametrize(
    ("end", "code", "reason"),
    [
        ("os.kill(os.getpid(), 9)", FAILED, "died (signal 9)"),
        ("sys.exit(2)", ExitCode.USAGE, "died (exit 2)"),
        ("sys.exit(11)", BAD_DATA, "died (exit 11)"),
    ],
)
def test_run_whose_process_dies_has_failed_at_once(tmp_path, monkeypatch, end, code, reason):
    planted = "Store('metadata.sqlite').run('r1', '2026-01-03', end='running Trainer')"
    child = f"from planted_runs import Store\n{planted}\n{end}"
    day = run_in(tmp_path, monkeypatch, child)
    assert day.exit_code == code
    assert (day.run.outcome, day.run.reasons) == ("failed", (reason,))


def test_run_whose_process_dies_after_the_push_has_pushed(tmp_path, monkeypatch):
    planted = "Store('metadata.sqlite').run('r1', '2026-01-03', version=4)"
    child = f"from planted_runs import Store\n{planted}\nos.kill(os.getpid(), 9)"
    day = run_in(tmp_path, monkeypatch, child)
    assert day.exit_code == PUSHED
    assert (day.run.outcome, day.run.version) == ("pushed", 4)


def test_error_that_a_run_noted_itself_stays(tmp_path, monkeypatch):
    child = (
        "from pipeline import lineage\nfrom planted_runs import Store\n"
        "Store('metadata.sqlite').run('r1', '2026-01-03', end='failed Trainer')\n"
        "lineage.set_error(lineage.open_store('metadata.sqlite'), 'no memory')\nsys.exit(1)"
    )
    assert run_in(tmp_path, monkeypatch, child).run.reasons == ("no memory",)


def test_bad_beam_option_ends_the_run_before_its_first_component(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "pipeline.py").write_text("raise ImportError('of somebody else')")
    monkeypatch.chdir(tmp_path / "elsewhere")
    day = run_in(tmp_path, beam_args=("--direct_num_workers=abc",))
    assert (day.exit_code, day.run, day.failure) == (ExitCode.USAGE, None, None)
    assert "--direct_num_workers: invalid int value: 'abc'" in failure.last_line(day.log_path)


def test_what_a_run_failed_with_is_told_as_it_was_raised(tmp_path, monkeypatch):
    child = (
        "from pipeline import failure\nfrom schemas.errors import BadDataError\n"
        "told = failure.tell(BadDataError('no events\\nDeliver them.'))\n"
        "failure.tell(RuntimeError('of the runner'))\nsys.exit(told.exit_code)"
    )
    day = run_in(tmp_path, monkeypatch, child)
    assert (day.exit_code, day.run) == (BAD_DATA, None)
    assert str(day.failure) == "BadDataError: no events\nDeliver them."


def test_store_that_is_being_made_does_not_end_a_run(tmp_path, monkeypatch):
    child = (
        "from planted_runs import Store\nimport time\n"
        "open('metadata.sqlite', 'w').write('no database')\ntime.sleep(1.5)\n"
        "os.remove('metadata.sqlite')\n"
        "Store('metadata.sqlite').run('r1', '2026-01-03', end='blocked')"
    )
    day = run_in(tmp_path, monkeypatch, child)
    assert (day.exit_code, day.run.outcome) == (BLOCKED, "blocked")


def test_run_of_which_nothing_is_known_at_its_end_is_not_said_to_be_blocked(tmp_path, monkeypatch):
    day = run_in(tmp_path, monkeypatch, "sys.exit(0)")
    assert (day.exit_code, day.run) == (FAILED, None)


def test_store_that_cannot_be_read_at_the_end_of_a_run_is_named(tmp_path, monkeypatch):
    with pytest.raises(RankerError, match=r"metadata\.sqlite: .* \(file is not a database\)"):
        run_in(tmp_path, monkeypatch, "open('metadata.sqlite', 'w').write('no database')")


def test_file_that_is_no_store_is_named(tmp_path):
    (tmp_path / "metadata.sqlite").write_text("no database")
    with pytest.raises(RankerError, match=r"metadata\.sqlite: .* \(file is not a database\)"):
        run_in(tmp_path)


@pytest.mark.parametrize(
    ("number", "outlives"),
    [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGKILL, True)],
)
def test_lock_is_held_as_long_as_the_run_itself_lives(tmp_path, number, outlives):
    workspace = tmp_path / "work"
    child = tmp_path / "python"
    child.write_text(f"#!/bin/sh\ncd {tmp_path}\necho $$ >new\nmv new pid\nexec sleep 60\n")
    child.chmod(0o755)
    spec = Path(__file__).parents[2] / "schemas" / "demo.yaml"
    call = ["run", DATES[0], "--logs", "logs", "--spec", str(spec), "-w", str(workspace)]
    # Whoever runs tests in the background may have Ctrl-C ignored, for their children too.
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"from pipeline.cli import app; sys.executable = {str(child)!r}; app({call})"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    try:
        while not (tmp_path / "pid").exists():
            assert parent.poll() is None
            time.sleep(0.05)
        pid = int((tmp_path / "pid").read_text())
        parent.send_signal(number)
        parent.wait(timeout=30)
        if outlives:
            with pytest.raises(RankerError, match="another run is under way"):
                locked(Workspace(str(workspace))).__enter__()
        else:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
            with locked(Workspace(str(workspace))):
                pass
    finally:
        parent.kill()
        parent.wait()
        if outlives:
            os.kill(pid, signal.SIGKILL)


def test_full_disk_is_said_before_a_run_starts(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RankerError, match=r"0\.0 MB are free .* `steadyrank clean`"):
        run_in(tmp_path)
    assert not (tmp_path / "run_logs").exists()


@pytest.mark.parametrize("content", [None, b"", "tables"])
def test_run_does_not_write_into_folders_of_a_history_that_is_lost(tmp_path, content):
    left = tmp_path / "artifacts" / "Trainer" / "model" / "6"
    left.mkdir(parents=True)
    if content == "tables":
        Store(str(tmp_path / "metadata.sqlite"))
    elif content is not None:
        (tmp_path / "metadata.sqlite").write_bytes(content)
    with pytest.raises(RankerError, match="Restore it from a backup"):
        run_in(tmp_path)
    assert left.exists()


def test_a_large_day_is_worked_on_by_all_cores(tmp_path):
    (tmp_path / "2026-01-03").mkdir()
    (tmp_path / "2026-01-03" / "part-0.jsonl").write_bytes(b" " * 1000)
    with open(tmp_path / "2026-01-03" / "part-1.jsonl", "wb") as file:
        assert beam_args_for(str(tmp_path), "2026-01-03") == DEFAULT_BEAM_ARGS
        file.truncate(100_000_000)
    large = PipelineOptions(list(beam_args_for(str(tmp_path), "2026-01-03")))
    options = large.view_as(DirectOptions)
    assert options.direct_running_mode == "multi_threading"
    assert 1 <= options.direct_num_workers <= len(os.sched_getaffinity(0))
    assert beam_args_for(str(tmp_path), "2026-01-04") == DEFAULT_BEAM_ARGS
    assert beam_args_for("gs://bucket/logs", "2026-01-03") != DEFAULT_BEAM_ARGS
