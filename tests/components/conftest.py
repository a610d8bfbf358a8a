"""Fixtures of the tests of DailyExampleGen."""

import shutil

import pytest
from ingestion import DAYS, event, make_pipeline, plan, run, write_day


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("template")
    for i, date in enumerate(DAYS):
        write_day(root / "logs", date, [event(1000 * i + n) for n in range(100)])
    run(plan(), root, root / "out", make_pipeline)
    shutil.rmtree(root / "out")
    return root


@pytest.fixture
def root(template, tmp_path):
    """Four days of 100 events in `logs`, all of them in `store`; times are kept."""
    shutil.copytree(template, tmp_path / "root")
    return tmp_path / "root"
