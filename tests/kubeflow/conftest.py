import copy

import overlays
import pytest
from deployments import deployment_on, package_in
from fake_kfp import FakeKfp

from pipeline.kubeflow.values import load_values


@pytest.fixture
def no_settings_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KF_PIPELINES_ENDPOINT", "KFP_TOKEN", "KFP_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake(no_settings_of_this_machine):
    with FakeKfp().serving() as server:
        yield server


@pytest.fixture
def deployment(fake):
    return deployment_on(fake)


@pytest.fixture
def package(tmp_path):
    return package_in(tmp_path, "ranker:1")


@pytest.fixture
def newer(tmp_path):
    """A package of the same pipeline with another image."""
    return package_in(tmp_path, "ranker:2")


@pytest.fixture(params=overlays.NAMES)
def overlay(request):
    return request.param


@pytest.fixture
def resources(overlay):
    return copy.deepcopy(list(overlays.rendered(overlay)))


@pytest.fixture
def values(overlay):
    return load_values(str(overlays.VALUES.get(overlay, overlays.ROOT / "kubeflow/values.yaml")))
