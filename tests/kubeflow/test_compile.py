import re
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp import components, dsl
from kfp.pipeline_spec import pipeline_spec_pb2

from pipeline.kubeflow.compile import compile_package
from pipeline.kubeflow.package import load_package, write_package
from pipeline.kubeflow.values import Parameters, load_values, parse_values, quantity
from schemas.errors import RankerError

VALUES = """
pipeline_name: ranker
image: registry/ranker@sha256:0
pipeline_root: s3://bucket/artifacts
run_date_lag_days: 2
parameters:
  spec: /data/spec.yaml
  overrides: [training.window_days=14]
  logs_root: s3a/logs
  day_store: /data/days
  serving_dir: /data/serving
  checkpoint_root: /data/checkpoints
defaults:
  cpu: 500m
  memory: 2Gi
  retries: 1
  retry_after: 20
  volumes: [{claim: data, path: /data}]
  secret_env: [{secret: keys, keys: {access: AWS_ACCESS_KEY_ID, key: AWS_SECRET_ACCESS_KEY}}]
steps:
  Trainer:
    cpu: 8
    cpu_limit: 16
    memory: 32G
    gpu: {count: 2}
    env: {TF_GPU_ALLOCATOR: cuda_malloc_async}
    node_selector: {pool: gpu}
    labels: {role: chief}
    tolerations: [{key: gpu, operator: Exists, effect: NoSchedule}]
    secret_volumes: [{secret: gcp, path: /secrets}]
    image_pull_secrets: [registry]
  Pusher:
    retries: 0
    volumes: []
    secret_env: []
"""


@pytest.fixture(scope="module")
def package():
    return compile_package(parse_values(VALUES, "values.yaml"))


@pytest.fixture(scope="module")
def spec(package):
    return package[0]


def container(spec, step):
    return spec["deploymentSpec"]["executors"][f"{step}_executor"]["container"]


