"""A training step on an accelerator: `python -m experiments.accelerator --output FILE.jsonl`.

Keras's JAX back end; the paper's three models by their numbers of weights, with 26 embedding
tables and six tasks. Of a step two programs are timed apart, gradients and the optimizer's step,
and for some rules the whole as one program; beside them the matrix product and the copy that the
device reaches. Settings and rules that the time does not allow are left out, and said so.
`--traces` profiles the whole steps, too, and tells how long each kind of kernel takes.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import glob
import gzip
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras import ops

from schemas.spec import RankingSpec
from trainer_module import optimizers
from trainer_module.model import build_model

TABLES, ROWS, TASKS = 26, 10_000, 6
INPUT_WIDTH = {"large": 1_618, "large_dcn": 2_623, "small": 14_128}
"""With six linear heads these give the paper's 57.0, 68.0 and 7.5 million weights."""

RATE = 1e-6
"""Of every optimizer: the weights stay where they are. At a rate that kills most units the products
of zeros take less power, and the card runs faster (docs/results/accelerator.md)."""

RULES: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "keras_adagrad": lambda: keras.optimizers.Adagrad(RATE),
    "adagrad": lambda: optimizers.ClippedAdagrad(RATE),
    "clippy": lambda: optimizers.ClippedAdagrad(RATE, optimizers.Clippy()),
    "gc": lambda: optimizers.ClippedAdagrad(RATE, optimizers.GradientClipping()),
    "agc": lambda: optimizers.ClippedAdagrad(RATE, optimizers.AdaptiveGradientClipping()),
    "agc_unit_wise": lambda: optimizers.ClippedAdagrad(
        RATE, optimizers.AdaptiveGradientClipping(unit_wise=True)
    ),
    "lamb": lambda: optimizers.ClippedAdagrad(RATE, optimizers.Lamb()),
    "global_norm": lambda: optimizers.ClippedAdagrad(RATE, optimizers.GlobalNormClipping()),
    "update_rms": lambda: optimizers.ClippedAdagrad(RATE, optimizers.UpdateRMSClipping()),
    "adagc": lambda: optimizers.ClippedAdagrad(RATE, optimizers.AdaGC()),
    "zclip": lambda: optimizers.ClippedAdagrad(RATE, optimizers.ZClip()),
    "clippy_statistics": lambda: optimizers.ClippedAdagrad(
        RATE, optimizers.Clippy(), export_statistics=True
    ),
    "adam_clippy": lambda: optimizers.ClippedAdam(RATE, optimizers.Clippy()),
}
PRECISIONS = {"tf32": "float32", "bf16": "mixed_bfloat16"}
"""Keras's names of them."""
WHOLE = ("adagrad", "clippy", "gc", "agc", "lamb")


def spec_of(model: str, inputs: int) -> RankingSpec:
    """Returns a spec of the paper's size, with so many inputs to its first layer."""
    width = inputs // TABLES
    table = {"type": "categorical", "dtype": "int", "buckets": ROWS, "embedding": width}
    dense = inputs - TABLES * width
    binary = {"kind": "binary", "gate": {"min_auc": 0.5}}
    regression = {"kind": "regression", "gate": {"max_rmse": 1.0}}
    kinds = [binary] * (TASKS - 2) + [regression] * 2
    return RankingSpec.model_validate(
        {
            "name": model.replace("_", "-"),
            "features": {
                **{f"id_{n}": table for n in range(TABLES)},
                **{f"number_{n}": {"type": "dense"} for n in range(dense)},
            },
            "tasks": {f"task_{n}": {**kind, "label": f"y_{n}"} for n, kind in enumerate(kinds)},
            "model": {"preset": model},
            "serving": {"score": "task_0"},
        }
    )


def median_ms(call: Callable[[], Any], times: int = 9) -> float:
    """Median wall time of a call, in milliseconds, the first two left out."""
    taken = []
    for _ in range(times + 2):
        started = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(1e3 * (time.perf_counter() - started))
    return statistics.median(taken[2:])


