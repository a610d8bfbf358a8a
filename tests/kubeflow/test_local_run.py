import datetime
import json
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import kubeflow_package
from pipeline.kubeflow.local.backends import BACKENDS
from pipeline.kubeflow.local.runner import STATE_FILE, run_package
from pipeline.kubeflow.package import write_package
from schemas.errors import RankerError

PRELUDE = """
import json, os, pathlib, sys, time
given = json.loads(sys.argv[1])
pod = pathlib.Path(os.environ["STEADYRANK_MOUNTS"])
def local(uri):
    return pod / "minio" / uri.removeprefix("minio://")
def report(**metadata):
    artifact = {"uri": given["outputs"]["artifacts"]["out"]["artifacts"][0]["uri"]}
    artifact["metadata"] = metadata
    output = {"artifacts": {"out": {"artifacts": [artifact]}}}
    pathlib.Path(given["outputs"]["outputFile"]).write_text(json.dumps(output))
out = local(given["outputs"]["artifacts"]["out"]["artifacts"][0]["uri"])
inputs = {k: v["artifacts"][0] for k, v in given["inputs"].get("artifacts", {}).items()}
"""
SCHEMA = {"artifactType": {"instanceSchema": "title: tfx.Model\ntype: object\n"}}


def package(steps, **parameters):
    """A package of Python snippets: by name, the snippet and the steps whose output it takes."""
    tasks, components, executors = {}, {}, {}
    for name, (code, *upstream) in steps.items():
        sources = {
            step.lower(): {"taskOutputArtifact": {"producerTask": step, "outputArtifactKey": "out"}}
            for step in upstream
        }
        given = {key: {"componentInputParameter": key} for key in parameters}
        given["number"] = {"runtimeValue": {"constant": 3}}
        given["time"] = {"runtimeValue": {"constant": "{{$.pipeline_job_schedule_time_utc}}"}}
        types = {key: {"parameterType": "STRING"} for key in given}
        types["number"] = {"parameterType": "NUMBER_INTEGER"}
        tasks[name] = {
            "taskInfo": {"name": name},
            "componentRef": {"name": name},
            "inputs": {"artifacts": sources, "parameters": given},
        }
        components[name] = {
            "executorLabel": f"{name}_executor",
            "inputDefinitions": {"artifacts": dict.fromkeys(sources, SCHEMA), "parameters": types},
            "outputDefinitions": {"artifacts": {"out": SCHEMA}},
        }
        container = {"image": "image", "command": ["python", "-c"]}
        container["args"] = [PRELUDE + textwrap.dedent(code), "{{$}}"]
        executors[f"{name}_executor"] = {"container": container}
    declared = {
        key: {"parameterType": "STRING", "defaultValue": value} for key, value in parameters.items()
    }
    return {
        "schemaVersion": "2.1.0",
        "pipelineInfo": {"name": "test"},
        "defaultPipelineRoot": "minio://bucket/root",
        "root": {"inputDefinitions": {"parameters": declared}, "dag": {"tasks": tasks}},
        "components": components,
        "deploymentSpec": {"executors": executors},
    }


def run(spec, root, **options):
    return run_package([spec], root, options.pop("parameters", {}), **options)


WRITE = """
(out / "sub" / "empty").mkdir(parents=True)
(out / "sub" / "file").write_text("content")
report(count=3, flag=True, name="x", items=[1])
"""


def stored(root, artifact):
    return root / "store" / "minio" / artifact["uri"].removeprefix("minio://")


@pytest.fixture(params=[backend.since for backend in BACKENDS])
def release(request):
    return request.param


def test_consumer_finds_what_the_producer_uploaded_and_nothing_else(tmp_path, release):
    check = """
    assert (local(inputs["first"]["uri"]) / "sub" / "file").read_text() == "content"
    files = [file for file in pod.rglob("*") if file.is_file()]
    assert [file.name for file in files] == ["file"], files
    assert not (local(inputs["first"]["uri"]) / "sub" / "empty").exists()
    assert not out.exists() and out.parent.is_dir()
    out.mkdir()
    """
    spec = package({"First": (WRITE,), "Other": (WRITE,), "Second": (check, "First")})
    result = run(spec, tmp_path, backend=release)
    assert result.exit_code == 0
    for step in result.steps.values():
        assert step.state == "succeeded"
    assert (stored(tmp_path, result.steps["First"].outputs["out"]) / "sub/file").is_file()
    # The containers' folders are gone; logs and state stay.
    assert {path.name for path in result.folder.iterdir()} == {
        "First-1.log",
        "Other-1.log",
        "Second-1.log",
        STATE_FILE,
    }


