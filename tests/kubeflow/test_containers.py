"""The image, built and run: `make image-check`. IMAGE_CHECK may name an image that is there.

Needs root, and Debian's podman, buildah and debootstrap, but neither a Docker engine nor a
registry: the base image is a Debian 13 that debootstrap makes.
"""

import datetime
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
import yaml
from short_days import write_spec
from test_local_days import UNREACHABLE

from components import serving_store
from pipeline.kubeflow.local.runner import run_package
from pipeline.kubeflow.package import load_package
from pipeline.simulate import write_logs

ROOT = pathlib.Path(__file__).parents[2]
IMAGE = "localhost/steadyrank:check"
BASE = "localhost/steadyrank-base:check"
BOOT = "localhost/beam-boot:check"
WORKER = "localhost/steadyrank-beam:check"
# What a container may take where this runs; higher limits than the caller's are refused.
LIMITS = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"]
PODMAN = ["podman", "--cgroup-manager=cgroupfs", "--runtime=runc"]
LOCKED_DOWN = [
    *("run", *LIMITS, "--network=none", "--read-only", "--cap-drop=all"),
    "--security-opt=no-new-privileges",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "IMAGE_CHECK" not in os.environ, reason="builds an image; `make image-check` does it"
    ),
    pytest.mark.skipif(
        os.geteuid() != 0
        or not all(map(shutil.which, ("podman", "buildah", "runc", "debootstrap"))),
        reason="needs root, podman, buildah, runc and debootstrap",
    ),
]


def run(*command, **options):
    return subprocess.run(command, check=True, text=True, **options)


def debian13():
    done = run("scripts/debian13", "--root", cwd=ROOT, stdout=subprocess.PIPE)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image():
    """Builds the image as `make image` does; the builder's network settings stay outside it."""
    if os.environ["IMAGE_CHECK"] != "1":
        return os.environ["IMAGE_CHECK"]
    root = debian13()
    # What commands on that Debian left behind is no part of the base.
    left = [f"--exclude=./{name}" for name in ("src", "proc", "opt/*", "root/*", "tmp/*")]
    tar = ["tar", "--create", f"--directory={root}", *left, "."]
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as packed:
        run(*PODMAN, "import", "--quiet", "-", BASE, stdin=packed.stdout)
    assert packed.returncode == 0
    engine = ["buildah", "--isolation", "chroot"]
    flags = ["--format=docker", "--layers", *LIMITS]
    for path in ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"):
        if os.path.exists(path):
            flags.append(f"--volume={path}:{path}:ro")
    run(
        *("make", "image", f"ENGINE={' '.join(engine)}", f"IMAGE={IMAGE}", f"BASE={BASE}"),
        f"BUILD_FLAGS={' '.join(flags)}",
        cwd=ROOT,
    )
    return IMAGE


