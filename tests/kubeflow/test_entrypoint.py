import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tfx.dsl.components.base import base_executor
from tfx.orchestration.kubeflow.v2 import compiler_utils
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import io_utils

from components import artifacts, properties
from pipeline.kubeflow import entrypoint
from pipeline.kubeflow.local import driver
from pipeline.kubeflow.local.backends import BACKENDS, NEWEST, backend_of
from pipeline.kubeflow.mounts import local_path
from schemas.errors import BadDataError, RankerError

PLAN_URI = "minio://mlpipeline/v2/run/Plan/1/plan"
MODEL_URI = "minio://mlpipeline/v2/run/Trainer/1/model"
BLESSING_URI = "minio://mlpipeline/v2/run/Check/1/blessing"
PAGE_URI = "minio://mlpipeline/v2/run/Check/1/page"


class CheckExecutor(base_executor.BaseExecutor):
    """Reads a plan and the properties of a model, writes a blessing."""

    def Do(self, input_dict, output_dict, exec_properties):  # noqa: N802
        plan = artifact_utils.get_single_instance(input_dict["plan"])
        model = artifact_utils.get_single_instance(input_dict["model"])
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        if exec_properties["fail"] == 1:
            raise BadDataError("logs/2026-01-01: no events\nDeliver them.")
        if exec_properties["fail"] == 2:
            raise OSError("disk full")
        assert isinstance(plan, artifacts.RunPlan)
        assert isinstance(model, standard_artifacts.Model)
        assert os.path.isdir(blessing.uri)
        io_utils.write_string_file(
            os.path.join(blessing.uri, "seen.json"),
            json.dumps(
                {
                    "plan": io_utils.read_string_file(os.path.join(plan.uri, "plan.json")),
                    "blessed": model.get_int_custom_property("blessed"),
                    "reasons": model.get_string_custom_property("reasons"),
                    "fail": exec_properties["fail"],
                    "logs_root": exec_properties["logs_root"],
                    "outputs": sorted(output_dict),
                    "beam_args": self._context.extra_flags,
                }
            ),
        )
        blessing.set_int_custom_property("blessed", 1)
        blessing.set_string_custom_property("reasons", "one\ntwo")
        blessing.set_string_custom_property("current_model", model.uri)
        blessing.mlmd_artifact.custom_properties["unset"].SetInParent()


def declared(artifact_type):
    schema = (
        compiler_utils.get_artifact_schema(artifact_type)
        if artifact_type.__module__.startswith("tfx.")
        else f"title: {artifact_type.TYPE_NAME}\ntype: object\n"
    )
    return {"instanceSchema": schema if isinstance(schema, str) else schema.decode()}


INPUTS_SPEC = {
    "artifacts": {
        "plan": {"artifactType": declared(artifacts.RunPlan)},
        "model": {"artifactType": declared(standard_artifacts.Model)},
    },
    "parameters": {
        "fail": {"parameterType": "NUMBER_INTEGER"},
        "logs_root": {"parameterType": "STRING"},
    },
}


def executor_input(output_file=None, fail=0, release=NEWEST):
    """What the launcher of a release hands over, for a step with two inputs."""
    run = driver.PackageRun("run", "pipeline", "minio://mlpipeline/v2", {}, backend_of(release))

    def received(number, uri, artifact_type, **metadata):
        artifact = {"uri": uri, "type": declared(artifact_type), "metadata": metadata}
        name = "plan" if uri == PLAN_URI else "model"
        return {"artifacts": [driver.record(name, artifact, number, run)]}

    blessing = {"artifactType": declared(standard_artifacts.InfraBlessing)}
    component = {"outputDefinitions": {"artifacts": {"blessing": blessing}}}
    outputs = driver.provision_outputs(run, "Check", component, "1")
    outputs["artifacts"]["blessing"]["artifacts"][0]["uri"] = BLESSING_URI
    if output_file is not None:
        outputs["outputFile"] = str(output_file)
    return {
        "inputs": {
            "parameterValues": {"fail": float(fail), "logs_root": "s3://logs/events"},
            "artifacts": {
                "plan": received(17, PLAN_URI, artifacts.RunPlan),
                "model": received(
                    18, MODEL_URI, standard_artifacts.Model, blessed=1.0, reasons="a\nb"
                ),
            },
        },
        "outputs": outputs,
    }


def arguments(given, *more):
    return [
        *more,
        "--executor_class_path",
        "test_entrypoint.CheckExecutor",
        "--json_serialized_invocation_args",
        json.dumps(given),
        "--json_serialized_inputs_spec_args",
        json.dumps(INPUTS_SPEC),
        "--direct_running_mode=in_memory",
    ]


@pytest.fixture
def pod(tmp_path):
    """The launcher's folder after it downloaded the inputs."""
    plan = Path(local_path(PLAN_URI, str(tmp_path)))
    plan.mkdir(parents=True)
    (plan / "plan.json").write_text("the plan")
    return tmp_path


@pytest.fixture(params=[backend.since for backend in BACKENDS])
def done(pod, request):
    output_file = pod / "tmp" / "output_metadata.json"
    given = executor_input(output_file, release=request.param)
    entrypoint.run(arguments(given), str(pod))
    seen = json.loads(Path(local_path(BLESSING_URI, str(pod)), "seen.json").read_text())
    return seen, json.loads(output_file.read_text())


def test_executor_reads_inputs_and_writes_outputs_in_the_launchers_copies(done):
    seen, _ = done
    assert seen["plan"] == "the plan"
    assert seen["beam_args"] == ["--direct_running_mode=in_memory"]


def test_properties_of_inputs_reach_the_executor(done):
    seen, _ = done
    assert seen["blessed"] == 1
    assert seen["reasons"] == "a\nb"


