import pytest
from events import make_events, tiny_spec, write_transform_graph, write_transformed


@pytest.fixture(scope="session")
def train_files(tmp_path_factory):
    return write_transformed(make_events(700), tiny_spec(), tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="session")
def transform_output(tmp_path_factory):
    return write_transform_graph(tiny_spec(), tmp_path_factory.mktemp("graph") / "tft")
