"""What a training step says of itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class StepStatistics:
    """Statistics of consecutive training steps; the first axis of every array is the step.

    Attributes:
        first_step: number of the first of these steps, counted from 0 at the training's start.
        tasks: names of the tasks.
        binary_tasks: names of the binary ones.
        layers: paths of the trainable variables.
        loss: float32 [steps]; before the step, the mean over the batch's events of the weighted sum
            of their tasks' losses, 0 where there is no label.
        task_loss: float32 [steps, tasks]; unweighted mean over the labelled rows of the batch,
            0 where a batch has none.
        auc: float32 [steps, binary tasks]; area under the ROC curve of the predictions of the
            last steps (an exponentially fading window), each made before its step; NaN until
            both classes were seen.
        gradient_norm: float32 [steps, layers]; L2 norms. A sparse gradient counts with its rows.
            NaN for a step that loss scaling did not take; the update's and sigma are 0 then.
        update_norm: float32 [steps, layers]; L2 norms of what was subtracted from the weights.
        sigma_min: float32 [steps, layers]; clipping factor, the smallest of a layer that has
            several; 0 for a step that was skipped as not finite.
        sigma_mean: float32 [steps, layers]; the mean of a layer's clipping factors.
        skipped: bool [steps, layers]; the layer's step was skipped as not finite.
    """

    first_step: int
    tasks: tuple[str, ...]
    binary_tasks: tuple[str, ...]
    layers: tuple[str, ...]
    loss: Floats
    task_loss: Floats
    auc: Floats
    gradient_norm: Floats
    update_norm: Floats
    sigma_min: Floats
    sigma_mean: Floats
    skipped: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.loss)
