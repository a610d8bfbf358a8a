"""Benchmarks are run by hand, and rarely: that they still import and start is seen here."""

import json
import pathlib
import subprocess
import sys

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


@pytest.mark.parametrize("name", COMMANDS)
def test_benchmark_imports_and_explains_itself(name):
    assert run(name, "--help").startswith("usage: ")


def test_a_measurement_joins_those_that_were_kept(tmp_path):
    results = tmp_path / "ingest.json"
    results.write_text(json.dumps({"results": {"kept": 1}}))
    run("ingest", "--history", "--rows", "2000", "--results", str(results))
    measured = json.loads(results.read_text())["results"]
    assert measured.keys() == {"kept", "ours_csv_history"}
    assert measured["ours_csv_history"]["events_per_second"] > 0
