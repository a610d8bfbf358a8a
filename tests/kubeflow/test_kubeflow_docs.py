import pathlib
import re
import shlex

import pytest
import yaml
from typer.main import get_command

from pipeline import cli as steadyrank
from pipeline.cli import kubeflow_package, kubeflow_server
from pipeline.kubeflow.values import Values

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "kubeflow.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"steadyrank kubeflow ([^`\n#]+)", TEXT)))
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.S)]
KNOWN = {**get_command(kubeflow_package.app).commands, **get_command(kubeflow_server.app).commands}


@pytest.mark.parametrize("line", COMMANDS)
def test_documented_command_parses(line):
    command, *arguments = shlex.split(line)
    KNOWN[command].make_context(command, arguments)


def test_documented_local_run_is_of_a_day_that_the_demo_has_logs_of():
    (line,) = (line for line in COMMANDS if "logs_root=work/demo/logs" in line)
    date = re.search(r"run_date=2026-01-(\d+)", line)
    assert int(date[1]) <= steadyrank.DEMO_DAYS


@pytest.mark.parametrize("command", sorted(KNOWN))
def test_every_command_is_documented_or_helped(command):
    assert f"steadyrank kubeflow {command}" in TEXT or command in ("upload", "schedule")


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_documented_values_are_values(block):
    values = yaml.safe_load((ROOT / "kubeflow" / "values.yaml").read_text())
    Values.model_validate({**values, "pipeline_root": "gs://your-bucket/artifacts", **block})


def test_beam_knows_the_documented_options():
    from apache_beam.options.pipeline_options import PipelineOptions

    given = [flag for block in BLOCKS for flag in block.get("beam_args", ())]
    given += re.findall(r"# - (--\S+)", TEXT)
    # Of the job server, which passes it on to Flink.
    given = [flag for flag in given if not flag.startswith("--parallelism")]
    assert len(given) > 10
    known = PipelineOptions(given).get_all_options(drop_default=True)
    missing = {flag[2:].partition("=")[0] for flag in given} - set(known)
    assert not missing


@pytest.mark.parametrize("path", sorted(set(re.findall(r"kubeflow/manifests/[\w./-]+", TEXT))))
def test_documented_manifests_are_there(path):
    assert (ROOT / path).exists()
