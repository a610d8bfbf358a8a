import copy
import datetime

import pytest

from pipeline.kubeflow.lint import dependencies, lint

SCHEMA = {"artifactType": {"instanceSchema": "title: tfx.Model\ntype: object\n"}}


def container(**more):
    return {"container": {"image": "image", "command": ["python"], "args": ["{{$}}"], **more}}


PIPELINE = {
    "schemaVersion": "2.1.0",
    "sdkVersion": "tfx-1.16.0",
    "pipelineInfo": {"name": "steadyrank"},
    "defaultPipelineRoot": "minio://bucket",
    "root": {
        "inputDefinitions": {
            "parameters": {"run_date": {"parameterType": "STRING", "defaultValue": ""}}
        },
        "dag": {
            "tasks": {
                "Plan": {
                    "taskInfo": {"name": "Plan"},
                    "componentRef": {"name": "Plan"},
                    "inputs": {
                        "parameters": {
                            "run_date": {"componentInputParameter": "run_date"},
                            "lag": {"runtimeValue": {"constant": 1.0}},
                        }
                    },
                },
                "Trainer": {
                    "taskInfo": {"name": "Trainer"},
                    "componentRef": {"name": "Trainer"},
                    "dependentTasks": ["Plan"],
                    "inputs": {
                        "artifacts": {
                            "plan": {
                                "taskOutputArtifact": {
                                    "producerTask": "Plan",
                                    "outputArtifactKey": "plan",
                                }
                            }
                        },
                        "parameters": {"run_fn": {"runtimeValue": {"constant": "module.run_fn"}}},
                    },
                },
            }
        },
    },
    "components": {
        "Plan": {
            "executorLabel": "Plan_executor",
            "inputDefinitions": {
                "parameters": {
                    "run_date": {"parameterType": "STRING"},
                    "lag": {"parameterType": "NUMBER_INTEGER"},
                }
            },
            "outputDefinitions": {"artifacts": {"plan": SCHEMA}},
        },
        "Trainer": {
            "executorLabel": "Trainer_executor",
            "inputDefinitions": {
                "artifacts": {"plan": SCHEMA},
                "parameters": {
                    "run_fn": {"parameterType": "STRING"},
                    "module_file": {"parameterType": "STRING", "isOptional": True},
                },
            },
            "outputDefinitions": {"artifacts": {"model": SCHEMA}},
        },
    },
    "deploymentSpec": {
        "executors": {"Plan_executor": container(), "Trainer_executor": container()}
    },
}
PLATFORM = {
    "platforms": {
        "kubernetes": {
            "deploymentSpec": {
                "executors": {
                    "Trainer_executor": {"pvcMount": [{"constant": "claim", "mountPath": "/data"}]}
                }
            }
        }
    }
}

TASKS = ("root", "dag", "tasks")
TRAINER = (*TASKS, "Trainer")
INPUTS = (*TRAINER, "inputs")
EXECUTORS = ("deploymentSpec", "executors")
DELETE = object()


def changed(document, *changes):
    document = copy.deepcopy(document)
    for path, value in changes:
        node = document
        for key in path[:-1]:
            node = node.setdefault(key, {})
        if value is DELETE:
            del node[path[-1]]
        else:
            node[path[-1]] = value
    return document


def constant(value):
    return {"runtimeValue": {"constant": value}}


