import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from events import make_events, tiny_spec, write_events, write_transform_graph

from schemas.errors import TrainingError
from trainer_module.distribution import is_chief, make_strategy
from trainer_module.run import run_fn

HERE = os.path.dirname(__file__)
ROOT = os.path.dirname(os.path.dirname(HERE))

CHIEF = textwrap.dedent("""
    import json, logging, sys
    logging.basicConfig(level=logging.INFO, force=True)
    from types import SimpleNamespace
    from trainer_module.run import run_fn
    run_fn(SimpleNamespace(**json.loads(sys.argv[1])))
""")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    # With masked labels a mean over replicas of their means is another one than over all.
    events = [{"rating": [2.0], **event} for event in make_events(1000)]
    folder = tmp_path_factory.mktemp("data")
    write_transform_graph(tiny_spec(), folder / "tft")
    return SimpleNamespace(
        files=write_events(events, folder),
        transform=str(folder / "tft"),
    )


def arguments(data, folder, *overrides):
    spec = tiny_spec("training.batch_size=40", "training.epochs=2", *overrides)
    return {
        "train_files": [str(file) for file in data.files],
        "eval_files": [str(file) for file in data.files],
        "transform_output": data.transform,
        "serving_model_dir": str(folder / "model"),
        "model_run_dir": str(folder / "run"),
        "custom_config": {
            "spec": spec.to_yaml(),
            "history_dir": str(folder / "history"),
            "warm_start_from": None,
            "checkpoint_dir": str(folder / "checkpoints" / "day"),
            "stability_dir": str(folder / "stability"),
            "training_state_subdir": "assets.extra/state",
            "run_date": "2026-01-03",
        },
    }


def start(command, **environment):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def state(folder):
    reader = tf.train.load_checkpoint(str(folder / "model" / "assets.extra" / "state" / "state"))
    names = sorted(reader.get_variable_to_shape_map())
    return {
        name: reader.get_tensor(name) for name in names if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_training_killed_at_any_moment_resumes_to_the_same_weights(data, tmp_path):
    settings = ("training.epochs=12", "training.checkpoint_steps=24", "model.dropout=0.2")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_fn(SimpleNamespace(**arguments(data, whole, *settings)))
    command = ["-c", CHIEF, json.dumps(arguments(data, killed, *settings))]
    progress = killed / "checkpoints" / "day"
    for checkpoints in (2, 3):
        process = start(command)
        # Kills at once after a checkpoint's folder appears: as likely as not while it is written.
        while len(list(progress.glob("0*"))) < checkpoints and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    last = start(command)
    output, _ = last.communicate(timeout=240)
    assert last.returncode == 0, output
    assert "going on after" in output
    expected, got = state(whole), state(killed)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_multi_worker_without_a_cluster_is_a_clear_error(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(TrainingError, match="TF_CONFIG"):
        make_strategy(tiny_spec("training.distribution=multi_worker").training)


def test_batch_that_replicas_cannot_share_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(
        tf.distribute, "MirroredStrategy", lambda: SimpleNamespace(num_replicas_in_sync=3)
    )
    settings = tiny_spec("training.distribution=mirrored", "training.batch_size=32").training
    with pytest.raises(TrainingError, match="32 is no multiple of the 3 replicas"):
        make_strategy(settings)


@pytest.mark.parametrize(
    ("jobs", "task", "chief"),
    [
        (["worker"], ("worker", 0), True),
        (["worker"], ("worker", 1), False),
        (["chief", "worker"], ("chief", 0), True),
        (["chief", "worker"], ("worker", 0), False),
    ],
)
def test_one_process_is_the_chief(jobs, task, chief):
    cluster = tf.train.ClusterSpec({job: ["a:1", "b:1"] for job in jobs})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, "", *task)
    assert is_chief(SimpleNamespace(cluster_resolver=resolver)) is chief


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_two_workers_train_as_one_process_does_and_the_chief_exports(data, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run_fn(SimpleNamespace(**arguments(data, one)))
    cluster = {"worker": [f"localhost:{free_port()}" for _ in range(2)]}
    commands = [
        ["-c", CHIEF, json.dumps(arguments(data, two, "training.distribution=multi_worker"))],
        ["-m", "trainer_module.run", str(two / "checkpoints")],
    ]
    workers = [
        start(
            command,
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
        )
        for index, command in enumerate(commands)
    ]
    try:
        outputs = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    expected, got = state(one), state(two)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-3, atol=2e-4, err_msg=name)
    assert tf.saved_model.contains_saved_model(str(two / "model"))
    # No worker joins a training that is over, though its checkpoints are still there.
    assert list((two / "checkpoints").iterdir())
    assert not list((two / "checkpoints").glob("*/job.json"))
