"""What a component fails with reaches whoever started the run as it was raised."""

import json
import os
from typing import ClassVar

import apache_beam as beam
import pytest
from tfx import types
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.orchestration import pipeline
from tfx.orchestration.metadata import sqlite_metadata_connection_config
from tfx.types import component_spec

from pipeline import failure
from pipeline.dag_runner import DagRunner
from schemas.errors import BadDataError, ExitCode, RankerError, SpecError

IN_MEMORY = "--direct_running_mode=in_memory"
SEVERAL_LINES = "2026-01-04: 2 anomalies:\n  eval: age: too low\n\nMend the logs."


def divide(number):
    return 1 // number


class FailingExecutor(base_beam_executor.BaseBeamExecutor):
    """Fails itself, or has a worker of its own Beam pipeline fail."""

    def Do(self, input_dict, output_dict, exec_properties):  # noqa: N802
        if exec_properties["in_worker"]:
            with self._make_beam_pipeline() as work:
                _ = work | beam.Create([0]) | beam.Map(divide)
        raise BadDataError(SEVERAL_LINES)


class FailingSpec(types.ComponentSpec):
    PARAMETERS: ClassVar = {"in_worker": component_spec.ExecutionParameter(type=int)}
    INPUTS: ClassVar = {}
    OUTPUTS: ClassVar = {}


class Failing(base_beam_component.BaseBeamComponent):
    SPEC_CLASS = FailingSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(FailingExecutor)


@pytest.fixture
def told_in(tmp_path, monkeypatch):
    monkeypatch.setenv(failure.VARIABLE, str(tmp_path / "failure.json"))
    return str(tmp_path / "failure.json")


@pytest.mark.parametrize(
    ("in_worker", "kind", "message", "code"),
    [
        (0, "BadDataError", SEVERAL_LINES, ExitCode.BAD_DATA),
        (1, "", "ZeroDivisionError: integer division or modulo by zero", ExitCode.FAILED),
    ],
    ids=["component", "worker of a component"],
)
def test_error_of_a_component_is_told_as_it_was_raised(
    tmp_path, told_in, monkeypatch, in_worker, kind, message, code
):
    monkeypatch.setattr("sys.argv", ["run", IN_MEMORY])
    dag = pipeline.Pipeline(
        pipeline_name="failing",
        pipeline_root=str(tmp_path / "root"),
        components=[Failing(FailingSpec(in_worker=in_worker))],
        metadata_connection_config=sqlite_metadata_connection_config(str(tmp_path / "store")),
        beam_pipeline_args=[IN_MEMORY],
    )
    with pytest.raises(Exception, match=r".") as raised:
        DagRunner().run(dag)
    # The process ends with what the runner made of it, and says so too late.
    last = failure.tell(raised.value)
    told = failure.read(told_in)
    assert told == last
    assert (told.kind, told.exit_code) == (kind, code)
    assert told.message.startswith(message)


def test_file_is_plain_data(told_in):
    failure.tell(SpecError("spec.yaml: tasks: missing"))
    with open(told_in) as file:
        assert json.load(file) == {
            "kind": "SpecError",
            "message": "spec.yaml: tasks: missing",
            "exit_code": 3,
        }


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RankerError("locked\nTry again."), "RankerError: locked\nTry again."),
        (KeyError("age"), "KeyError: 'age'"),
        (ValueError(), "ValueError"),
        (OSError("refused:\n\tdetails\n>"), "OSError: refused:\n\tdetails\n>"),
        (
            RuntimeError("Traceback (most recent call last):\n  File x\n    y()\nOSError: full\n"),
            "OSError: full",
        ),
    ],
)
def test_any_error_has_words_and_needs_no_file(monkeypatch, error, words):
    monkeypatch.delenv(failure.VARIABLE, raising=False)
    assert str(failure.tell(error)) == words


@pytest.mark.parametrize("content", [None, "", '{"kind"', '{"kind": "", "message": ""}'])
def test_process_that_told_nothing_whole_told_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / "told").write_text(content)
    assert failure.read(str(tmp_path / "told")) is None


@pytest.mark.parametrize(
    ("content", "line"), [(None, ""), ("", ""), ("first\nlast\n\n  \n", "last"), ("one", "one")]
)
def test_last_line_is_that_which_says_something(tmp_path, content, line):
    if content is not None:
        (tmp_path / "log").write_text(content)
    assert failure.last_line(str(tmp_path / "log")) == line


def test_last_line_of_a_huge_log_is_found_without_reading_it_all(tmp_path):
    log = tmp_path / "log"
    log.touch()
    os.truncate(log, 1 << 40)
    with log.open("a") as file:
        file.write("\nlast\n")
    assert failure.last_line(str(log)) == "last"
