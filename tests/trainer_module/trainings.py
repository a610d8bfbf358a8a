"""Trainings as a run does them."""

from trainer_module.distribution import make_strategy
from trainer_module.training import train


def trained(spec, files, folder, **changes):
    """Trains from a cold start, all of its folders in `folder`; `changes` are arguments."""
    arguments = {
        "strategy": make_strategy(spec.training),
        "warm_start_from": None,
        "checkpoint_dir": str(folder / "checkpoints"),
        "stability_dir": str(folder / "stability"),
        "tensorboard_dir": str(folder / "tensorboard"),
        **changes,
    }
    return train(spec, files, **arguments)