def seen_by_second(root, release, **options):
    """The ExecutorInput of a step that takes the first one's output, and its recorded outputs."""
    show = """
    out.mkdir()
    (out / "given.json").write_text(sys.argv[1])
    print("what the step says")
    """
    spec = package({"First": (WRITE,), "Second": (show, "First")}, word="default", other="o")
    result = run(spec, root, parameters={"word": "given"}, backend=release, **options)
    second = result.steps["Second"]
    shown = (stored(root, second.outputs["out"]) / "given.json").read_text()
    return json.loads(shown), second.outputs, result


def test_executor_input_is_the_drivers(tmp_path, release):
    given, recorded, result = seen_by_second(tmp_path, release)
    values = given["inputs"]["parameterValues"]
    assert {key: values[key] for key in ("word", "other", "number")} == {
        "word": "given",
        "other": "o",
        "number": 3.0,
    }
    outputs = {key: value["artifacts"][0] for key, value in given["outputs"]["artifacts"].items()}
    assert outputs["executor-logs"]["type"] == {"schemaTitle": "system.Artifact"}
    assert outputs["out"]["type"] == SCHEMA["artifactType"]
    root = f"minio://mlpipeline/v2/artifacts/test/{result.run_id}/Second/"
    assert all(artifact["uri"].startswith(root) for artifact in outputs.values())
    logs = recorded["executor-logs"]
    assert stored(tmp_path, logs).read_text() == "what the step says\n"
    by_attempt = release in ("2.17", "3.0")
    assert logs["uri"].endswith("/executor-logs-0" if by_attempt else "/executor-logs")
    # The harness has put the folder that stands for `/` before it.
    folder = f"/minio/{root.removeprefix('minio://')}" if release > "2.14" else "/tmp/kfp_outputs/"
    assert folder in given["outputs"]["outputFile"] or release == "2.5"
    assert outputs["out"].get("name") == (None if release == "2.5" else "out")


@pytest.mark.parametrize("release", ["2.5", "2.14.3", "2.15.0", "2.16.1", "2.17.0"])
def test_artifacts_come_back_as_ml_metadata_keeps_them(tmp_path, release):
    given, _, _ = seen_by_second(tmp_path, release)
    (artifact,) = given["inputs"]["artifacts"]["first"]["artifacts"]
    assert artifact["type"] == {"instanceSchema": ""}
    assert artifact["name"].isdecimal()
    metadata = artifact["metadata"]
    assert {key: metadata[key] for key in ("count", "flag", "name", "items")} == {
        "count": 3.0,
        "flag": 1.0,
        "name": "x",
        "items": {"list": [1]},
    }
    assert metadata["display_name"] == "out"


def test_artifacts_come_back_as_written_without_ml_metadata(tmp_path):
    given, _, _ = seen_by_second(tmp_path, "3.0")
    (artifact,) = given["inputs"]["artifacts"]["first"]["artifacts"]
    assert artifact["metadata"] == {"count": 3, "flag": True, "name": "x", "items": [1]}
    assert artifact["name"] == "out"
    assert artifact["type"] == {"schemaTitle": SCHEMA["artifactType"]["instanceSchema"]}


def test_step_without_inputs_is_handed_no_empty_maps(tmp_path, release):
    show = "out.mkdir(); (out / 'given.json').write_text(sys.argv[1])"
    spec = package({"Only": (show,)})
    spec["components"]["Only"]["inputDefinitions"] = {}
    spec["root"]["dag"]["tasks"]["Only"]["inputs"] = {}
    result = run(spec, tmp_path, backend=release)
    shown = stored(tmp_path, result.steps["Only"].outputs["out"]) / "given.json"
    assert json.loads(shown.read_text())["inputs"] == {}


