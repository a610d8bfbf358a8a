"""Trainings as a run does them."""

import pytest

from trainer_module.distribution import make_strategy
from trainer_module.stability import plots
from trainer_module.training import train


def trained(spec, files, folder, *, drawn=False, **changes):
    """Trains from a cold start, all of its folders in `folder`; `changes` are arguments.

    Plots of loss, AUC and clipping take a quarter of such a training; they are left out unless it
    is to be `drawn`.
    """
    arguments = {
        "strategy": make_strategy(spec.training),
        "warm_start_from": None,
        "checkpoint_dir": str(folder / "checkpoints"),
        "stability_dir": str(folder / "stability"),
        "tensorboard_dir": str(folder / "tensorboard"),
        **changes,
    }
    with pytest.MonkeyPatch.context() as patched:
        if not drawn:
            patched.setattr(plots, "draw", lambda *_: {})
        return train(spec, files, **arguments)