def test_package_that_runs_has_no_problem():
    assert lint([PIPELINE]) == []
    assert lint([PIPELINE, PLATFORM]) == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param(
            (*EXECUTORS, "Trainer_executor"),
            {"resolver": {"outputArtifactQueries": {}}},
            "deploymentSpec.executors.Trainer_executor: is a resolver, which the back end does not "
            "implement",
            id="resolver",
        ),
        pytest.param(
            (*EXECUTORS, "Trainer_executor"),
            {"customJob": {}},
            "is a custom job, which only Vertex AI runs",
            id="custom job",
        ),
        pytest.param(
            (*EXECUTORS, "Trainer_executor"),
            {},
            "expected one of container and importer",
            id="none",
        ),
        pytest.param(
            (*EXECUTORS, "Plan_executor", "container", "lifecycle"),
            {"preCacheCheck": {"command": ["python"]}},
            "is a driver of TFX's file-based ExampleGen",
            id="driver",
        ),
        pytest.param(
            (*EXECUTORS, "Plan_executor", "container", "image"), "", "image: is missing", id="image"
        ),
        pytest.param(
            (*EXECUTORS, "Plan_executor", "container", "command"),
            DELETE,
            "command: is missing",
            id="command",
        ),
        pytest.param(
            (*EXECUTORS, "Plan_executor", "container", "resources"),
            {"accelerator": {"type": "NVIDIA_TESLA_T4", "count": 1}},
            "'NVIDIA_TESLA_T4' is Vertex AI's name",
            id="accelerator",
        ),
        pytest.param(
            (*INPUTS, "artifacts", "plan", "taskOutputArtifact", "producerTask"),
            "Planner",
            "root.dag.tasks.Trainer.inputs.artifacts.plan: there is no task 'Planner'",
            id="producer",
        ),
        pytest.param(
            (*INPUTS, "artifacts", "plan", "taskOutputArtifact", "outputArtifactKey"),
            "plans",
            "root.dag.tasks.Trainer.inputs.artifacts.plan: task 'Plan' has no output 'plans'",
            id="output",
        ),
        pytest.param(
            (*INPUTS, "artifacts", "plan"), {}, "plan: comes from no task", id="no source"
        ),
        pytest.param(
            (*INPUTS, "artifacts", "plan"), DELETE, "plan: the component needs it", id="no artifact"
        ),
        pytest.param(
            (*INPUTS, "artifacts", "schema"),
            {"taskOutputArtifact": {"producerTask": "Plan", "outputArtifactKey": "plan"}},
            "schema: the component has no such input",
            id="undeclared artifact",
        ),
        pytest.param(
            (*INPUTS, "parameters", "run_fn"),
            {"taskOutputParameter": {"producerTask": "Plan_task", "outputParameterKey": "fn"}},
            "run_fn: there is no task 'Plan_task' to produce it",
            id="parameter out of a task, as TFX names it",
        ),
        pytest.param(
            (*INPUTS, "parameters", "run_fn"),
            {"componentInputParameter": "function"},
            "run_fn: there is no run parameter 'function'",
            id="run parameter",
        ),
        pytest.param(
            (*INPUTS, "parameters", "run_fn"),
            {"runtimeValue": {"constantValue": {"stringValue": "x"}}},
            "run_fn: has neither a run parameter, nor a producer, nor a constant of schema 2.1.0",
            id="constant of schema 2.0",
        ),
        pytest.param(
            (*INPUTS, "parameters", "run_fn"),
            DELETE,
            "run_fn: the component needs it",
            id="no value",
        ),
        pytest.param(
            (*INPUTS, "parameters", "speed"),
            constant(1.0),
            "speed: the component has no such parameter",
            id="undeclared parameter",
        ),
        pytest.param(
            (*INPUTS, "parameters", "module_file"),
            constant("trainer.py"),
            "module_file: TFX would install this module with pip",
            id="module_file",
        ),
        pytest.param(
            (*TRAINER, "dependentTasks"), ["Plam"], "there is no task 'Plam'", id="dependency"
        ),
        pytest.param(
            (*TASKS, "Plan", "dependentTasks"),
            ["Trainer"],
            "root.dag.tasks: each waits for the next",
            id="cycle",
        ),
        pytest.param(
            (*TRAINER, "triggerPolicy"),
            {"condition": "inputs.artifacts['blessing'].artifacts[0].metadata['blessed'] == 1.0"},
            "TFX writes Cond for Vertex AI",
            id="condition",
        ),
        pytest.param(
            (*TRAINER, "artifactIterator"), {}, "the back end does not implement it", id="iterator"
        ),
        pytest.param(
            (*TRAINER, "taskInfo", "name"), "trainer", "taskInfo.name: differs", id="task name"
        ),
        pytest.param(
            (*TRAINER, "componentRef", "name"), "Tuner", "there is no component 'Tuner'", id="ref"
        ),
        pytest.param(
            ("components", "Trainer", "executorLabel"), "x", "there is no executor 'x'", id="label"
        ),
        pytest.param(
            ("pipelineInfo", "name"), "Steady_Rank", "'Steady_Rank' cannot begin a", id="name"
        ),
        pytest.param(
            ("schemaVersion",), "2.0.0", "'2.0.0', but the back end reads 2.1.0", id="version"
        ),
        pytest.param(
            ("root", "inputDefinitions", "parameters", "run_date", "defaultValue"),
            DELETE,
            "run_date: has no defaultValue",
            id="default",
        ),
        pytest.param(
            ("components", "Plan", "inputDefinitions", "parameters", "run_date"),
            {"type": "STRING"},
            "has no parameterType, as in schema 2.0",
            id="parameter of schema 2.0",
        ),
        pytest.param(TASKS, {}, "the pipeline has no task", id="empty"),
        # What KFP's protos do not have.
        pytest.param(("metadata",), {}, 'no field named "metadata"', id="unknown at the top"),
        pytest.param((*TRAINER, "retries"), 3, "root.dag.tasks.Trainer", id="unknown in a task"),
        pytest.param(
            ("components", "Trainer", "label"), "x", "components.Trainer: ", id="in a component"
        ),
        pytest.param(
            (*EXECUTORS, "Plan_executor", "container", "imag"),
            "x",
            "deploymentSpec.executors.Plan_executor.container: ",
            id="unknown in a container",
        ),
        pytest.param(
            ("components", "Plan", "inputDefinitions", "parameters", "lag", "parameterType"),
            "NUMBER_INT",
            "components.Plan.inputDefinitions.parameters.lag.parameterType: ",
            id="misspelt type",
        ),
        pytest.param(
            (*TRAINER, "retryPolicy"),
            {"maxRetryCount": 1, "backoffDuration": "60", "backoffMaxDuration": "600s"},
            "root.dag.tasks.Trainer.retryPolicy.backoffDuration: ",
            id="duration",
        ),
        # What the protos allow and the back end does not.
        pytest.param(
            (*TRAINER, "retryPolicy"),
            {"maxRetryCount": 1, "backoffDuration": "60s"},
            "backoffMaxDuration: is missing",
            id="no cap of the waits",
        ),
        pytest.param(
            ("root", "inputDefinitions", "parameters", "run_date", "defaultValue"),
            20260101,
            "run_date: defaultValue: is declared as STRING, got 20260101",
            id="default of another type",
        ),
        pytest.param(
            (*TASKS, "Plan", "inputs", "parameters", "lag"),
            constant("one"),
            "lag: is declared as NUMBER_INTEGER, got 'one'",
            id="constant of another type",
        ),
        pytest.param(
            (*TASKS, "Plan", "inputs", "parameters", "lag"),
            constant(1.5),
            "lag: is declared as NUMBER_INTEGER, got 1.5",
            id="no integer",
        ),
        pytest.param(
            (*TASKS, "Plan", "inputs", "parameters", "lag"),
            constant(True),
            "lag: is declared as NUMBER_INTEGER, got True",
            id="truth for a number",
        ),
        pytest.param(
            ("components", "Trainer", "outputDefinitions", "artifacts", "model"),
            {"artifactType": {"instanceSchema": "type: object\n"}},
            "outputDefinitions.artifacts.model: its type has no title",
            id="no title",
        ),
        pytest.param(
            ("components", "Trainer", "outputDefinitions", "artifacts", "model"),
            {"artifactType": {"schemaUri": "https://example.com/model.yaml"}},
            "the back end does not read schemaUri",
            id="schemaUri",
        ),
        pytest.param(
            ("components", "Trainer", "executorLabel"),
            "Plan_executor",
            "Plan_executor: is the container of Plan and Trainer",
            id="one container for two",
        ),
    ],
)
def test_what_the_back_end_cannot_run_is_refused(path, value, message):
    problems = lint([changed(PIPELINE, (path, value))])
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize("name", ["Trainer_2", "trainer.fast", "-trainer", "träner"])
def test_names_that_argo_refuses_are_refused(name):
    task = {**PIPELINE["root"]["dag"]["tasks"]["Trainer"], "taskInfo": {"name": name}}
    problems = lint([changed(PIPELINE, ((*TASKS, name), task))])
    assert problems == [
        f"root.dag.tasks.{name}: Argo takes letters, digits and - in a name; rename the component"
    ]