TIME = 'out.mkdir(); report(time=given["inputs"]["parameterValues"]["time"])'


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("2.5", "{{$.pipeline_job_schedule_time_utc}}"),
        ("2.15", "{{$.pipeline_job_schedule_time_utc}}"),
        ("2.16", ""),
        ("2.17", "2026-01-09T06:00:00Z"),
        ("3.0", "2026-01-09T06:00:00Z"),
    ],
)
def test_schedule_time_is_expanded_as_the_release_does(tmp_path, release, expected):
    spec = package({"Only": (TIME,)})
    result = run(spec, tmp_path, schedule_time="2026-01-09T06:00:00Z", backend=release)
    assert result.find("time") == [expected]


def test_run_that_no_schedule_made_has_the_time_that_it_was_made(tmp_path):
    before = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    result = run(package({"Only": (TIME,)}), tmp_path)
    (time,) = result.find("time")
    assert before <= datetime.datetime.fromisoformat(time.replace("Z", "+00:00"))


@pytest.mark.parametrize("version", ["2.4", "3.1", "newest", "2"])
def test_release_that_is_not_known_is_refused(tmp_path, version):
    with pytest.raises(RankerError, match=f"Kubeflow Pipelines {version}: .* of 2.5 to 3.0"):
        run(package({"Only": (WRITE,)}), tmp_path, backend=version)


def test_placeholders_of_single_values_are_replaced(tmp_path):
    spec = package({"First": (WRITE,), "Second": ("report(seen=sys.argv[2:])", "First")}, word="w")
    spec["deploymentSpec"]["executors"]["Second_executor"]["container"]["args"] += [
        "{{$.inputs.parameters['word']}}/{{$.inputs.parameters['number']}}",
        "{{$.inputs.artifacts['first'].uri}}",
        "{{$.outputs.artifacts['out'].path}}",
    ]
    result = run(spec, tmp_path)
    (seen,) = result.find("seen")
    first, second = (result.steps[name].outputs["out"]["uri"] for name in ("First", "Second"))
    assert seen["list"][:2] == ["w/3", first]
    assert seen["list"][2].endswith(second.replace("minio://", "/minio/"))


def test_environment_of_the_container_is_set(tmp_path):
    spec = package({"Only": ('report(mode=os.environ["MODE"])',)})
    container = spec["deploymentSpec"]["executors"]["Only_executor"]["container"]
    container["env"] = [{"name": "MODE", "value": "fast"}]
    assert run(spec, tmp_path).find("mode") == ["fast"]


def test_volume_of_a_claim_is_a_folder_that_stays(tmp_path):
    count = """
    values = given["inputs"]["parameterValues"]
    assert values["given"] == "/data/mine" and values["word"] == "/database/x"
    folder = pathlib.Path(values["serving_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(len(list(folder.iterdir())))).touch()
    report(folder=str(folder))
    """
    spec = package(
        {"Only": (count,)}, serving_dir="/data/serving", given="/data/x", word="/database/x"
    )
    config = {"pvcMount": [{"constant": "claim", "mountPath": "/data"}]}
    executors = {"deploymentSpec": {"executors": {"Only_executor": config}}}
    documents = [spec, {"platforms": {"kubernetes": executors}}]
    for _ in range(2):
        result = run_package(documents, tmp_path, {"given": "/data/mine"})
        assert result.exit_code == 0
    assert result.find("folder") == [str(tmp_path / "volumes/claim/serving")]
    assert {path.name for path in (tmp_path / "volumes/claim/serving").iterdir()} == {"0", "1"}


def test_independent_steps_run_at_once(tmp_path):
    meet = """
    (pathlib.Path({folder!r}) / {me!r}).touch()
    for _ in range(300):
        if (pathlib.Path({folder!r}) / {other!r}).exists():
            break
        time.sleep(0.1)
    else:
        sys.exit("alone")
    """
    steps = {
        me: (meet.format(folder=str(tmp_path), me=me, other=other),)
        for me, other in (("A", "B"), ("B", "A"))
    }
    assert run(package(steps), tmp_path, jobs=2).exit_code == 0


