import pytest

# What imports TensorFlow is imported where it is used: pytest reads this file in a process that
# runs no test, too.


@pytest.fixture(scope="session")
def train_files(tmp_path_factory):
    from events import make_events, write_events

    return write_events(make_events(700), tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="session")
def transform_output(tmp_path_factory):
    from events import tiny_spec, write_transform_graph

    return write_transform_graph(tiny_spec(), tmp_path_factory.mktemp("graph") / "tft")
