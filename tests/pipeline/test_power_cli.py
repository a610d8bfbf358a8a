import re
from pathlib import Path

import pytest
from planted_runs import Store
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.workspace import Workspace

DEMO = str(Path(__file__).parents[2] / "schemas" / "demo.yaml")


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "work").mkdir()
    store = Store(Workspace(str(tmp_path / "work")).metadata_path)
    store.run("r1", "2026-01-03", version=1)
    store.run("r2", "2026-01-04", version=2)
    return str(tmp_path / "work")


def power(workspace, *arguments):
    call = ["power", "--spec", DEMO, "--workspace", workspace, *arguments]
    result = CliRunner().invoke(app, call, env={"COLUMNS": "160"})
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def test_table_tells_how_often_a_healthy_model_is_blocked_and_what_fall_is_seen(workspace):
    gate = "tasks.click.gate={min_auc: 0.6, max_auc_drop: 0.004}"
    code, text = power(workspace, "--set", gate)
    assert code == 0, text
    assert "2 days, 2026-01-03 to 2026-01-04" in text
    (line,) = [line for line in text.splitlines() if "auc change" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    # Two standard errors of 0.002 are the bound.
    assert cells == ["click", "auc change at least -0.004", "0.00200", "2.28%", "0.0073"]
    assert "a healthy model is blocked on at most 2.28% of days" in text


def test_days_that_were_not_evaluated_are_named(workspace, tmp_path):
    code, text = power(workspace, "2026-01-04", "2026-02-01")
    assert code == 1
    assert "2026-02-01: not evaluated" in text
    code, text = power(str(tmp_path / "none"))
    assert code == 1
    assert "run some days first" in text
