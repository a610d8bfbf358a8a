"""Sharpness at several steps of a training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from schemas.errors import TrainingError
from trainer_module.inputs import Batch
from trainer_module.risk.sharpness import (
    largest_eigenvalue,
    preconditioned_hessian,
    random_vector,
)
from trainer_module.risk.trainee import Trainee


@dataclasses.dataclass(frozen=True)
class SharpnessPoint:
    """Preconditioned sharpness after some steps of a training.

    Attributes:
        seed: of the training.
        step: steps done.
        loss: on the probe events, of the weights after these steps.
        learning_rate: eta of the step to come.
        sharpness: largest eigenvalue of the preconditioned Hessian on the probe events.
        residual: its error bound; see `sharpness.Eigenvalue`.
        iterations: Hessian-vector products it took.
        converged: whether the residual came under the tolerance.
    """

    seed: int
    step: int
    loss: float
    learning_rate: float
    sharpness: float
    residual: float
    iterations: int
    converged: bool

    @property
    def ratio(self) -> float:
        """The sharpness over its limit 2 / eta: above 1, an unclipped step does not contract."""
        return self.learning_rate * self.sharpness / 2.0


def measured_steps(steps: int) -> list[int]:
    """Returns 0, the powers of 2 below `steps`, and `steps`: the start changes fastest."""
    powers = [2**power for power in range(max(steps - 1, 0).bit_length())]
    return sorted({0, *powers, steps})


def sharpness_over_run(
    trainee: Trainee,
    probe: Batch,
    seed: int,
    at: Sequence[int],
    *,
    tolerance: float = 0.01,
    on_point: Callable[[SharpnessPoint], None] = lambda point: None,
) -> list[SharpnessPoint]:
    """Trains and measures on the way.

    The Hessian is that of the variables that the clipping rule applies to (all but the
    embeddings, by default): they are what Clippy protects, and each embedding row sees few
    of a batch's events. Of the whole Hessian theirs is a principal block, so that its
    largest eigenvalue is a lower bound on the whole one's.

    Args:
        trainee: what is trained; started anew.
        probe: the events that the Hessian is taken on, the same at each step.
        seed: of start and order of batches.
        at: steps done before each measurement, ascending.
        tolerance: of `sharpness.largest_eigenvalue`.
        on_point: called with each measurement.

    Returns:
        The measurements, up to the first one at which the loss is not finite.

    Raises:
        TrainingError: the optimizer is not Adagrad.
    """
    trainee.start(seed)
    optimizer = trainee.optimizer
    variables = [v for v in trainee.model.trainable_variables if not optimizer.is_excluded(v)]
    hessian = preconditioned_hessian(
        lambda: trainee.loss(probe),
        variables,
        accumulators_of(optimizer, variables),
        trainee.spec.training.optimizer.epsilon,
    )
    points: list[SharpnessPoint] = []
    done = 0
    for step in at:
        if step > done:
            trainee.train(step - done)
            done = step
        loss = float(trainee.evaluate(probe))
        if not math.isfinite(loss):
            break
        found = largest_eigenvalue(hessian, random_vector(variables, seed), tolerance=tolerance)
        points.append(
            SharpnessPoint(
                seed=seed,
                step=step,
                loss=loss,
                learning_rate=float(optimizer.learning_rate),
                sharpness=found.value,
                residual=found.residual,
                iterations=found.iterations,
                converged=found.converged,
            )
        )
        on_point(points[-1])
    return points


def accumulators_of(optimizer: Any, variables: Sequence[Any]) -> list[Any]:
    """Returns Adagrad's accumulator of each variable.

    Raises:
        TrainingError: the optimizer has none.
    """
    slots = {slot.path.rpartition("/")[2]: slot for slot in optimizer.variables}
    try:
        return [slots[f"{v.path}_accumulator".replace("/", "_")] for v in variables]
    except KeyError as error:
        raise TrainingError(
            f"{type(optimizer).__name__} has no slot {error}; sharpness is preconditioned by "
            "Adagrad's accumulators: measure it with an Adagrad"
        ) from error
