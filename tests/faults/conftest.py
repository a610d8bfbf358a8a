import datetime

import pytest
import tensorflow as tf
from events import encode, make_events, tiny_spec, write_events, write_transform_graph
from steps import Steps

RUN_DATE = datetime.date(2026, 1, 4)


@pytest.fixture(scope="session")
def transform_graph(tmp_path_factory):
    return write_transform_graph(tiny_spec(), tmp_path_factory.mktemp("graph") / "tft")


@pytest.fixture(scope="session")
def train_files(tmp_path_factory):
    return write_events(make_events(700), tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="session")
def examples(tmp_path_factory):
    """Folder of an Examples artifact; each split has a shard of encoded events."""
    folder = tmp_path_factory.mktemp("examples")
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    for split, day, seed in (("train", "2026-01-03", 1), ("eval", "2026-01-04", 2)):
        (folder / f"Split-{split}").mkdir()
        path = str(folder / f"Split-{split}" / f"{day}-00000-of-00001.gz")
        with tf.io.TFRecordWriter(path, options) as writer:
            for event in make_events(100, seed=seed):
                writer.write(encode(event))
    return folder


@pytest.fixture
def steps(tmp_path, examples, transform_graph, train_files, monkeypatch):
    """The steps of a run from the Trainer on, with version 1 being served."""
    monkeypatch.setattr("trainer_module.stability.plots.draw", lambda *_: {})
    return Steps(tmp_path, examples, transform_graph, train_files)