def test_no_more_steps_run_at_once_than_allowed(tmp_path):
    alone = f"""
    flag = pathlib.Path({str(tmp_path)!r}) / "running"
    flag.touch(exist_ok=False)
    time.sleep(0.3)
    flag.unlink()
    """
    result = run(package(dict.fromkeys("ABC", (alone,))), tmp_path, jobs=1)
    assert result.exit_code == 0


def test_failure_stops_what_has_not_started_and_leaves_no_output(tmp_path):
    fail = """
    out.mkdir()
    (out / "file").touch()
    sys.exit(11)
    """
    steps = {"First": (fail,), "Second": (WRITE, "First"), "Third": (WRITE, "Second")}
    told = []
    result = run(package(steps), tmp_path, on_step=told.append)
    assert {name: step.state for name, step in result.steps.items()} == {
        "First": "failed",
        "Second": "omitted",
        "Third": "omitted",
    }
    assert result.exit_code == 1
    assert Path(result.steps["First"].log).read_text() == "launcher: the command ended with 11\n"
    assert not (tmp_path / "store").exists()
    assert [step.name for step in told] == ["First", "Second", "Third"]
    state = json.loads((result.folder / STATE_FILE).read_text())
    assert state["steps"]["First"]["exit_code"] == 1


def test_steps_under_way_end_when_another_fails(tmp_path):
    steps = {"Bad": ("sys.exit(1)",), "Slow": ("time.sleep(2)" + WRITE,), "After": (WRITE, "Slow")}
    result = run(package(steps), tmp_path, jobs=2)
    assert result.steps["Slow"].state == "succeeded"
    assert result.steps["After"].state == "omitted"


def test_step_is_retried_as_its_policy_says(tmp_path):
    flaky = f"""
    count = pathlib.Path({str(tmp_path)!r}) / "count"
    attempt = int(count.read_text()) + 1 if count.exists() else 1
    count.write_text(str(attempt))
    assert not out.exists()
    out.mkdir()
    if attempt < 3:
        sys.exit(1)
    """
    spec = package({"Only": (flaky,)})
    spec["root"]["dag"]["tasks"]["Only"]["retryPolicy"] = {
        "maxRetryCount": 2,
        "backoffDuration": "20s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": "600s",
    }
    waits = []
    result = run(spec, tmp_path, sleep=waits.append)
    assert result.steps["Only"].attempts == 3
    assert result.exit_code == 0
    assert waits == [20, 40]
    logs = result.steps["Only"].outputs["executor-logs"]["uri"]
    assert logs.endswith("/executor-logs-2")


def test_step_is_given_up_when_its_first_attempt_is_as_long_ago_as_the_policy_says(tmp_path):
    spec = package({"Only": ("sys.exit(1)",)})
    spec["root"]["dag"]["tasks"]["Only"]["retryPolicy"] = {
        "maxRetryCount": 5,
        "backoffDuration": "20s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": "70s",
    }
    waits = []
    result = run(spec, tmp_path, sleep=waits.append)
    assert waits == [20, 40]
    assert result.steps["Only"].attempts == 3
    assert result.exit_code == 1


def test_artifacts_go_where_the_run_says_and_not_where_the_package_does(tmp_path):
    spec = package({"Only": ("out.mkdir(); (out / 'file').touch()",)})
    assert spec["defaultPipelineRoot"] == "minio://bucket/root"
    given = run(spec, tmp_path / "given", pipeline_root="minio://other/root").steps["Only"]
    assert given.outputs["out"]["uri"].startswith("minio://other/root/")
    left = run(spec, tmp_path / "left").steps["Only"]
    assert left.outputs["out"]["uri"].startswith("minio://mlpipeline/v2/artifacts/")


@pytest.mark.parametrize(("release", "exit_code"), [("2.5", 1), ("2.17", 1), ("3.0", 0)])
def test_null_in_metadata_fails_the_step_where_ml_metadata_keeps_it(tmp_path, release, exit_code):
    spec = package({"Only": ("out.mkdir(); report(model=None)",)})
    result = run(spec, tmp_path, backend=release)
    assert result.exit_code == exit_code
    assert ("metadata model: is null" in Path(result.steps["Only"].log).read_text()) == exit_code


