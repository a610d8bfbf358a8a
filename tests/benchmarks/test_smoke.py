"""Benchmarks are run by hand, and rarely: that they still import and start is seen here."""

import gzip
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "ArgumentParser" in path.read_text("utf-8")
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_processes")]


def run(name, *options):
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_benchmarks_import_and_explain_themselves():
    """All in one process: the project is imported once."""
    explain = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        assert not ended.code, name
"""
    command = [sys.executable, "-c", explain, *COMMANDS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(COMMANDS) > 10
    assert done.stdout.count("usage: ") == len(COMMANDS)


def test_a_measurement_joins_those_that_were_kept(tmp_path):
    results = tmp_path / "ingest.json"
    results.write_text(json.dumps({"results": {"kept": 1}}))
    run("ingest", "--history", "--rows", "2000", "--results", str(results))
    measured = json.loads(results.read_text())["results"]
    assert measured.keys() == {"kept", "ours_csv_history"}
    assert measured["ours_csv_history"]["events_per_second"] > 0


def test_policies_of_the_accumulators_part_after_a_day():
    options = ("--days", "3", "--rows", "200", "--seeds", "1", "--policies", "carry", "forget")
    one_task = (  # In two thirds of the time.
        "tasks={click: {kind: binary, label: clicked, gate: {min_auc: 0.5}}}",
        "serving.score=click",
    )
    printed = run("accumulators", *options, *(f"--set={setting}" for setting in one_task))
    *_, last = (json.loads(line) for line in printed.splitlines() if line.startswith("{"))
    assert last["rate"]["forget"] > last["rate"]["carry"]
    assert last["loss"]["forget"] != last["loss"]["carry"]


@pytest.fixture(scope="module")
def shop_logs(tmp_path_factory):
    """Six days on which each shop has a rate of its own."""
    logs = tmp_path_factory.mktemp("shops")
    rng = np.random.default_rng(3)
    for day in range(6):
        folder = logs / f"2026-03-{day + 1:02d}"
        folder.mkdir()
        shop = rng.integers(8, size=600)
        bought = rng.random(600) < 0.1 + 0.1 * shop
        lines = [
            {"eventId": n, "shop": f"s{s}", "price": float(s), "bought": int(b)}
            for n, (s, b) in enumerate(zip(shop, bought, strict=True))
        ]
        (folder / "events.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return logs


def test_a_first_model_of_any_logs_is_held_against_the_alternatives(shop_logs):
    printed = run("first_model", str(shop_logs), "--seeds", "1")
    rows = {line.split("|")[1].strip(): line.split("|")[2] for line in printed.splitlines()[2:]}
    auc = {ranker: float(cell) for ranker, cell in rows.items()}
    assert auc["constant"] == 0.5
    assert 0.72 < auc["rates"] < 0.80
    assert 0.70 < auc["ours"] < 0.80
    assert "lightgbm" not in auc or 0.70 < auc["lightgbm"] < 0.80


def test_a_draft_is_held_against_the_best_of_other_settings_on_later_days(shop_logs, tmp_path):
    results = tmp_path / "tuned.json"
    options = ("--tries", "1", "--chosen-on", "1", "--reported", "1", "--seeds", "1")
    printed = run("tuned", str(shop_logs), "--name", "shops", *options, "--results", str(results))
    (result,) = json.loads(results.read_text())
    assert (result["log"], result["events a day"], result["days"]) == ("shops", 600, [1, 1])
    assert result["worth"]["tuned"] >= result["worth"]["drafted"] > 0.7
    (seed,) = result["seeds"]
    assert 0.7 < seed["drafted"]["bought"] < 0.8
    assert f"| bought | {seed['drafted']['bought']:.4f} |" in printed


def test_simulated_logs_have_the_shape_that_is_asked_for(tmp_path):
    asked = ("--shape", "few users, many items", "--rows", "200", "--logs", str(tmp_path))
    assert "of 14 days" in run("small_logs", "simulated", *asked)
    seen: dict[str, set] = {"user_id": set(), "item_id": set()}
    for path in tmp_path.glob("*/part-*.jsonl.gz"):
        with gzip.open(path, "rt") as lines:
            for event in map(json.loads, lines):
                for name, values in seen.items():
                    values.add(event[name])
    assert len(seen["item_id"]) > 2 * len(seen["user_id"])  # the demo's has more users


def test_movielens_becomes_days_of_equal_size_in_the_order_of_time(tmp_path):
    source, logs = tmp_path / "source", tmp_path / "logs"
    source.mkdir()
    ratings = [f"{n % 3}\t{n % 2}\t{n % 5 + 1}\t{1000 - n}" for n in range(24)]
    tables = {
        "inter": ["user_id:token\titem_id:token\trating:float\ttimestamp:float", *ratings],
        "user": [
            "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
            *(f"{user}\t30\tF\twriter\t0" for user in range(3)),
        ],
        "item": [
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
            "0\tA\t1995\tComedy Crime",
            "1\tB\t\tDrama",
        ],
    }
    for kind, lines in tables.items():
        (source / f"ml-100k.{kind}").write_text("\n".join(lines))
    assert "24 events of 12 days" in run(
        "small_logs", "movielens", "--source", str(source), "--logs", str(logs)
    )
    days = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(logs.glob("*/events.jsonl"))
    ]
    assert [len(day) for day in days] == [2] * 12
    first = days[0][0]
    assert (first["rating"], first["liked"]) == (4, 1)  # the newest line is the earliest rating
    assert (first["genres"], first["releaseYear"]) == (["Drama"], None)


@pytest.mark.parametrize("minimum", [1e-3, 0.3, 0.5, 0.9, 7.0, 300.0])
def test_a_step_is_too_long_from_twice_the_way_to_a_parabolas_minimum_on(minimum):
    from benchmarks.early_warning import critical_multiple

    multiple, calls = critical_multiple(lambda t: (t - minimum) ** 2)
    assert multiple == pytest.approx(2 * minimum, rel=0.05)
    assert calls <= 18


def test_a_step_of_which_no_length_helps_is_too_long_at_any():
    from benchmarks.early_warning import critical_multiple

    assert critical_multiple(lambda t: t)[0] < 1e-4
