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
            (*EXECUTORS, "Plan_executor", "container", "lifecycle"),
            {"preCacheCheck": {"command": ["python"]}},
            "is a driver of TFX's file-based ExampleGen",
            id="driver",
        ),
        pytest.param(
            (*INPUTS, "parameters", "run_fn"),
            {"taskOutputParameter": {"producerTask": "Plan_task", "outputParameterKey": "fn"}},
            "run_fn: there is no task 'Plan_task', as TFX names it, to produce it",
            id="parameter out of a task, as TFX names it",
        ),
        pytest.param(
            (*INPUTS, "parameters", "module_file"),
            constant("trainer.py"),
            "module_file: TFX would install this module with pip",
            id="module_file",
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
            ("pipelineInfo", "name"), "Steady_Rank", "'Steady_Rank' cannot begin a", id="name"
        ),
        pytest.param(
            ("schemaVersion",), "2.0.0", "'2.0.0', but the back end reads 2.1.0", id="version"
        ),
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


SETTINGS = ("platforms", "kubernetes", "deploymentSpec", "executors", "Trainer_executor")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nodeSelectors": {}}, "Trainer_executor: Message type"),
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
def test_settings_that_no_pod_could_have_are_refused(settings, message):
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
