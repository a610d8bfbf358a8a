import dataclasses

import pytest
from deployments import package_in

from pipeline.kubeflow.cron import check_cron
from pipeline.kubeflow.package import OVERRIDES, check_parameters, read_package
from schemas.errors import RankerError, SpecError


def test_version_is_named_after_the_content(tmp_path):
    first, same, other = (package_in(tmp_path, image) for image in ("a:1", "a:1", "a:2"))
    assert first.version == same.version != other.version
    assert first.version.startswith("ranker-")


@pytest.mark.parametrize("content", ["", "a: [", "- 1", "pipelineInfo: {name: other}"])
def test_other_files_are_no_packages(tmp_path, content):
    path = tmp_path / "package.yaml"
    path.write_text(content)
    with pytest.raises(RankerError, match=r"package\.yaml"):
        read_package(str(path))


def test_parameters_are_held_against_the_package(package):
    given = {"logs_root": "gs://logs", "attempts": "3"}
    assert check_parameters(package, given) == {"logs_root": "gs://logs", "attempts": 3}
    with pytest.raises(RankerError, match=r"log_root: .* it has attempts, logs_root, run_date"):
        check_parameters(package, {"log_root": ""})
    with pytest.raises(RankerError, match="attempts: expected NUMBER_INTEGER, got 'many'"):
        check_parameters(package, {"attempts": "many"})


@pytest.mark.parametrize("overrides", ["training.epochs=2", "[1]", "null", '["training.epochs"]'])
def test_overrides_that_the_run_could_not_read_are_refused_at_once(package, overrides):
    declared = dataclasses.replace(package, parameters={**package.parameters, OVERRIDES: "STRING"})
    with pytest.raises(SpecError, match=r"overrides: expected a JSON list|FIELD\.FIELD=VALUE"):
        check_parameters(declared, {OVERRIDES: overrides})
    assert check_parameters(declared, {OVERRIDES: '["a=1"]'}) == {OVERRIDES: '["a=1"]'}


@pytest.mark.parametrize("cron", ["0 3 * * *", "@daily", "0 0 3 * * * *", "", "0 0 3 * * ;"])
def test_cron_has_six_fields(cron):
    with pytest.raises(RankerError, match="seconds first"):
        check_cron(cron)


@pytest.mark.parametrize(
    "cron", ["0 * * * * *", "0 0 * * * *", "0 0 3,15 * * *", "0 0 */6 * * *", "0 0 24 * * *"]
)
def test_cron_is_one_time_of_day(cron):
    with pytest.raises(RankerError, match="a day is run once"):
        check_cron(cron)
