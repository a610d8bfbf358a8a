import pytest
from events import make_events, tiny_spec, write_events, write_transform_graph


@pytest.fixture(scope="session")
def train_files(tmp_path_factory):
    return write_events(make_events(700), tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="session")
def transform_output(tmp_path_factory):
    return write_transform_graph(tiny_spec(), tmp_path_factory.mktemp("graph") / "tft")
