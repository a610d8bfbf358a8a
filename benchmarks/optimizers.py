"""Cost of an optimizer step: ours, Keras's Adagrad and TensorFlow Recommenders' ClippyAdagrad.

Keras 3 and tf_keras run in a worker process each; repetitions of all optimizers take turns, so
that other load on the machine falls on all of them alike. TensorFlow Recommenders gets an
environment of its own in the temporary folder; if it cannot be made, its rows are left out and
the result says so.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "optimizers.json"
REQUIREMENTS = ["tensorflow-cpu==2.16.2", "tf_keras==2.16.0", "tensorflow-recommenders==0.7.7"]

SHARED = {"small": (512,) * 2, "large": (4096,) * 4, "large_dcn": (4096,) * 4}
INPUT_WIDTH = {"small": 14_128, "large": 1_618, "large_dcn": 2_623}
"""With six linear heads these give the paper's 7.5, 57.0 and 68.0 million parameters."""
TASKS, BATCH = 6, 4096
EMBEDDING_WIDTH, LOOKUPS = 32, 16_384
EMBEDDINGS = {"embedding_100k": 100_000, "embedding_1m": 1_000_000}

OPTIMIZERS = {
    "keras": ["keras_adagrad", "clippy", "clippy_delayed"],
    "tfrs": ["tfrs_clippy", "tfrs_clippy_delayed"],
}
XLA = ["keras_adagrad_xla", "clippy_xla"]
PAPER = {
    "learning_rate": 0.01,
    "variable_relative_threshold": 0.5,
    "absolute_threshold": 1e-2,
}
STREAMS = {"adagrad": 5, "clippy": 8}
"""Whole tensors read or written at the least: Adagrad reads g, G, w and writes G, w. Clippy must
know sigma first: it reads g, G, w once more."""


def shapes(model):
    """Shapes of the non-embedding variables."""
    width = INPUT_WIDTH[model]
    found = [(width, width)] + [(width,)] * 3 if model == "large_dcn" else []
    for units in SHARED[model]:
        found += [(width, units), (units,)]
        width = units
    return found + [(width, 1), (1,)] * TASKS


def parameters(model):
    return sum(int(np.prod(shape)) for shape in shapes(model))


def make_optimizer(name):
    standard = not name.endswith("_delayed")
    settings = {**PAPER, "use_standard_accumulator_update": standard}
    if name.startswith("tfrs"):
        import tensorflow_recommenders as tfrs

        return tfrs.experimental.optimizers.ClippyAdagrad(**settings)
    if name.startswith("keras"):
        import keras

        return keras.optimizers.Adagrad(PAPER["learning_rate"])
    from trainer_module.optimizers import ClippyAdagrad

    return ClippyAdagrad(**settings)


def bare_step(case, name, gradients):
    """A function that takes one optimizer step over the case's variables."""
    import tensorflow as tf

    if name.startswith("tfrs"):
        variable = tf.Variable
    else:
        from keras import Variable as variable  # noqa: N813
    made = [variable(tf.random.normal(g.shape, stddev=0.05)) for g in gradients]
    optimizer = make_optimizer(name)
    optimizer.build(made)

    @tf.function(jit_compile=name.endswith("_xla"))
    def step():
        optimizer.apply_gradients(list(zip(gradients, made, strict=True)))

    return step


def case_gradients(case):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    if case in EMBEDDINGS:
        rows = EMBEDDINGS[case]
        indices = tf.constant(rng.zipf(1.1, LOOKUPS) % rows)
        values = tf.random.normal((LOOKUPS, EMBEDDING_WIDTH), stddev=1e-3)
        return [tf.IndexedSlices(values, indices, tf.constant([rows, EMBEDDING_WIDTH]))]
    return [tf.random.normal(shape, stddev=1e-3) for shape in shapes(case)]


def training_step(name, batch):
    """A function that takes one training step of Large: forward, backward, update."""
    import keras
    import tensorflow as tf

    layers = [keras.layers.Dense(units, "relu") for units in SHARED["large"]]
    heads = [keras.layers.Dense(1) for _ in range(TASKS)]
    inputs = keras.Input((INPUT_WIDTH["large"],))
    hidden = inputs
    for layer in layers:
        hidden = layer(hidden)
    model = keras.Model(inputs, keras.layers.Concatenate()([head(hidden) for head in heads]))
    optimizer = make_optimizer(name)
    optimizer.build(model.trainable_variables)
    x = tf.random.normal((batch, INPUT_WIDTH["large"]))
    y = tf.random.normal((batch, TASKS))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(list(zip(gradients, model.trainable_variables, strict=True)))

    return step


def work():
    """Reads commands, one JSON list a line, and answers each with a line."""
    current, gradients = {}, None
    print("ready", flush=True)
    for line in sys.stdin:
        command, case, name = json.loads(line)
        if command == "drop":
            current, gradients = {}, None
            print("dropped", flush=True)
            continue
        if name not in current:
            if case.startswith("training"):
                current[name] = training_step(name, int(case.split("_")[1]))
            else:
                gradients = gradients or case_gradients(case)
                current[name] = bare_step(case, name, gradients)
            current[name]()
        wall, processor = time.perf_counter(), time.process_time()
        current[name]()
        taken = [time.perf_counter() - wall, time.process_time() - processor]
        print(json.dumps([1000 * seconds for seconds in taken]), flush=True)


