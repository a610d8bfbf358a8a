"""What the manifests of each overlay promise: rights, volumes, servers, workers, Flink."""

import json
import re
import subprocess

from overlays import (
    ROOT,
    VALUES,
    containers,
    flink_pods,
    named,
    needs_kubectl,
    of_kind,
    pods,
    predictors,
    rendered,
    runtimes,
    servers,
)

from pipeline.flink.pool import PORT
from pipeline.flink.settings import CLUSTER
from pipeline.kubeflow.values import load_values

USER = 10001

pytestmark = needs_kubectl


def test_names_are_taken_once(resources):
    names = [(item["kind"], item["metadata"]["name"]) for item in resources]
    assert len(set(names)) == len(names)


def test_everything_is_in_one_namespace(resources):
    namespaced = [item for item in resources if item["kind"] != "Namespace"]
    assert len({item["metadata"]["namespace"] for item in namespaced}) == 1


def test_roles_have_no_wildcard_and_no_write_access_to_secrets(resources):
    roles = of_kind(resources, "Role", "ClusterRole")
    assert roles
    assert not of_kind(resources, "ClusterRole", "ClusterRoleBinding")
    for role in roles:
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            if "secrets" in rule["resources"]:
                assert rule["verbs"] == ["get"]
                assert rule["resourceNames"]


def test_bindings_and_pods_name_accounts_that_are_there(resources):
    accounts = {item["metadata"]["name"] for item in of_kind(resources, "ServiceAccount")}
    roles = {item["metadata"]["name"] for item in of_kind(resources, "Role")}
    for binding in of_kind(resources, "RoleBinding"):
        assert binding["roleRef"]["name"] in roles
        assert {subject["name"] for subject in binding["subjects"]} <= accounts
    assert {
        pod["serviceAccountName"] for pod in pods(resources) if "serviceAccountName" in pod
    } <= (accounts)


def test_pods_are_locked_down(resources):
    for pod in pods(resources):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == USER
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
    every = [c for pod in pods(resources) for c in containers(pod)]
    every += [c for runtime in runtimes(resources) for c in runtime["containers"]]
    for container in every:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["requests"])
        assert {"memory", "ephemeral-storage"} <= set(container["resources"]["limits"])


def test_images_have_a_tag_that_stays(resources):
    images = {c["image"] for pod in pods(resources) for c in containers(pod)}
    images |= {item["spec"]["image"] for item in of_kind(resources, "FlinkDeployment")}
    images |= {c["image"] for runtime in runtimes(resources) for c in runtime["containers"]}
    for image in images:
        tag = image.rsplit("/", 1)[-1].partition(":")[2]
        assert tag
        assert tag != "latest"


def test_image_is_that_of_the_values(resources, values):
    ours = {
        c["image"]
        for job in of_kind(resources, "Job", "StatefulSet")
        for c in containers(job["spec"]["template"]["spec"])
    }
    assert ours == {values.image}


def test_volumes_are_those_of_the_values(resources, values):
    claims = {item["metadata"]["name"] for item in of_kind(resources, "PersistentVolumeClaim")}
    assert {volume.claim for volume in values.defaults.volumes} == claims
    for claim in of_kind(resources, "PersistentVolumeClaim"):
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in pods(resources)
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert used <= claims


def test_folders_of_the_volume_are_made_before_they_are_used(resources, values):
    if not values.defaults.volumes:
        assert not of_kind(resources, "PersistentVolumeClaim")
        return
    (script,) = named(resources, "Job", "steadyrank-prepare")["spec"]["template"]["spec"][
        "containers"
    ][0]["args"]
    parameters = values.parameters
    for path in (
        parameters.logs_root,
        parameters.day_store,
        parameters.serving_dir,
        parameters.checkpoint_root,
        parameters.spec,
    ):
        assert f" {path}" in script