def ceilings() -> dict[str, float]:
    """Measures matrix products of 8192 (16384 in BF16) and a copy of 2 GiB, on random data."""
    key = jax.random.key(0)
    found = {}
    for name, dtype, size in (("tf32", jnp.float32, 8192), ("bf16", jnp.bfloat16, 16384)):
        a, b = (jax.random.normal(k, (size, size), dtype) for k in jax.random.split(key))
        product = jax.jit(jnp.matmul)
        found[f"{name}_tflops"] = 2 * size**3 / median_ms(lambda: product(a, b)) / 1e9  # noqa: B023
    x = jax.random.normal(key, (1 << 29,), jnp.float32)
    copy = jax.jit(lambda x: x + 1.0)
    found["copy_gb_per_s"] = 2 * x.nbytes / median_ms(lambda: copy(x)) / 1e6
    return found


@dataclasses.dataclass
class Case:
    """A model with a batch, and the programs of its step."""

    spec: RankingSpec
    batch_size: int

    def __post_init__(self) -> None:
        keras.utils.set_random_seed(0)
        self.model = build_model(self.spec)
        self.variables = self.model.trainable_variables
        self.weights = [v.value for v in self.variables]
        self.frozen = [v.value for v in self.model.non_trainable_variables]
        rng, n = np.random.default_rng(0), self.batch_size
        self.batch = {
            name: jnp.asarray(
                rng.integers(0, ROWS, (n, 1), np.int32)
                if feature.type == "categorical"
                else rng.normal(size=(n, 1)).astype(np.float32)
            )
            for name, feature in self.spec.features.items()
        }
        self.labels = jnp.asarray(rng.random((n, TASKS)) < 0.3, jnp.float32)

    def loss(self, weights: Any, batch: Any, labels: Any) -> Any:
        """Log losses and squared errors, summed over the tasks."""
        outputs, _ = self.model.stateless_call(weights, self.frozen, batch)
        x = ops.concatenate(list(outputs.values()), axis=1)
        logits, y = x[:, :-2], labels[:, :-2]
        log_loss = ops.relu(logits) - logits * y + ops.softplus(-ops.abs(logits))
        return ops.sum(ops.mean(log_loss, axis=0)) + ops.mean(ops.square(x - labels)[:, -2:])

    def gradients(self, weights: Any, batch: Any, labels: Any) -> Any:
        """Loss and gradients."""
        return jax.value_and_grad(self.loss)(weights, batch, labels)

    def optimizer(self, name: str) -> tuple[Any, Any]:
        """An optimizer's step and its initial state."""
        made = RULES[name]()
        made.build(self.variables)
        return made.stateless_apply, [v.value for v in made.variables]

    def whole(self, apply: Any) -> Any:
        """A whole training step."""

        def step(weights: Any, state: Any, batch: Any, labels: Any) -> Any:
            loss, gradients = self.gradients(weights, batch, labels)
            return loss, *apply(state, gradients, weights)

        return step

    def sizes(self) -> dict[str, int]:
        """Numbers of weights of embeddings and of all others."""
        tables = sum(v.shape[0] * v.shape[1] for v in self.variables if "embedding" in v.path)
        return {"embedding_weights": tables, "weights": self.model.count_params() - tables}


def repeated(
    compiled: Any, weights: Any, state: Any, *rest: Any, first: int = 0
) -> Callable[[], Any]:
    """Returns a call of a step that is handed its own results."""
    held = [jax.tree.map(jnp.copy, weights), jax.tree.map(jnp.copy, state)]

    def call() -> Any:
        done = compiled(*held, *rest)
        held[:] = done[first : first + 2]
        return held

    return call


TRACED = 5
"""Steps in a profile."""
SHOWN_MS = 0.1


def kernels(call: Callable[[], Any], folder: str) -> dict[str, float]:
    """Profiles some calls into `folder`; returns milliseconds a call of each kernel that shows."""
    with jax.profiler.trace(folder):
        for _ in range(TRACED):
            jax.block_until_ready(call())
    (path,) = glob.glob(os.path.join(folder, "**", "*.trace.json.gz"), recursive=True)
    with gzip.open(path, "rt") as text:
        events = json.load(text)["traceEvents"]
    streams = {
        (e["pid"], e["tid"])
        for e in events
        if e.get("name") == "thread_name" and e["args"]["name"].startswith("Stream")
    }
    found: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.get("ph") == "X" and (event["pid"], event["tid"]) in streams:
            found[event["name"]] += event["dur"] / 1e3 / TRACED
    return {name: round(ms, 3) for name, ms in found.most_common() if ms > SHOWN_MS}