@pytest.mark.parametrize(
    ("platform", "message"),
    [
        ({"platforms": {"vertex": {}}}, "expected platforms.kubernetes and nothing else"),
        (
            changed(
                PLATFORM,
                (
                    ("platforms", "kubernetes", "deploymentSpec", "executors", "Tuner_executor"),
                    {},
                ),
            ),
            "executors.Tuner_executor: there is no such executor",
        ),
        (
            changed(
                PLATFORM,
                (
                    (
                        *("platforms", "kubernetes", "deploymentSpec", "executors"),
                        "Trainer_executor",
                        "nodeSelectors",
                    ),
                    {},
                ),
            ),
            "Trainer_executor: Message type",
        ),
    ],
)
def test_platform_spec_that_would_be_ignored_is_refused(platform, message):
    (problem,) = lint([PIPELINE, platform])
    assert message in problem


SETTINGS = ("platforms", "kubernetes", "deploymentSpec", "executors", "Trainer_executor")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pvcMount": [{"mountPath": "/data"}]}, "pvcMount.0.constant: is missing; name a claim"),
        ({"pvcMount": [{"constant": "claim"}]}, "pvcMount.0.mountPath: is missing"),
        (
            {"pvcMount": [{"constant": "team.data", "mountPath": "/data"}]},
            "'team.data' cannot be the name of a volume",
        ),
        (
            {
                "pvcMount": [{"constant": "ranker", "mountPath": "/data"}],
                "secretAsVolume": [{"secretName": "ranker", "mountPath": "/secrets"}],
            },
            "secretAsVolume.0.secretName: 'ranker' is the name of pvcMount's volume, too",
        ),
    ],
)
def test_volumes_that_no_pod_could_have_are_refused(settings, message):
    (problem,) = lint([PIPELINE, changed(PLATFORM, (SETTINGS, settings))])
    assert message in problem


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "expected one or two YAML documents"),
        (["text"], "expected one or two YAML documents"),
        ([{"pipelineSpec": PIPELINE}], "compile to .yaml, a bare pipeline spec"),
        ([{"root": "foo"}], "root"),
        ([{"pipelineInfo": {"name": 3}}], "pipelineInfo.name"),
        ([{"pipelineInfo": {"name": datetime.date(2026, 1, 1)}}], "cannot be written as JSON"),
        ([changed(PIPELINE, (TRAINER, None))], "root"),
        ([changed(PIPELINE, ((*TRAINER, "dependentTasks"), "Plan"))], "root.dag.tasks.Trainer"),
        ([PIPELINE, {"platforms": None}], "platform spec: expected platforms.kubernetes"),
        ([PIPELINE, {"platforms": []}], "platforms: Map field"),
    ],
)
def test_what_is_no_package_is_refused(documents, message):
    (problem,) = lint(documents)
    assert message in problem


def test_all_problems_are_told_at_once():
    broken = changed(
        PIPELINE,
        (("schemaVersion",), "2.0.0"),
        ((*INPUTS, "parameters", "module_file"), constant("trainer.py")),
    )
    assert len(lint([broken])) == 2


def test_producers_of_inputs_are_dependencies_though_not_stated():
    task = changed(PIPELINE, ((*TRAINER, "dependentTasks"), DELETE))["root"]["dag"]["tasks"]
    assert dependencies(task["Trainer"]) == {"Plan"}
    assert dependencies(task["Plan"]) == set()
