"""TFX Trainer's entry point, and that of the other workers of a distributed training.

    python -m trainer_module.run CHECKPOINT_ROOT

takes part in the next training that the Trainer starts with `training.distribution:
multi_worker` and this folder for its checkpoints. The environment variable `TF_CONFIG` names
the workers, as in the Trainer's own process, which is the chief, or worker 0 where there is
none.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from schemas.errors import TrainingError
from schemas.loading import parse_spec
from trainer_module import signatures
from trainer_module.distribution import make_strategy
from trainer_module.export import export_model
from trainer_module.history_lookup import load_tables
from trainer_module.training import Trained, train
from trainer_module.training_state import save_state
from trainer_module.warmup import write_warmup

_JOB = "job.json"
_POLL_SECONDS = 2.0
_LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)
"""What a step ends in when another worker does not answer."""


def run_fn(fn_args: Any) -> None:
    """Trains a ranker and exports it, unless the training diverged or the model is unsound.

    Args:
        fn_args: `tfx.components.trainer.fn_args_utils.FnArgs`. Its `custom_config` holds
            `spec` (YAML), `history_dir` (folder of the history tables), `warm_start_from`
            (folder of a training state, or None), `checkpoint_dir`, `stability_dir` (for the
            report), `training_state_subdir`, the folder inside the exported model that takes
            this training's state, and `run_date`, which names the runs in TensorBoard.

    Raises:
        TrainingError: as `trainer_module.training.train`; or another worker is gone.
    """
    config = fn_args.custom_config
    spec = parse_spec(config["spec"], "custom_config")
    job = {
        "spec": config["spec"],
        "files": _files(fn_args.train_files),
        "eval_files": _files(fn_args.eval_files),
        "warm_start_from": config["warm_start_from"],
        "checkpoint_dir": config["checkpoint_dir"],
        "stability_dir": config["stability_dir"],
        "tensorboard_dir": os.path.join(fn_args.model_run_dir, config["run_date"]),
    }
    workers = spec.training.distribution == "multi_worker"
    if workers:
        _offer(job)
    trained = _take_part(job, make_strategy(spec.training))
    if workers:
        # The checkpoints stay until the model is safe; no worker is to join what is over.
        tf.io.gfile.remove(os.path.join(job["checkpoint_dir"], _JOB))
    export_dir = fn_args.serving_model_dir
    reasons = trained.faults
    if trained.stability.verdict == "diverged":
        reasons = (f"training {trained.stability.summary}",)
    if reasons:
        tf.io.gfile.makedirs(export_dir)
        with tf.io.gfile.GFile(os.path.join(export_dir, signatures.NOT_EXPORTED), "w") as file:
            file.write("\n".join(reasons))
        return
    transform = tft.TFTransformOutput(fn_args.transform_output)
    tables = load_tables(spec, config["history_dir"])
    export_model(trained.model, transform, spec, export_dir, tables)
    write_warmup(export_dir, job["files"], spec)
    save_state(
        trained.model, trained.optimizer, os.path.join(export_dir, config["training_state_subdir"])
    )


def _take_part(job: dict[str, Any], strategy: tf.distribute.Strategy) -> Trained:
    spec = parse_spec(job["spec"], "custom_config")
    try:
        return train(
            spec,
            job["files"],
            strategy=strategy,
            warm_start_from=job["warm_start_from"],
            checkpoint_dir=job["checkpoint_dir"],
            stability_dir=job["stability_dir"],
            tensorboard_dir=job["tensorboard_dir"],
            eval_files=job["eval_files"],
        )
    except _LOST as error:
        if spec.training.distribution != "multi_worker":
            raise
        raise TrainingError(
            "another worker of the training is gone; run the day again, with as many workers: "
            "it goes on from the newest checkpoint"
        ) from error


def _files(patterns: Sequence[str]) -> list[str]:
    return [file for pattern in patterns for file in tf.io.gfile.glob(pattern)]


def _offer(job: dict[str, Any]) -> None:
    tf.io.gfile.makedirs(job["checkpoint_dir"])
    path = os.path.join(job["checkpoint_dir"], _JOB)
    with tf.io.gfile.GFile(path + ".new", "w") as file:
        json.dump(job, file)
    tf.io.gfile.rename(path + ".new", path, overwrite=True)


def main(checkpoint_root: str) -> None:
    """Waits for a training and takes part in it.

    The Trainer withdraws a training that has ended: what is offered is not over.
    """
    while (job := _newest_job(checkpoint_root)) is None:
        time.sleep(_POLL_SECONDS)
    # This waits for the Trainer, which offers its training before it comes here: what was
    # offered until now may have been by one that was killed.
    strategy = make_strategy(parse_spec(job["spec"], "custom_config").training)
    _take_part(_newest_job(checkpoint_root) or job, strategy)


def _newest_job(checkpoint_root: str) -> dict[str, Any] | None:
    offered = tf.io.gfile.glob(os.path.join(checkpoint_root, "*", _JOB))
    if not offered:
        return None
    try:
        newest = max(offered, key=lambda path: tf.io.gfile.stat(path).mtime_nsec)
        with tf.io.gfile.GFile(newest) as file:
            return json.load(file)
    except tf.errors.NotFoundError:
        # Its Trainer withdrew one meanwhile.
        return None


if __name__ == "__main__":
    main(sys.argv[1])
