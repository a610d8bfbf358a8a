"""Adagrad and Adam with a choice of clipping rules, for Keras 3 on TensorFlow and JAX."""

from trainer_module.optimizers._adagrad import ClippedAdagrad
from trainer_module.optimizers._adam import ClippedAdam
from trainer_module.optimizers._base import EMBEDDINGS, STATISTICS, ClippedOptimizer
from trainer_module.optimizers._clippy import ClippyAdagrad
from trainer_module.optimizers._reductions import l2_norm, smallest
from trainer_module.optimizers._rules import (
    AdaGC,
    AdaptiveGradientClipping,
    Clippy,
    GlobalClippy,
    GlobalNormClipping,
    GradientClipping,
    Lamb,
    NoClipping,
    Rule,
    Step,
    UpdateRMSClipping,
    ZClip,
    at_most,
)

__all__ = [
    "EMBEDDINGS",
    "STATISTICS",
    "AdaGC",
    "AdaptiveGradientClipping",
    "ClippedAdagrad",
    "ClippedAdam",
    "ClippedOptimizer",
    "Clippy",
    "ClippyAdagrad",
    "GlobalClippy",
    "GlobalNormClipping",
    "GradientClipping",
    "Lamb",
    "NoClipping",
    "Rule",
    "Step",
    "UpdateRMSClipping",
    "ZClip",
    "at_most",
    "l2_norm",
    "smallest",
]
