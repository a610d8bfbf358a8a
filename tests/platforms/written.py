"""What one platform writes and others read: `make platforms` on each of them.

A small workspace after a day that was pushed, with its logs; an optimizer's state of each kind;
and what the writer sees in them. All of it in `written-by-tfx-VERSION.tar.xz`.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components import serving_store
from components.example_reading import read_records
from pipeline.simulate import write_logs
from pipeline.workspace import Workspace
from schemas.loading import parse_spec
from schemas.spec import RankingSpec
from trainer_module.model import build_model
from trainer_module.training import make_optimizer
from trainer_module.training_state import restore_state, save_state, slots

FOLDER = Path(__file__).parent
HERE = "tfx-" + ".".join(metadata.version("tfx").split(".")[:2])
STATES = {
    "adagrad": "training.optimizer.name=adagrad",
    "clippy_adagrad": "training.optimizer.name=clippy_adagrad",
    "adam": "training.optimizer.name=adam",
    "float16": "training.mixed_precision=float16",
}
"""What is said of training, by the folder of its state; the last has its optimizer wrapped."""
SERVED = "served"
FIRST, SECOND = "2026-01-02", "2026-01-03"
ONE_DAY = datetime.timedelta(days=1)
SPEC = """
name: platforms
events: {id: event_id}
features:
  user_id: {type: categorical, buckets: 32, embedding: 2, required: true}
  item_id: {type: categorical, buckets: 32, embedding: 2, required: true}
  recent_items: {type: categorical, multivalued: true, table: item_id}
  hour: {type: categorical, dtype: int, buckets: 24, embedding: 2}
  item_age_days: {type: dense, scale: log1p, minimum: 0}
  user_history: {type: history, of: user_id, tasks: [click]}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: null}}
  watch_time:
    {kind: regression, label: watch_seconds, transform: log1p, gate: {max_rmse: 9, min_r2: null}}
model: {shared: [8], tower: [4]}
training: {window_days: 1, batch_size: 16, optimizer: {initial_accumulator: 0.1}}
serving: {score: click}
"""


def day(date: str) -> datetime.date:
    """The day of an ISO date."""
    return datetime.date.fromisoformat(date)


def spec_of(*overrides: str) -> RankingSpec:
    """The workspace's spec."""
    return parse_spec(SPEC, "platforms", overrides)


def trainee(kind: str) -> tuple[keras.Model, keras.optimizers.Optimizer]:
    """A model and its optimizer, as built for a training."""
    spec = spec_of(STATES[kind])
    keras.utils.set_random_seed(0)
    model, optimizer = build_model(spec), make_optimizer(spec.training)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def values(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Weights and slots, each by its path and its place among those of the model."""
    found = [*model.weights, *slots(optimizer)]
    return {f"{n} {variable.path}": np.asarray(variable) for n, variable in enumerate(found)}


def shards(root: Path) -> dict[str, list[bytes]]:
    """The stored events, serialized, by shard."""
    return {
        str(path.relative_to(root)): [
            record for batch in read_records(str(path), 1000) for record in batch
        ]
        for path in sorted(Path(Workspace(str(root)).day_store).rglob("shard-*.gz"))
    }


def served_state(root: Path) -> str:
    """Folder of the served version's training state."""
    version = serving_store.served_version(Workspace(str(root)).serving)
    assert version is not None
    return os.path.join(version.path, serving_store.TRAINING_STATE)


def answers(root: Path) -> dict[str, Any]:
    """What the served version answers to a stored day's events."""
    version = serving_store.served_version(Workspace(str(root)).serving)
    events = [
        event for name, records in shards(root).items() if f"/{FIRST}/" in name for event in records
    ]
    answer = tf.saved_model.load(version.path).signatures["serving_default"]
    return {
        name: value.numpy() for name, value in answer(examples=tf.constant(sorted(events))).items()
    }


def run_day(root: Path, date: str) -> int:
    """Runs a day in the workspace, and returns the exit code."""
    command = [sys.executable, "-m", "pipeline.cli", "run", date]
    for option, name in (("--logs", "logs"), ("--spec", "spec.yaml"), ("--workspace", ".")):
        command += [option, str(root / name)]
    return subprocess.run(command, check=False).returncode


def write(root: Path) -> None:
    """Writes all of it into a folder."""
    write_logs(str(root / "logs"), datetime.date(2026, 1, 1), 3, 120, seed=0, parts=1)
    for log in (root / "logs").rglob("*.gz"):
        os.utime(log, (0, 0))  # Days are known by their logs' times.
    (root / "spec.yaml").write_text(SPEC)
    if run_day(root, FIRST):
        raise RuntimeError(f"{root}: the day was not pushed")
    seen = {f"answers/{name}": value for name, value in answers(root).items()}
    for kind in STATES:
        model, optimizer = trainee(kind)
        rng = np.random.default_rng(0)
        for variable in (*model.weights, *slots(optimizer)):
            variable.assign(rng.exponential(size=variable.shape))
        save_state(model, optimizer, str(root / "states" / kind))
        seen |= {f"{kind}/{name}": value for name, value in values(model, optimizer).items()}
    model, optimizer = trainee("clippy_adagrad")
    restore_state(model, optimizer, served_state(root))
    seen |= {f"{SERVED}/{name}": value for name, value in values(model, optimizer).items()}
    np.savez_compressed(root / "seen.npz", **seen)


def pack(root: Path, archive: Path) -> None:
    """Packs what others read of it: neither what the run printed nor its artifacts."""
    with tarfile.open(archive, "w:xz", format=tarfile.PAX_FORMAT) as tar:
        for name in ("logs", "spec.yaml", "day_store", "serving", "metadata.sqlite", "states"):
            tar.add(root / name, name, filter=_anonymous)
        tar.add(root / "seen.npz", "seen.npz", filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        write(Path(made))
        pack(Path(made), FOLDER / f"written-by-{HERE}.tar.xz")
