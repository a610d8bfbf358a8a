import pytest

from schemas.errors import error_in

BEAM = """Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1495, in process
  File "components/plan/executor.py", line 40, in Do
    raise BadDataError(message)
schemas.errors.BadDataError: 2026-01-04: 2 anomalies:
  eval: age: too low
Mend the logs.

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "pipeline/beam_run.py", line 110, in main
    run(request)
RuntimeError: schemas.errors.BadDataError: 2026-01-04: 2 anomalies:
  eval: age: too low
Mend the logs. [while running 'Run[Plan]']
"""


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        pytest.param(
            BEAM,
            "BadDataError",
            "2026-01-04: 2 anomalies:\n  eval: age: too low\nMend the logs.",
            id="through Beam, several lines",
        ),
        pytest.param(
            "Traceback (most recent call last):\n  File x\n"
            "schemas.errors.SpecError: spec.yaml: tasks: missing\n",
            "SpecError",
            "spec.yaml: tasks: missing",
            id="as it was raised",
        ),
        pytest.param(
            "Traceback (most recent call last):\n  File x\n"
            "RuntimeError: schemas.errors.TrainingError: loss is NaN [while running 'Trainer']\n",
            "TrainingError",
            "loss is NaN",
            id="as Beam's text alone",
        ),
        pytest.param(
            "Traceback (most recent call last):\n  File x\n    y()\nKeyError: 'age'\n",
            "",
            "KeyError: 'age'",
            id="an error of nobody's",
        ),
        pytest.param(
            "Traceback (most recent call last):\n  File x\n"
            "ValueError: no shape [while running 'Evaluator']\n",
            "",
            "ValueError: no shape",
            id="an error of nobody's through Beam",
        ),
    ],
)
def test_error_that_a_run_failed_with_is_found_in_its_traceback(text, name, message):
    assert error_in(text) == (name, message)