@pytest.fixture(scope="module")
def worker_image(image, tmp_path_factory):
    """Builds Beam's worker; what it takes from Beam's image is compiled from Beam's source."""
    if shutil.which("go") is None:
        pytest.skip("needs Go, for Beam's boot")
    dockerfile = ROOT / "kubeflow" / "beam-worker.Dockerfile"
    ((base, version),) = re.findall(r"^FROM (apache/\S+:(\S+)) AS", dockerfile.read_text(), re.M)
    folder = tmp_path_factory.mktemp("boot")
    package = f"github.com/apache/beam/sdks/v2/python/container@v{version}"
    go = {**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0", "GOFLAGS": "-modcacherw"}
    run("go", "install", package, env=go)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY container /opt/apache/beam/boot\n")
    build = ["buildah", "--isolation=chroot", "build", "--format=docker", *LIMITS]
    run(*build, f"--tag={BOOT}", str(folder))
    stand_in = f"--build-context={base}=container-image://{BOOT}"
    flags = [f"--file={dockerfile}", f"--tag={WORKER}", f"--build-arg=IMAGE={image}", stand_in]
    run(*build, *flags, str(ROOT))
    return WORKER


def in_image(image, *command, user="10001:10001"):
    entry, *arguments = command
    return run(
        *(*PODMAN, *LOCKED_DOWN, "--rm", f"--user={user}", f"--entrypoint={entry}", image),
        *arguments,
        stdout=subprocess.PIPE,
    ).stdout


@pytest.fixture
def deployment(image, tmp_path_factory):
    """A folder with a package of the image, and with the volume that its steps see."""
    root = tmp_path_factory.mktemp("days")
    root.chmod(0o755)
    data = root / "volumes" / "steadyrank-data"
    write_logs(str(data / "logs"), datetime.date(2026, 1, 1), 5, 2000, seed=0)
    write_spec(data / "spec.yaml")
    values = yaml.safe_load((ROOT / "kubeflow" / "values.yaml").read_text())
    (root / "values.yaml").write_text(yaml.safe_dump({**values, "image": image}))
    compiler = [sys.executable, "-m", "pipeline.cli", "kubeflow", "compile"]
    arguments = ["-f", str(root / "values.yaml"), "-o", str(root / "pipeline.yaml")]
    run(*compiler, *arguments, cwd=ROOT)
    return root, data


@pytest.fixture
def run_day(deployment, user):
    """Returns what runs a day in the harness, each step in a locked-down container or `here`."""
    root, data = deployment

    def run_day(date, *overrides, here=False):
        # Kubernetes' fsGroup: what another user wrote is the container's as well.
        run("chmod", "--recursive", "a+rwX", str(data))
        return run_package(
            load_package(str(root / "pipeline.yaml")),
            root,
            {"run_date": date, "overrides": json.dumps(overrides)},
            jobs=1,
            container=() if here else [*PODMAN, *LOCKED_DOWN, f"--user={user}"],
            sleep=lambda seconds: None,
        )

    return run_day


def test_image_says_what_it_is(image):
    shown = run(*PODMAN, "image", "inspect", image, stdout=subprocess.PIPE).stdout
    (about,) = json.loads(shown)
    assert about["User"] == "10001:10001"
    labels = {key.rpartition(".")[2]: value for key, value in about["Labels"].items()}
    assert labels["title"] == "steadyrank"
    assert re.fullmatch("[0-9a-f]{40}", labels["revision"])
    assert f'version="{labels["version"]}"' in (ROOT / "setup.py").read_text()
    assert about["Config"]["Entrypoint"] == ["python", "-m", "pipeline.kubeflow.entrypoint"]
    print(f"size of the image: {about['Size'] / 1e9:.2f} GB")


def test_command_line_and_health_check_work_for_any_user(image):
    dockerfile = (ROOT / "kubeflow" / "Dockerfile").read_text()
    (check,) = [line for line in dockerfile.splitlines() if line.lstrip().startswith("CMD [")]
    for user in ("10001:10001", "43210:0"):
        in_image(image, *json.loads(check.strip().removeprefix("CMD ")), user=user)
        assert "backfill" in in_image(image, "steadyrank", "--help", user=user)


def test_compiled_code_is_taken_as_it_is(image):
    """Otherwise each step compiles it anew: the builder has rounded the files' times."""
    code = (
        "import importlib.util, pathlib, sysconfig, tensorflow\n"
        "site = pathlib.Path(sysconfig.get_path('purelib'))\n"
        "stale = [p for p in site.rglob('*.pyc') if p.read_bytes()[4:8] != b'\\x01\\0\\0\\0']\n"
        "cached = importlib.util.cache_from_source(tensorflow.__file__)\n"
        "print(len(stale), pathlib.Path(cached).exists())"
    )
    assert in_image(image, "python", "-c", code).split()[-2:] == ["0", "True"]


JOB = """
import os
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from pipeline.kubeflow.mounts import local_path

def where(uri):
    return f"{local_path(uri)} {os.environ['PLACE']} {os.getuid()}"

options = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=EXTERNAL"]
options += ["--environment_config=localhost:50000", "--sdk_worker_parallelism=1"]
with beam.Pipeline(options=PipelineOptions(options)) as job:
    uris = job | beam.Create(["minio://bucket/a", "minio://bucket/b"])
    uris | beam.Map(where) | beam.io.WriteToText("/data/out")
"""


@pytest.mark.parametrize("user", ["10001:10001", "43210:0"])
def test_beam_worker_runs_our_code_for_any_user(image, worker_image, tmp_path, user):
    tmp_path.chmod(0o777)
    common = [*PODMAN, *LOCKED_DOWN, f"--user={user}", f"--volume={tmp_path}:/data"]
    worker = run(
        *(*common, "--detach", "--env=PLACE=worker", worker_image, "--worker_pool"),
        stdout=subprocess.PIPE,
    ).stdout.strip()
    try:
        # A network of the two alone.
        beside = [arg.replace("--network=none", f"--network=container:{worker}") for arg in common]
        (tmp_path / "job.py").write_text(JOB)
        run(*beside, "--rm", "--entrypoint=python", image, "/data/job.py", timeout=900)
    finally:
        run(*PODMAN, "rm", "--force", "--time=1", worker)
    written = [line for path in tmp_path.glob("out*") for line in path.read_text().splitlines()]
    uid = user.partition(":")[0]
    assert sorted(written) == [f"/minio/bucket/{name} worker {uid}" for name in "ab"]


@pytest.mark.parametrize("user", ["43210:0"])
def test_any_user_goes_on_from_what_another_platform_wrote_and_back(run_day):
    """The image has Python 3.13 and TFX 1.21; this may be Python 3.10 and TFX 1.16."""
    starts = []
    for date, here in (("2026-01-03", True), ("2026-01-04", False), ("2026-01-05", True)):
        done = run_day(date, here=here)
        assert done.exit_code == 0, done.folder
        starts += done.find("start")
    assert [start.partition(",")[0] for start in starts[1:]] == [
        "warm start from version 1",
        "warm start from version 2",
    ]
    assert done.find("pushed_version") == ["3"]


@pytest.mark.parametrize("user", ["10001:10001"])
def test_days_are_pushed_warm_started_and_blocked_in_containers(run_day):
    first = run_day("2026-01-03")
    assert first.exit_code == 0, first.folder
    assert first.find("pushed_version") == ["1"]
    second = run_day("2026-01-04")
    assert second.exit_code == 0, second.folder
    assert second.find("start") == ["warm start from version 1, trained through 2026-01-02"]
    assert second.find("pushed_version") == ["2"]
    third = run_day("2026-01-05", UNREACHABLE)
    assert third.exit_code == 0, third.folder
    assert third.find("pushed") == [0.0]
    assert any("click" in reasons for reasons in third.find("reasons"))


@pytest.fixture
def docker_api(tmp_path):
    """Where podman serves the Docker API."""
    address = f"unix://{tmp_path}/podman.sock"
    with subprocess.Popen([*PODMAN, "system", "service", "--time=0", address]) as service:
        while not (tmp_path / "podman.sock").exists():
            assert service.poll() is None
            time.sleep(0.1)
        yield address
        service.terminate()


@pytest.fixture
def newest_kfp(tmp_path):
    """A Python with the newest KFP SDK, which does not go with the packages of TFX 1.16."""
    run(sys.executable, "-m", "venv", str(tmp_path / "kfp"))
    python = str(tmp_path / "kfp" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "kfp", "docker")
    return python


def test_kfps_own_local_runner_runs_a_day(deployment, docker_api, newest_kfp):
    root, data = deployment
    run("chmod", "--recursive", "a+rwX", str(data))
    parameters = {"run_date": "2026-01-03"}
    run(
        *(newest_kfp, str(ROOT / "tests/kubeflow/kfp_local.py")),
        *(str(root / "pipeline.yaml"), str(root / "artifacts"), str(data), json.dumps(parameters)),
        env={**os.environ, "DOCKER_HOST": docker_api},
    )
    (version,) = serving_store.list_versions(str(data / "serving"))
    assert version.info.run_date == datetime.date(2026, 1, 3)
    assert serving_store.damage(version) == []