def norms() -> dict[str, float]:
    """Times of norms of four gradients of 4096 x 4096, in milliseconds."""
    keys = jax.random.split(jax.random.key(1), 4)
    gradients = [jax.random.normal(key, (4096, 4096)) for key in keys]
    plain = lambda g: jnp.sqrt(jnp.sum(jnp.square(g)))  # noqa: E731
    largest = lambda g: jnp.max(jnp.abs(g))  # noqa: E731
    by = {"l2_norm": optimizers.l2_norm, "plain": plain, "largest": largest}
    found = {}
    for name, norm in by.items():
        compiled = jax.jit(lambda gs, norm=norm: [norm(g) for g in gs])
        found[f"norm_{name}_ms"] = median_ms(lambda: compiled(gradients))  # noqa: B023
    return found


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", required=True, help="JSON lines; added to")
    parser.add_argument("--batch", type=int, default=65_536)
    parser.add_argument("--models", nargs="+", default=list(INPUT_WIDTH), choices=INPUT_WIDTH)
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--inputs", type=int, help="of the first layer, in place of the paper's")
    parser.add_argument("--traces", help="folder for profiles and texts of the whole steps")
    options = parser.parse_args()
    started = time.perf_counter()
    device = jax.devices()[0].device_kind
    file = open(options.output, "a", encoding="utf-8")  # noqa: SIM115

    def write(**row: Any) -> None:
        row = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        file.write(json.dumps({"device": device, "jax": jax.__version__, **row}) + "\n")
        file.flush()
        print(f"{time.perf_counter() - started:.0f} s: {row}", flush=True)

    def late() -> bool:
        return time.perf_counter() - started > options.seconds

    if "large" in options.models:
        write(kind="ceilings", **ceilings())
        write(kind="norms", **norms())
    pool = concurrent.futures.ThreadPoolExecutor(6)
    for model in options.models:
        for precision in options.precisions:
            if late():
                print(f"no time for {model} {precision}", flush=True)
                continue
            keras.config.set_dtype_policy(PRECISIONS[precision])
            inputs = options.inputs or INPUT_WIDTH[model]
            case = Case(spec_of(model, inputs), options.batch)
            head = {"model": model, "precision": precision, "batch": options.batch}
            head |= {"inputs": inputs, **case.sizes()}
            data = (case.batch, case.labels)
            gradients = jax.jit(case.gradients).lower(case.weights, *data)
            whole, alone = {}, {}
            for name in options.rules:
                apply, state = case.optimizer(name)
                if name in WHOLE:
                    step = jax.jit(case.whole(apply), donate_argnums=(0, 1))
                    lowered = step.lower(case.weights, state, *data)
                    whole[name] = (pool.submit(lowered.compile), state)
                if precision == "tf32":
                    swapped = lambda w, s, g, apply=apply: apply(s, g, w)  # noqa: E731
                    step = jax.jit(swapped, donate_argnums=(0, 1))
                    lowered = step.lower(case.weights, state, case.weights)
                    alone[name] = (pool.submit(lowered.compile), state)
            compiled = gradients.compile()
            cost = compiled.cost_analysis() or {}
            taken = median_ms(lambda: compiled(case.weights, *data))  # noqa: B023
            write(kind="gradients", **head, ms=taken, flops=float(cost.get("flops", 0.0)))
            _, g = compiled(case.weights, *data)
            for name, (future, state) in alone.items():
                if not late():
                    ms = median_ms(repeated(future.result(), case.weights, state, g))
                    write(kind="optimizer", **head, rule=name, ms=ms)
            del g
            for name, (future, state) in whole.items():
                if not late():
                    step = repeated(future.result(), case.weights, state, *data, first=1)
                    write(kind="step", **head, rule=name, ms=median_ms(step))
                    if options.traces:
                        folder = os.path.join(options.traces, f"{inputs}-{precision}-{name}")
                        by_kernel = kernels(step, folder)
                        write(kind="kernels", **head, rule=name, ms=by_kernel)
                        with gzip.open(f"{folder}.txt.gz", "wt") as text:
                            text.write(future.result().as_text())
            del whole, alone
    file.close()


if __name__ == "__main__":
    main()