WRONG_URI = """
out.mkdir()
(out / "file").touch()
output = {"artifacts": {"out": {"artifacts": [{"uri": str(out)}]}}}
pathlib.Path(given["outputs"]["outputFile"]).write_text(json.dumps(output))
"""


@pytest.mark.parametrize("code", [WRONG_URI, "pass"])
def test_output_that_is_not_where_its_uri_says_is_passed_over_before_3_0(tmp_path, code, release):
    result = run(package({"Only": (code,)}), tmp_path, backend=release)
    assert result.exit_code == int(release == "3.0")
    uploaded = [path.name for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert [name.partition("-")[0] for name in uploaded if "file" in name] == []
    if release == "3.0":
        assert "launcher: output out: " in Path(result.steps["Only"].log).read_text()


def test_link_to_a_file_is_uploaded_as_the_file(tmp_path, release):
    write = "out.mkdir(); (out / 'file').touch(); (out / 'link').symlink_to(out / 'file')"
    result = run(package({"Only": (write,)}), tmp_path, backend=release)
    assert result.exit_code == 0
    link = stored(tmp_path, result.steps["Only"].outputs["out"]) / "link"
    assert link.is_file()
    assert not link.is_symlink()


def test_link_to_a_folder_fails_the_upload(tmp_path, release):
    write = "(out / 'folder').mkdir(parents=True); (out / 'link').symlink_to(out / 'folder')"
    result = run(package({"Only": (write,)}), tmp_path, backend=release)
    assert result.exit_code == 1
    assert "is a link to no file" in Path(result.steps["Only"].log).read_text()


def test_link_to_nothing_ends_the_upload_unsaid_before_3_0(tmp_path, release):
    write = "out.mkdir(); (out / 'link').symlink_to('nothing'); (out / 'rest').touch()"
    result = run(package({"Only": (write,)}), tmp_path, backend=release)
    assert result.exit_code == int(release == "3.0")
    assert [path.name for path in (tmp_path / "store").rglob("rest")] == []


def test_unknown_run_parameter_is_refused(tmp_path):
    spec = package({"Only": (WRITE,)}, word="w")
    message = "sped: the package has no such run parameter; it has word"
    with pytest.raises(RankerError, match=message):
        run(spec, tmp_path, parameters={"sped": "1"})


def test_package_that_could_not_run_on_kubeflow_is_refused(tmp_path):
    spec = package({"Only": (WRITE,)})
    spec["schemaVersion"] = "2.0.0"
    with pytest.raises(RankerError, match="schemaVersion"):
        run(spec, tmp_path)


@pytest.mark.parametrize(
    ("code", "exit_code", "shown"),
    [
        ('report(pushed=1, pushed_version="7")', 0, "pushed version 7"),
        ("report(pushed=0)", 10, "succeeded"),
        (
            """
            from pipeline import failure
            from schemas.errors import BadDataError
            print("a warning")
            sys.exit(failure.tell(BadDataError("no events\\nDeliver them")).exit_code)
            """,
            1,
            "BadDataError: no events\nDeliver",
        ),
        (
            'sys.exit("killed by a signal")',
            1,
            "the command ended with 1: killed by a signal",
        ),
    ],
)
def test_command_tells_steps_and_outcome(tmp_path, code, exit_code, shown):
    path = tmp_path / "package.yaml"
    write_package([package({"Only": (code,)}, word="w")], str(path))
    options = ["local-run", str(path), "--root", str(tmp_path / "root"), "-p", "word=a=b"]
    done = CliRunner().invoke(kubeflow_package.app, options)
    assert done.exit_code == exit_code, done.output
    assert shown in done.output
    assert "Only" in done.output


def test_lint_command_names_file_and_problem(tmp_path):
    path = tmp_path / "package.yaml"
    spec = package({"Only": (WRITE,)})
    write_package([spec], str(path))
    assert CliRunner().invoke(kubeflow_package.app, ["lint", str(path)]).exit_code == 0
    write_package([{**spec, "schemaVersion": "2.0.0"}], str(path))
    done = CliRunner().invoke(kubeflow_package.app, ["lint", str(path)])
    assert done.exit_code == 1
    assert f"{path}: schemaVersion: '2.0.0'" in done.output
