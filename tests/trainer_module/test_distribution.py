import functools
import itertools
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
from events import make_events, small_spec, write_events, write_transform_graph

from components.trainer import executor
from schemas.errors import TrainingError
from trainer_module import run, training
from trainer_module.distribution import is_chief, make_strategy
from trainer_module.inputs import training_batches
from trainer_module.run import run_fn
from trainer_module.stability import plots

HERE = os.path.dirname(__file__)
ROOT = os.path.dirname(os.path.dirname(HERE))

OF_TWO = (
    "training.distribution=multi_worker",
    "training.epochs=12",
    "training.checkpoint_steps=24",
)
PATIENCE = 300
"""Seconds that a training may take, whatever else the machine does."""
NOTICED = 60
"""Seconds; 3 to 12 when it was tried: TensorFlow's heartbeat is 10."""

CHIEF = textwrap.dedent("""
    import json, logging, sys
    logging.basicConfig(level=logging.INFO, force=True)
    from types import SimpleNamespace
    from trainer_module.run import run_fn
    from trainer_module.stability import plots
    plots.draw = lambda *_: {}  # See `no_plots`.
    run_fn(SimpleNamespace(**json.loads(sys.argv[1])))
""")


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """They take a quarter of a short training."""
    monkeypatch.setattr(plots, "draw", lambda *_: {})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    # With masked labels a mean over replicas of their means is another one than over all.
    events = [{"rating": [2.0], **event} for event in make_events(1000)]
    folder = tmp_path_factory.mktemp("data")
    write_transform_graph(small_spec(), folder / "tft")
    # Of unequal length: one of two workers ends before the other.
    files = [
        file
        for part in (events[:500], events[500:800], events[800:])
        for file in write_events(part, folder / str(len(part)))
    ]
    return SimpleNamespace(
        files=files,
        transform=str(folder / "tft"),
    )


def arguments(data, folder, *overrides):
    spec = small_spec("training.batch_size=40", "training.epochs=2", *overrides)
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


def start(command, stdout=subprocess.PIPE, **environment):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
    )


def batches_of_two(files, spec, *, parse, leave_out=(), skip=0, **share):
    """For one process, the batches that two workers train on together."""
    read = functools.partial(training_batches, files, spec, leave_out=leave_out, skip=skip)
    if not share:
        return read(parse=parse)
    parts = [
        list(read(parse=tf.identity, worker=worker, workers=2).as_numpy_iterator())
        for worker in range(2)
    ]
    assert len(parts[0]) != len(parts[1])
    whole = list(map(np.concatenate, itertools.zip_longest(*parts, fillvalue=parts[0][0][:0])))
    strings = tf.TensorSpec([None], tf.string)
    return tf.data.Dataset.from_generator(lambda: iter(whole), output_signature=strings).map(parse)


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


@pytest.mark.parametrize("config", ["{}", "", "[]", "{", '{"cluster": {}}'])
def test_multi_worker_without_a_cluster_is_a_clear_error(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(TrainingError, match="TF_CONFIG"):
        make_strategy(small_spec("training.distribution=multi_worker").training)


def test_batch_that_replicas_cannot_share_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(
        tf.distribute, "MirroredStrategy", lambda: SimpleNamespace(num_replicas_in_sync=3)
    )
    settings = small_spec("training.distribution=mirrored", "training.batch_size=32").training
    with pytest.raises(TrainingError, match="32 is not a multiple of the 3 replicas"):
        make_strategy(settings)


def test_training_that_ends_while_a_worker_looks_for_one_is_no_error(monkeypatch, tmp_path):
    offered = tmp_path / "2026-01-04-a" / "job.json"
    monkeypatch.setattr(tf.io.gfile, "glob", lambda pattern: [str(offered)])
    assert run._newest_job(str(tmp_path)) is None


def test_training_of_another_number_of_workers_is_another_one(monkeypatch, tmp_path):
    """Each has other batches, and must not go on from the other's checkpoint."""

    def fingerprint(workers):
        cluster = {"chief": ["a:1"], "worker": [f"b{n}:1" for n in range(workers)]}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster}))
        plan = SimpleNamespace(
            spec=small_spec("training.distribution=multi_worker"), run_date="", base_version=None
        )
        return executor._fingerprint(plan, str(tmp_path))

    assert fingerprint(1) == fingerprint(1)
    assert len({fingerprint(workers) for workers in range(4)}) == 4


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


class Workers:
    """Two processes that train together; the first is the chief, the Trainer's own."""

    def __init__(self, arguments, folder):
        cluster = {"worker": [f"localhost:{free_port()}" for _ in range(2)]}
        self._commands = [
            ["-c", CHIEF, json.dumps(arguments)],
            ["-m", "trainer_module.run", str(folder / "checkpoints")],
        ]
        self._environments = [
            json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
            for index in range(2)
        ]
        self._logs = [folder.parent / f"{folder.name}-{index}.log" for index in range(2)]
        self.processes = [None, None]

    def __enter__(self):
        for index in range(2):
            self.start(index)
        return self

    def __exit__(self, *error):
        for process in self.processes:
            process.kill()
            process.wait()

    def start(self, index):
        with open(self._logs[index], "a") as log:
            self.processes[index] = start(
                self._commands[index], stdout=log, TF_CONFIG=self._environments[index]
            )

    def told(self, index):
        return self._logs[index].read_text()

    def wait(self, until=lambda: False):
        """Starts what ends in an error again, as a cluster does, until both are done."""
        end = time.monotonic() + PATIENCE
        while not until():
            codes = [process.poll() for process in self.processes]
            if codes == [0, 0]:
                return
            assert time.monotonic() < end, (codes, self.told(0)[-3000:], self.told(1)[-3000:])
            for index, code in enumerate(codes):
                if code:
                    self.start(index)
            time.sleep(0.02)


@pytest.fixture(scope="module")
def two(data, tmp_path_factory, warm_python_path):
    """What two workers train that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "two"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "executable", warm_python_path)
        with Workers(arguments(data, folder, *OF_TWO), folder) as workers:
            workers.wait()
            assert "worker of the training is gone" not in workers.told(0) + workers.told(1)
    return folder


@pytest.mark.slow
def test_two_workers_train_as_one_process_does_and_the_chief_exports(
    data, two, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "training_batches", batches_of_two)
    run_fn(SimpleNamespace(**arguments(data, tmp_path, *OF_TWO[1:])))
    expected, got = state(tmp_path), state(two)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-3, atol=2e-4, err_msg=name)
    assert tf.saved_model.contains_saved_model(str(two / "model"))
    # No worker joins a training that is over, though its checkpoints are still there.
    assert list((two / "checkpoints").iterdir())
    assert not list((two / "checkpoints").glob("*/job.json"))


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_workers_that_die_and_come_back_train_to_the_same_weights(data, two, tmp_path):
    folder = tmp_path / "killed"
    with Workers(arguments(data, folder, *OF_TWO), folder) as workers:
        for victim, steps in ((1, 48), (0, 144)):
            workers.wait(until=lambda: newest_step(folder) >= steps)  # noqa: B023
            lost, other = workers.processes[victim], workers.processes[1 - victim]
            assert (lost.poll(), other.poll()) == (None, None)
            lost.kill()
            # Without its part of a batch there is no step: the other one ends, and says so.
            assert other.wait(NOTICED) == 1
            assert "another worker of the training is gone" in workers.told(1 - victim)
        workers.wait()
    assert newest_step(two) == newest_step(folder)
    expected, got = state(two), state(folder)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def newest_step(folder):
    return max((int(path.name) for path in folder.glob("checkpoints/day/0*")), default=0)