def test_served_folder_is_the_one_pushed_to(resources, values):
    pushed = values.parameters.serving_dir
    (mount,) = [volume.path for volume in values.defaults.volumes] or [""]
    relative = pushed.removeprefix(f"{mount}/")
    for service in of_kind(resources, "InferenceService"):
        (claim,) = values.defaults.volumes
        for predictor in predictors(service):
            assert predictor["model"]["storageUri"] == f"pvc://{claim.claim}/{relative}"
    for deployment in servers(resources):
        (server,) = deployment["spec"]["template"]["spec"]["containers"]
        base = next(a for a in server["args"] if a.startswith("--model_base_path="))
        base = base.partition("=")[2]
        mounted = {m["mountPath"]: m for m in server["volumeMounts"]}
        if "://" in pushed:
            assert base == pushed
            assert set(mounted) == {"/tmp"}
        else:
            assert mounted[base]["subPath"] == relative
            assert mounted[base]["readOnly"] is True
    assert of_kind(resources, "InferenceService") or servers(resources)


def test_service_and_budget_select_the_servers(resources):
    for deployment in servers(resources):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        ports = {
            port["name"]
            for container in deployment["spec"]["template"]["spec"]["containers"]
            for port in container["ports"]
        }
        service = named(resources, "Service", deployment["metadata"]["name"])
        (budget,) = of_kind(resources, "PodDisruptionBudget")
        assert service["spec"]["selector"].items() <= labels.items()
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        # Servers without a version are not ready: they must not keep a node from being drained.
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        (policy,) = [
            item
            for item in of_kind(resources, "NetworkPolicy")
            if item["metadata"]["name"] == deployment["metadata"]["name"]
        ]
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        (rule,) = policy["spec"]["ingress"]
        assert {port["port"] for port in rule["ports"]} == ports
        assert all(peer["podSelector"]["matchLabels"] for peer in rule["from"])


def test_servers_wait_for_the_folder_that_they_mount(resources, values):
    for deployment in servers(resources):
        pod = deployment["spec"]["template"]["spec"]
        if not values.defaults.volumes:
            assert "initContainers" not in pod
            continue
        (wait,) = pod["initContainers"]
        (mount,) = wait["volumeMounts"]
        assert "subPath" not in mount
        assert f"[ -d {values.parameters.serving_dir} ]" in wait["args"][0]


def test_training_and_serving_are_two_identities_in_a_bucket():
    resources = rendered("multi-user-gcs")
    accounts = {
        item["metadata"]["name"]: item["metadata"].get("annotations", {}).values()
        for item in of_kind(resources, "ServiceAccount")
    }
    (runner,), (server,) = accounts["steadyrank-runner"], accounts["steadyrank-server"]
    assert runner != server
    (role,) = [r for r in of_kind(resources, "Role") if r["metadata"]["name"].endswith("runner")]
    assert not [rule for rule in role["rules"] if "secrets" in rule["resources"]]


def rules(overlay):
    role = named(rendered(overlay), "Role", "steadyrank-runner")
    return [(rule["resources"], rule["verbs"]) for rule in role["rules"]]


def test_kubeflow_3_asks_for_rights_on_runs_and_artifacts_and_nothing_more():
    before, after = rules("multi-user-gcs"), rules("multi-user-gcs-kubeflow-3")
    assert [rule for rule in after if rule not in before] == [
        (["runs"], ["get", "update"]),
        (["artifacts"], ["create"]),
    ]
    assert [rule for rule in before if rule not in after] == []