def kubernetes(package):
    return package[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_package_is_a_pipeline_spec_to_the_letter(spec):
    message = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    assert message.schema_version == "2.1.0"
    assert message.default_pipeline_root == "s3://bucket/artifacts"
    for executor in spec["deploymentSpec"]["executors"].values():
        json_format.ParseDict(executor, pipeline_spec_pb2.PipelineDeploymentConfig.ExecutorSpec())


def test_package_on_disk_is_read_by_the_sdk(package, tmp_path):
    path = tmp_path / "made" / "pipeline.yaml"
    write_package(package, str(path))
    assert load_package(str(path)) == package
    loaded = components.load_component_from_text(path.read_text())
    assert loaded.pipeline_spec.pipeline_info.name == "ranker"
    assert set(loaded.platform_spec.platforms) == {"kubernetes"}


def test_run_parameters_have_the_values_as_defaults(spec):
    declared = spec["root"]["inputDefinitions"]["parameters"]
    assert set(declared) == set(Parameters.model_fields)
    assert declared["spec"]["defaultValue"] == "/data/spec.yaml"
    assert declared["overrides"]["defaultValue"] == '["training.window_days=14"]'
    assert declared["run_date"]["defaultValue"] == ""


def test_run_date_comes_from_parameter_schedule_and_lag(spec):
    inputs = spec["root"]["dag"]["tasks"]["Plan"]["inputs"]["parameters"]
    assert inputs["run_date"] == {"componentInputParameter": "run_date"}
    # Only as the whole constant of a task does the back end expand it.
    assert inputs["schedule_time"]["runtimeValue"] == {
        "constant": "{{$.pipeline_job_schedule_time_utc}}"
    }
    assert inputs["run_date_lag_days"]["runtimeValue"] == {"constant": 2.0}


def test_every_step_runs_our_entry_point_in_the_image(spec):
    for step in spec["root"]["dag"]["tasks"]:
        run = container(spec, step)
        assert run["image"] == "registry/ranker@sha256:0"
        assert run["command"] == ["python", "-m", "pipeline.kubeflow.entrypoint"]
        assert "{{$}}" in run["args"]
        assert "--direct_running_mode=in_memory" in run["args"]


def test_evaluators_page_is_declared_as_the_sdk_declares_a_page(spec):
    @dsl.container_component
    def step(page: dsl.Output[dsl.HTML]):
        return dsl.ContainerSpec(image="image", args=[page.path])

    (of_the_sdk,) = step.pipeline_spec.components["comp-step"].output_definitions.artifacts.values()
    component = spec["root"]["dag"]["tasks"]["Evaluator"]["componentRef"]["name"]
    ours = spec["components"][component]["outputDefinitions"]["artifacts"]["page"]
    assert ours == json_format.MessageToDict(of_the_sdk)


def test_nothing_is_cached(spec):
    for task in spec["root"]["dag"]["tasks"].values():
        assert task["cachingOptions"] == {"enableCache": False}


def test_resources_are_in_cores_and_billions_of_bytes(spec):
    assert container(spec, "Plan")["resources"] == {
        "cpuRequest": 0.5,
        "memoryRequest": 2 * 2**30 / 1e9,
        "memoryLimit": 2 * 2**30 / 1e9,
    }
    assert container(spec, "Trainer")["resources"] == {
        "cpuRequest": 8.0,
        "cpuLimit": 16.0,
        "memoryRequest": 32.0,
        "memoryLimit": 32.0,
        "accelerator": {"type": "nvidia.com/gpu", "count": 2},
    }


def test_retries_are_the_defaults_unless_a_step_says_otherwise(spec):
    tasks = spec["root"]["dag"]["tasks"]
    assert tasks["Trainer"]["retryPolicy"]["maxRetryCount"] == 1
    assert tasks["Trainer"]["retryPolicy"]["backoffDuration"] == "20s"
    # Argo counts it from the first attempt's start: a training of days is tried again, too.
    assert tasks["Trainer"]["retryPolicy"]["backoffMaxDuration"] == "2592000s"
    assert "retryPolicy" not in tasks["Pusher"]


def test_kubernetes_settings_are_in_the_platform_spec(package):
    settings = kubernetes(package)
    keys = [
        {"secretKey": "access", "envVar": "AWS_ACCESS_KEY_ID"},
        {"secretKey": "key", "envVar": "AWS_SECRET_ACCESS_KEY"},
    ]
    common = {
        "pvcMount": [{"constant": "data", "mountPath": "/data"}],
        "secretAsEnv": [{"secretName": "keys", "keyToEnv": keys}],
    }
    assert settings["Plan_executor"] == common
    assert settings["Trainer_executor"] == {
        **common,
        "nodeSelector": {"labels": {"pool": "gpu"}},
        "podMetadata": {"labels": {"role": "chief"}},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "secretAsVolume": [{"secretName": "gcp", "mountPath": "/secrets"}],
        "imagePullSecret": [{"secretName": "registry"}],
    }
    assert "Pusher_executor" not in settings


def test_environment_is_in_the_container(spec):
    assert container(spec, "Trainer")["env"] == [
        {"name": "TF_GPU_ALLOCATOR", "value": "cuda_malloc_async"}
    ]
    assert "env" not in container(spec, "Plan")


def test_remote_artifacts_are_asked_for_on_the_command_line():
    values = VALUES.replace("s3://bucket", "gs://bucket") + "remote_artifacts: true\n"
    (spec, _) = compile_package(parse_values(values, "values.yaml"))
    assert container(spec, "Plan")["command"][-1] == "--remote_artifacts"


def test_step_that_there_is_not_is_refused():
    values = VALUES.replace("  Trainer:", "  Tuner:")
    with pytest.raises(RankerError, match=r"steps\.Tuner: the pipeline has no such step; it has D"):
        compile_package(parse_values(values, "values.yaml"))


def test_values_of_the_project_compile_to_a_package_that_runs():
    compile_package(load_values("kubeflow/values.yaml"))


def test_package_must_be_yaml(package, tmp_path):
    with pytest.raises(RankerError, match=r"a package's name ends in \.yaml"):
        write_package(package, str(tmp_path / "pipeline.json"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image:", "picture:", r"values\.yaml: picture: no such field"),
        ("cpu: 500m", "cpu: half", r"defaults\.cpu: expected a quantity .* got 'half'"),
        ("cpu: 8\n", "cpus: 8\n", r"steps\.Trainer\.cpus: no such field"),
        ("memory: 32G", "memory: 32 GB", r"steps\.Trainer\.memory: expected a quantity"),
        ("count: 2", "count: 0", r"steps\.Trainer\.gpu\.count: .*, got 0"),
        ("s3://bucket/artifacts", "/data", r"pipeline_root: .*, got '/data'"),
        ("name: ranker", "name: Ranker", r"pipeline_name: .*, got 'Ranker'"),
        ("name: ranker", f"name: {'r' * 64}", r"pipeline_name: .*, got 'rrrr"),
        ("overrides: [training", "overrides: [1, training", r"parameters\.overrides\.0: must be t"),
        ("window_days=14", "window_days 14", r"overrides\.0: override .* FIELD\.FIELD=VALUE"),
        ("  spec: /data/spec.yaml\n", "", r"parameters\.spec: required, and missing"),
        ("  spec:", "  run_date: yesterday\n  spec:", r"parameters\.run_date: .*'yesterday'"),
        ("path: /data}", "path: data}", r"defaults\.volumes\.0\.path: .*, got 'data'"),
        ("access: AWS", "access: 1AWS", r"defaults\.secret_env\.0\.keys\.access: "),
        ("effect: NoSchedule", "effect: Never", r"steps\.Trainer\.tolerations\.0\.effect: "),
        ("image:", "remote_artifacts: true\nimage:", r"remote_artifacts: needs a .* on gs://"),
        ("image:", "[", r"values\.yaml: not valid YAML"),
    ],
)
def test_wrong_value_is_refused_by_file_and_field(old, new, message):
    text = VALUES.replace(old, new, 1)
    assert text != VALUES
    with pytest.raises(RankerError, match=message) as caught:
        parse_values(text, "values.yaml")
    assert str(caught.value).startswith("values.yaml: ")


def test_values_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(RankerError, match=r"nowhere\.yaml: cannot be read"):
        load_values(str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), ("0.5", 0.5), ("250m", 0.25), ("1Ki", 1024), ("3G", 3e9), ("1.5Gi", 1.5 * 2**30)],
)
def test_quantities_are_those_of_kubernetes(text, value):
    assert quantity(text) == value


def test_every_field_of_the_values_file_is_explained():
    lines = Path("kubeflow/values.yaml").read_text().splitlines()
    fields = [number for number, line in enumerate(lines) if re.match(r"(  )?\w+:", line)]
    top = [number for number in fields if not lines[number].startswith(" ")]
    assert all(lines[number - 1].startswith("#") for number in top)
    assert set(yaml.safe_load("\n".join(lines))) >= {"parameters", "defaults", "steps"}
