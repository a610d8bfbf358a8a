"""Commands on workspaces in which something else lies where a folder or a file should."""

import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app

DEMO = str(Path(__file__).parents[2] / "schemas" / "demo.yaml")
ODD = {
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "link to the workspace": lambda path: path.symlink_to("."),
    "link to itself": lambda path: path.symlink_to(path.name),
    "file": lambda path: path.write_text("x"),
    "empty file": lambda path: path.touch(),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
}


@pytest.fixture
def _within_seconds():
    def hang(*_):
        raise AssertionError("the command does not end")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_within_seconds")
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["metadata.sqlite", "serving", "artifacts", "day_store", ".lock"])
def test_odd_entry_ends_in_an_answer_or_an_error_and_stays(tmp_path, name, kind):
    ODD[kind](tmp_path / name)
    for call in (["status"], ["clean", "-s", DEMO], ["rollback", "1"]):
        result = CliRunner().invoke(app, [*call, "-w", str(tmp_path)])
        assert isinstance(result.exception, SystemExit | None), result.exception
        assert os.path.lexists(tmp_path / name)