def test_canary_serves_the_newest_version_and_the_rest_a_pinned_one():
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    resources = list(rendered("single-user-kserve-canary"))
    (service,) = of_kind(resources, "InferenceService")
    (canary,) = service["spec"]["canary"]
    assert 0 < canary["trafficPercent"] < 50
    # KServe tells canaries apart by it.
    assert canary["predictor"]["name"]
    stable = service["spec"]["predictor"]
    (mount,) = stable["model"]["volumeMounts"]
    (volume,) = stable["volumes"]
    assert mount["name"] == volume["name"]
    (pinned,) = of_kind(resources, "ConfigMap")
    assert volume["configMap"] == {"name": pinned["metadata"]["name"]}
    ((file, text),) = pinned["data"].items()
    assert stable["model"]["args"] == [f"--model_config_file={mount['mountPath']}/{file}"]
    (model,) = text_format.Parse(
        text, model_server_config_pb2.ModelServerConfig()
    ).model_config_list.config
    assert model.name == service["metadata"]["name"]
    assert model.base_path == "/mnt/models"
    assert list(model.model_version_policy.specific.versions) == [1]
    # What KServe does not find in the canary, it takes from the stable predictor.
    assert not [a for a in canary["predictor"]["model"]["args"] if "model_config_file" in a]


def test_only_chief_and_workers_reach_tensorflows_port():
    resources = list(rendered("multi-user-gcs-workers"))
    policy = named(resources, "NetworkPolicy", "steadyrank-training")["spec"]
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"port": 2222}]
    assert rule["from"] == [{"podSelector": policy["podSelector"]}]
    (selected,) = policy["podSelector"]["matchExpressions"]
    workers = named(resources, "StatefulSet", "steadyrank-worker")["spec"]["template"]["metadata"]
    chief = load_values(str(VALUES["multi-user-gcs-workers"])).steps["Trainer"].labels
    for labels in (workers["labels"], chief):
        assert labels[selected["key"]] in selected["values"]


def test_schedule_runs_our_command_as_the_runner(resources):
    from typer.main import get_command

    from pipeline.cli import kubeflow_package, kubeflow_server

    job = named(resources, "Job", "steadyrank-schedule")["spec"]["template"]["spec"]
    known = {
        **get_command(kubeflow_package.app).commands,
        **get_command(kubeflow_server.app).commands,
    }
    for container in containers(job):
        program, group, command = container["command"]
        assert (program, group) == ("steadyrank", "kubeflow")
        known[command].make_context(command, list(container["args"]))
    (scheduler,) = job["containers"]
    environment = {item["name"]: item["value"] for item in scheduler["env"]}
    named(resources, "ServiceAccount", environment["KFP_SERVICE_ACCOUNT"])
    bound = named(resources, "RoleBinding", environment["KFP_SERVICE_ACCOUNT"])
    assert [subject["name"] for subject in bound["subjects"]] == [
        environment["KFP_SERVICE_ACCOUNT"]
    ]


def test_token_of_the_schedule_is_where_the_client_looks_for_it():
    resources = rendered("multi-user-gcs")
    job = named(resources, "Job", "steadyrank-schedule")["spec"]["template"]["spec"]
    (scheduler,) = job["containers"]
    environment = {item["name"]: item["value"] for item in scheduler["env"]}
    (token,) = [m for m in scheduler["volumeMounts"] if m["name"] == "token"]
    (volume,) = [v for v in job["volumes"] if v["name"] == "token"]
    (source,) = volume["projected"]["sources"]
    path = f"{token['mountPath']}/{source['serviceAccountToken']['path']}"
    assert environment["KF_PIPELINES_SA_TOKEN_PATH"] == path
    assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"
    assert environment["KFP_NAMESPACE"] == scheduler_namespace(resources)


def scheduler_namespace(resources):
    return named(resources, "ServiceAccount", "steadyrank-scheduler")["metadata"]["namespace"]