def test_parameters_keep_their_types_and_remote_paths(done):
    seen, _ = done
    assert seen["fail"] == 0
    assert isinstance(seen["fail"], int)
    assert seen["logs_root"] == "s3://logs/events"


def test_logs_output_of_the_back_end_is_neither_seen_nor_reported(done):
    seen, output = done
    assert seen["outputs"] == ["blessing"]
    assert set(output["artifacts"]) == {"blessing"}


def test_reported_artifact_has_its_remote_uri_and_its_properties(done):
    _, output = done
    (blessing,) = output["artifacts"]["blessing"]["artifacts"]
    assert blessing["uri"] == BLESSING_URI
    assert blessing["metadata"]["blessed"] == 1.0
    assert blessing["metadata"]["reasons"] == "one\ntwo"


def test_path_of_an_artifact_in_a_property_is_reported_as_its_uri(done):
    _, output = done
    (blessing,) = output["artifacts"]["blessing"]["artifacts"]
    assert blessing["metadata"]["current_model"] == MODEL_URI


def test_nothing_null_is_reported(done):
    _, output = done
    (blessing,) = output["artifacts"]["blessing"]["artifacts"]
    assert "unset" not in blessing["metadata"]
    assert None not in blessing["metadata"].values()


def test_failed_executor_reports_nothing(pod):
    output_file = pod / "tmp" / "output_metadata.json"
    with pytest.raises(OSError, match="disk full"):
        entrypoint.run(arguments(executor_input(output_file, fail=2)), str(pod))
    assert not output_file.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_container_ends_with_the_message_and_code_of_the_named_error(pod):
    command = [sys.executable, "-m", "pipeline.kubeflow.entrypoint"]
    done = subprocess.run(
        [*command, *arguments(executor_input(pod / "output_metadata.json", fail=1))],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
            entrypoint.MOUNTS_VARIABLE: str(pod),
        },
    )
    assert done.returncode == BadDataError.exit_code
    assert done.stderr.endswith("BadDataError: logs/2026-01-01: no events\nDeliver them.\n")


def test_ingestion_looks_at_beams_workers_before_it_waits_for_them(pod, monkeypatch):
    output_file = pod / "output_metadata.json"
    asked = []

    def nobody(beam_args, folder):
        asked.append((beam_args, folder))
        raise RankerError("no worker of Beam answered")

    monkeypatch.setattr(entrypoint, "check_workers", nobody)
    given = arguments(executor_input(output_file))
    step = given.index("test_entrypoint.CheckExecutor")
    given[step] = "components.daily_example_gen.executor.Executor"
    with pytest.raises(RankerError, match="no worker"):
        entrypoint.run(given, str(pod))
    assert not output_file.exists()
    assert asked == [(["--direct_running_mode=in_memory"], local_path(BLESSING_URI, str(pod)))]
    # Once a run.
    given[step] = "test_entrypoint.CheckExecutor"
    entrypoint.run(given, str(pod))
    assert len(asked) == 1


def test_remote_artifacts_are_left_at_their_uris(tmp_path):
    given = executor_input()
    mended = entrypoint.mend_input(given, INPUTS_SPEC, str(tmp_path), remote=True)
    assert mended["inputs"]["artifacts"]["plan"]["artifacts"][0]["uri"] == PLAN_URI
    assert mended["outputs"]["artifacts"]["blessing"]["artifacts"][0]["uri"] == BLESSING_URI
    output = {"artifacts": {"blessing": {"artifacts": [{"uri": BLESSING_URI, "metadata": {}}]}}}
    assert entrypoint.mend_output(output, given, str(tmp_path), remote=True) == output


@pytest.mark.parametrize("remote", [False, True])
def test_launcher_finds_a_folder_for_each_output(tmp_path, remote):
    entrypoint.mend_input(executor_input(), INPUTS_SPEC, str(tmp_path), remote)
    assert list(Path(local_path(BLESSING_URI, str(tmp_path))).iterdir()) == []


@pytest.mark.parametrize("remote", [False, True])
def test_page_has_no_folder_where_it_is_to_be_the_one_object(tmp_path, remote):
    given = executor_input()
    page = {"uri": PAGE_URI, "type": {"schemaTitle": "system.HTML"}}
    given["outputs"]["artifacts"]["page"] = {"artifacts": [page]}
    entrypoint.mend_input(given, INPUTS_SPEC, str(tmp_path), remote)
    # One that is written to its URI leaves the launcher an empty folder, as other outputs do.
    assert Path(local_path(PAGE_URI, str(tmp_path))).is_dir() == remote


@pytest.mark.parametrize("remote", [False, True])
def test_artifacts_that_are_given_know_their_own_uri(tmp_path, remote):
    mended = entrypoint.mend_input(executor_input(), INPUTS_SPEC, str(tmp_path), remote)
    (plan,) = mended["inputs"]["artifacts"]["plan"]["artifacts"]
    assert plan["metadata"][properties.OWN_URI.name] == PLAN_URI
    assert (plan["uri"] == PLAN_URI) == remote


def test_mending_changes_nothing_that_was_given(tmp_path):
    given = executor_input()
    entrypoint.mend_input(given, INPUTS_SPEC, str(tmp_path))
    assert given == executor_input()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("gs://bucket/a/b", "/gcs/bucket/a/b"),
        ("s3://bucket/a", "/s3/bucket/a"),
        ("minio://bucket/a", "/minio/bucket/a"),
        ("hdfs://host/a", None),
        ("/data/a", None),
    ],
)
def test_copies_lie_where_the_launcher_puts_them(uri, path):
    assert local_path(uri) == path
    assert local_path(uri, "/tmp/pod/") == (path and f"/tmp/pod{path}")