class Worker:
    """A process that runs one library's optimizers."""

    def __init__(self, python, library):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if library == "tfrs":
            environment["TF_USE_LEGACY_KERAS"] = "1"
        self._process = subprocess.Popen(
            [python, "-W", "ignore", str(Path(__file__).resolve()), "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**environment, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )
        self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a worker stopped")
        return line.strip()

    def ask(self, *command):
        """Returns the worker's answer to a command."""
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self):
        """Ends the worker."""
        self._process.stdin.close()
        self._process.wait()


def tfrs_python():
    """The interpreter of an environment with TensorFlow Recommenders, or None and why not."""
    folder = Path(tempfile.gettempdir()) / "benchmark-tfrs-0.7.7"
    python = folder / "bin" / "python"
    try:
        if not (folder / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            install = [str(python), "-m", "pip", "install", "-q", *REQUIREMENTS]
            subprocess.run(install, check=True)
            (folder / "complete").touch()
    except (subprocess.CalledProcessError, OSError) as error:
        return None, f"its environment could not be made: {error}"
    return str(python), None


def bandwidth(size=2**24, repetitions=7):
    """Bytes per second of `c = a + b` in float32 on all cores, the best of several."""
    cores = os.cpu_count() or 1
    a, b, c = (np.ones((cores, size), "float32") for _ in range(3))
    best = float("inf")
    for _ in range(repetitions):
        threads = [
            threading.Thread(target=np.add, args=(a[i], b[i]), kwargs={"out": c[i]})
            for i in range(cores)
        ]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = min(best, time.perf_counter() - start)
    return 3 * 4 * size * cores / best


def measure(workers, case, repetitions, xla=False):
    """Times every optimizer of every worker in turn; returns milliseconds by optimizer."""
    names = [(lib, name) for lib in workers for name in OPTIMIZERS[lib]]
    if case.startswith("training"):
        names = [("keras", "keras_adagrad"), ("keras", "clippy")]
    elif xla:
        names += [("keras", name) for name in XLA]
    times = {name: [] for _, name in names}
    for repetition in range(repetitions):
        for library, name in names if repetition % 2 else reversed(names):
            times[name].append(json.loads(workers[library].ask("time", case, name)))
    for worker in workers.values():
        worker.ask("drop", case, "")
    return {
        name: {
            "median_ms": round(statistics.median(wall for wall, _ in t), 3),
            "min_ms": round(min(wall for wall, _ in t), 3),
            "median_cpu_ms": round(statistics.median(cpu for _, cpu in t), 3),
            "repetitions": len(t),
        }
        for name, t in times.items()
    }


def ratios(row):
    """Median times, wall and CPU, relative to Keras's Adagrad and TensorFlow Recommenders'."""
    against = {
        "clippy": ["keras_adagrad", "tfrs_clippy"],
        "clippy_delayed": ["keras_adagrad", "tfrs_clippy_delayed"],
        "clippy_xla": ["keras_adagrad_xla"],
    }
    return {
        f"{name} / {other}": {
            kind: round(row[name][kind] / row[other][kind], 3)
            for kind in ("median_ms", "min_ms", "median_cpu_ms")
        }
        for name, others in against.items()
        for other in others
        if name in row and other in row
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--training-repetitions", type=int, default=3)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--no-training", action="store_true", help="leave the training step out")
    arguments = parser.parse_args()
    if arguments.worker:
        work()
        return

    python, missing = tfrs_python()
    workers = {"keras": Worker(sys.executable, "keras")}
    if python:
        workers["tfrs"] = Worker(python, "tfrs")
    else:
        print(f"TensorFlow Recommenders is left out: {missing}")
    bytes_per_second = bandwidth()
    report = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        },
        "load_average_at_start": round(os.getloadavg()[0], 1),
        "bandwidth_gb_per_s": round(bytes_per_second / 1e9, 2),
        "tensorflow_recommenders": missing or "0.7.7",
        "cases": {},
    }
    for case in [*SHARED, *EMBEDDINGS]:
        row = measure(workers, case, arguments.repetitions, xla=case in SHARED)
        entry = {"steps": row, "ratios": ratios(row)}
        if case in SHARED:
            size = 4 * parameters(case)
            entry["parameters"] = parameters(case)
            for kind, streams in STREAMS.items():
                entry[f"{kind}_bytes_at_least"] = size * streams
                entry[f"{kind}_floor_ms"] = round(1000 * size * streams / bytes_per_second, 2)
        report["cases"][case] = entry
        print(case, json.dumps(entry, indent=1))
        write(report)
    if not arguments.no_training:
        case = f"training_{arguments.batch}"
        row = measure(workers, case, arguments.training_repetitions)
        report["cases"][f"large_training_step_batch_{arguments.batch}"] = {
            "steps": row,
            "ratios": ratios(row),
        }
        print(case, json.dumps(row))
    for worker in workers.values():
        worker.close()
    write(report)


def write(report):
    report["load_average_at_end"] = round(os.getloadavg()[0], 1)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
