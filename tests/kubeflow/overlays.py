"""The manifests of each overlay, as kubectl puts them together, and what to look for in them."""

import copy
import functools
import pathlib
import shutil
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
OVERLAYS = ROOT / "kubeflow" / "manifests" / "overlays"
NAMES = sorted(path.name for path in OVERLAYS.iterdir())
VALUES = {path.parent.name: path for path in OVERLAYS.glob("*/values.yaml")}

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl, which resolves the overlays, is not here"
)


@functools.cache
def rendered(overlay):
    command = ["kubectl", "kustomize", str(OVERLAYS / overlay)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(resources, *kinds):
    return [item for item in resources if item["kind"] in kinds]


def named(resources, kind, name):
    (found,) = [item for item in of_kind(resources, kind) if item["metadata"]["name"] == name]
    return found


def pods(resources):
    return [
        item["spec"]["template"]["spec"]
        for item in of_kind(resources, "Deployment", "Job", "StatefulSet")
    ]


def servers(resources):
    return [
        d for d in of_kind(resources, "Deployment") if d["metadata"]["name"].endswith("serving")
    ]


def flink_pods(resources):
    """Each kind of pod of a Flink cluster as the operator puts it together."""
    for item in of_kind(resources, "FlinkDeployment"):
        spec = item["spec"]
        for kind in ("jobManager", "taskManager"):
            pod = copy.deepcopy(spec["podTemplate"])
            own = copy.deepcopy(spec[kind].get("podTemplate", {"spec": {"containers": []}})["spec"])
            (main,) = pod["spec"]["containers"]
            for container in own.pop("containers"):
                if container["name"] == main["name"]:
                    main.update(container)
                else:
                    pod["spec"]["containers"].append(container)
            pod["spec"].update(own)
            yield pod


def containers(pod):
    return [*pod.get("initContainers", ()), *pod["containers"]]


def runtimes(resources):
    return [item["spec"] for item in of_kind(resources, "ServingRuntime")]


def predictors(service):
    spec = service["spec"]
    return [spec["predictor"], *(canary["predictor"] for canary in spec.get("canary", ()))]
