"""The manifests against the schemas of Kubernetes, KServe and Flink's operator."""

import copy
import pathlib

import jsonschema
import pytest
import yaml
from overlays import flink_pods, needs_kubectl, of_kind, predictors, rendered, runtimes

HERE = pathlib.Path(__file__).parent
KUBERNETES = ("1.27", "1.32")
KSERVE = yaml.safe_load((HERE / "kserve_schema.yaml").read_text())
CONTAINERS_FIELDS = ("args", "volumeMounts")
FLINK = yaml.safe_load((HERE / "flink_schema.yaml").read_text())

pytestmark = needs_kubectl


def as_pod(containers_, volumes=()):
    """A Pod of a KServe runtime's containers, for Kubernetes' schema."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "runtime"},
        "spec": {"containers": containers_, "volumes": list(volumes)},
    }


@pytest.mark.parametrize("version", KUBERNETES)
def test_resources_fit_the_schemas_of_kubernetes(resources, version):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    others = {*KSERVE["kinds"], "FlinkDeployment"}
    plain = [item for item in resources if item["kind"] not in others]
    plain += flink_pods(resources)
    plain += [as_pod(runtime["containers"]) for runtime in runtimes(resources)]
    for service in of_kind(resources, "InferenceService"):
        for predictor in predictors(service):
            model = predictor["model"]
            added = {k: model[k] for k in model if k.endswith("Probe") or k in CONTAINERS_FIELDS}
            container = {"name": "kserve-container", **added}
            plain.append(as_pod([container], predictor.get("volumes", ())))
    for item in plain:
        kubernetes_validate.validate(item, version, strict=True)


def test_schema_check_sees_a_misspelt_field():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    (deployment,) = of_kind(rendered("single-user"), "Deployment")
    broken = copy.deepcopy(deployment)
    broken["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(broken, KUBERNETES[-1], strict=True)


def check_kserve(item):
    jsonschema.validate(item, {**KSERVE["kinds"][item["kind"]], "$defs": KSERVE["$defs"]})


def test_kserve_resources_fit_the_schema(resources):
    for item in resources:
        if item["kind"] in KSERVE["kinds"]:
            check_kserve(item)


@pytest.mark.parametrize("kind", KSERVE["kinds"])
def test_schema_of_kserve_sees_a_misspelt_field(kind):
    (item,) = of_kind(rendered("single-user-kserve"), kind)
    check_kserve(item)
    broken = copy.deepcopy(item)
    part = broken["spec"].get("predictor", broken["spec"])
    part["imagePullSecret"] = part.pop("imagePullSecrets", [])
    with pytest.raises(jsonschema.ValidationError, match="imagePullSecret"):
        check_kserve(broken)


def test_flink_deployments_fit_the_schema(resources):
    for item in of_kind(resources, "FlinkDeployment"):
        jsonschema.validate(item["spec"], FLINK)


def test_flink_is_checked_at_all():
    (cluster,) = of_kind(rendered("multi-user-gcs-flink"), "FlinkDeployment")
    with pytest.raises(jsonschema.ValidationError, match="taskManagers"):
        jsonschema.validate({**cluster["spec"], "taskManagers": {}}, FLINK)