def test_chief_and_workers_agree_on_the_cluster():
    resources = list(rendered("multi-user-gcs-workers"))
    values = load_values(str(VALUES["multi-user-gcs-workers"]))
    trainer = values.steps["Trainer"]
    chief = json.loads(trainer.env["TF_CONFIG"])
    assert chief["task"] == {"type": "chief", "index": 0}
    workers = named(resources, "StatefulSet", "steadyrank-worker")["spec"]
    (container,) = workers["template"]["spec"]["containers"]
    script = container["args"][0].replace("exec python", "echo $TF_CONFIG; : python")
    env = {item["name"]: item["value"] for item in container["env"]}
    for index in range(workers["replicas"]):
        host = f"steadyrank-worker-{index}"
        done = subprocess.run(
            ["sh", "-c", script],
            env={**env, "HOSTNAME": host},
            check=True,
            capture_output=True,
            text=True,
        )
        config = json.loads(done.stdout)
        assert config["cluster"] == chief["cluster"]
        assert config["task"] == {"type": "worker", "index": index}
        assert config["cluster"]["worker"][index] == f"{host}.{workers['serviceName']}:2222"
    assert len(chief["cluster"]["worker"]) == workers["replicas"]
    service = named(resources, "Service", "steadyrank-chief")["spec"]
    assert service["selector"].items() <= trainer.labels.items()
    assert service["publishNotReadyAddresses"] is True
    assert env["CHECKPOINT_ROOT"] == values.parameters.checkpoint_root
    assert values.remote_artifacts


def test_flinks_pods_are_locked_down():
    pods_ = [pod["spec"] for pod in flink_pods(rendered("multi-user-gcs-flink"))]
    assert len(pods_) == 2
    for pod in pods_:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_flink_is_set_as_a_run_needs_it():
    (cluster,) = of_kind(rendered("multi-user-gcs-flink"), "FlinkDeployment")
    settings = cluster["spec"]["flinkConfiguration"]
    assert settings.items() >= CLUSTER.items()
    pom = (ROOT / "kubeflow" / "flink" / "pom.xml").read_text()
    version = re.search(r"<flink>(\d+)\.(\d+)\.\d+<", pom)
    assert cluster["spec"]["flinkVersion"] == f"v{version[1]}_{version[2]}"
    dockerfile = (ROOT / "kubeflow" / "flink" / "Dockerfile").read_text()
    assert f"flink:{version[0][len('<flink>') : -1]}-" in dockerfile


def test_steps_find_the_job_server_and_it_the_workers():
    resources = list(rendered("multi-user-gcs-flink"))
    values = load_values(str(VALUES["multi-user-gcs-flink"]))
    options = dict(arg[2:].split("=", 1) for arg in values.beam_args)
    (cluster,) = of_kind(resources, "FlinkDeployment")
    assert options["parallelism"] == str(cluster["spec"]["taskManager"]["replicas"])
    assert cluster["spec"]["flinkConfiguration"]["taskmanager.numberOfTaskSlots"] == "1"
    service = named(resources, "Service", "steadyrank-beam")["spec"]
    ports = {port["name"]: port["port"] for port in service["ports"]}
    assert options["job_endpoint"] == f"steadyrank-beam:{ports['jobs']}"
    assert options["artifact_endpoint"] == f"steadyrank-beam:{ports['artifacts']}"
    server = named(resources, "Deployment", "steadyrank-beam")["spec"]["template"]
    assert service["selector"].items() <= server["metadata"]["labels"].items()
    (container,) = server["spec"]["containers"]
    given = dict(arg[2:].split("=", 1) for arg in container["args"] if arg.startswith("--"))
    assert (given["job-port"], given["artifact-port"]) == ("8099", "8098")
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == ports
    # The operator's name for the Service of a cluster's REST.
    assert given["jobmanager"] == f"{cluster['metadata']['name']}-rest:8081"
    assert given["flink-master"] == "[auto]"
    (jar,) = [arg for arg in container["args"] if arg.endswith(".jar")]
    assert jar.rpartition("/")[2] in (ROOT / "kubeflow" / "flink" / "jars.sha256").read_text()
    _, worker = flink_pods(resources)
    (pool,) = [c for c in worker["spec"]["containers"] if c["name"] == "beam-pool"]
    assert pool["image"] == values.image
    assert pool["command"] == ["python", "-m", "pipeline.flink.pool"]
    assert options["environment_config"] == f"localhost:{PORT}"
    assert [port["containerPort"] for port in pool["ports"]] == [PORT]
    policy = named(resources, "NetworkPolicy", "steadyrank-beam")["spec"]
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchLabels"] == values.defaults.labels
    assert values.remote_artifacts
