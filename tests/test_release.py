"""A version is written in `setup.py`; whatever else names it agrees."""

import datetime
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
(VERSION,) = re.findall(r'^    version="(.+)",$', (ROOT / "setup.py").read_text(), re.M)
HEADINGS = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
NAMED = r"(?:steadyrank(?:-beam)?:|steadyrank\n +newTag: |ARG VERSION=)(\d+\.\d+\.\d+)"


def files_that_name_a_version():
    for path in [*(ROOT / "kubeflow").rglob("*"), ROOT / "docs" / "kubeflow.md"]:
        if path.is_file() and re.search(NAMED, path.read_text(encoding="utf-8")):
            yield path


@pytest.mark.parametrize(
    "path", sorted(files_that_name_a_version()), ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_named_version_is_that_of_the_package(path):
    assert set(re.findall(NAMED, path.read_text(encoding="utf-8"))) == {VERSION}


def test_the_changelog_begins_with_what_is_not_released():
    assert HEADINGS[0] == "Unreleased"


def test_released_sections_have_a_version_and_a_day_and_the_newest_comes_first():
    released = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+) - (\S+)", heading) for heading in HEADINGS[1:]]
    assert all(released)
    versions = [tuple(map(int, match.groups()[:3])) for match in released]
    days = [datetime.date.fromisoformat(match[4]) for match in released]
    assert versions == sorted(versions, reverse=True)
    assert days == sorted(days, reverse=True)
    assert all(version <= tuple(map(int, VERSION.split("."))) for version in versions)


@pytest.mark.slow
def test_an_installed_wheel_compiles_a_package_for_kubeflow(tmp_path, warm_python_path):
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT],
        check=True,
        cwd=tmp_path,
    )
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", tmp_path / "installed", wheel], check=True
    )
    values, package = ROOT / "kubeflow" / "values.yaml", tmp_path / "pipeline.yaml"
    subprocess.run(
        [
            warm_python_path,
            "-m",
            "pipeline.cli",
            "kubeflow",
            "compile",
            "-f",
            values,
            "-o",
            package,
        ],
        check=True,
        cwd=tmp_path / "installed",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
    )
    assert "DailyExampleGen" in package.read_text(encoding="utf-8")
    for folder in ("schemas", "trainer_module", "components", "pipeline"):
        assert (tmp_path / "installed" / folder / "py.typed").exists()
