"""TFX Trainer's entry point."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from schemas.spec import parse_spec
from trainer_module.distribution import make_strategy
from trainer_module.export import export_model
from trainer_module.training import train
from trainer_module.training_state import save_state


def run_fn(fn_args: Any) -> None:
    """Trains and exports a ranker.

    Args:
        fn_args: `tfx.components.trainer.fn_args_utils.FnArgs`. Its `custom_config` holds
            `spec` (YAML), `warm_start_from` (folder of a training state, or None),
            `checkpoint_dir`, and `training_state_subdir`, the folder inside the exported
            model that takes this training's state.

    Raises:
        TrainingError: as `trainer_module.training.train`.
    """
    config = fn_args.custom_config
    spec = parse_spec(config["spec"], "custom_config")
    transform = tft.TFTransformOutput(fn_args.transform_output)
    files = [file for pattern in fn_args.train_files for file in tf.io.gfile.glob(pattern)]
    strategy = make_strategy(spec.training)
    trained = train(
        spec,
        files,
        transform.transformed_feature_spec(),
        strategy=strategy,
        warm_start_from=config["warm_start_from"],
        checkpoint_dir=config["checkpoint_dir"],
        tensorboard_dir=fn_args.model_run_dir,
    )
    export_dir = fn_args.serving_model_dir
    export_model(trained.model, transform, spec, export_dir)
    save_state(
        trained.model, trained.optimizer, os.path.join(export_dir, config["training_state_subdir"])
    )
