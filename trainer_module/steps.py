"""Whether a training took enough steps to learn, in words."""

from __future__ import annotations

from schemas.training import Training
from schemas.values import FOLLOWS

LEAST_COLD, LEAST_WARM = 200, 20
"""Steps below which a model has learned little (`docs/training.md`)."""


def describe_steps(training: Training, day_events: float, warm: bool, steps: int) -> str:
    """Says in how many steps a run trained, and what to set where they were too few to learn.

    Args:
        training: the settings as the spec has them.
        day_events: events of a usual day.
        warm: whether weights were carried over.
        steps: how many there were.
    """
    batch = training.fitted(day_events, warm).batch_size
    text = f"{steps} step{'' if steps == 1 else 's'} of {batch} events"
    least = LEAST_WARM if warm else LEAST_COLD
    if steps >= least:
        return text
    auto = training.model_copy(update={"batch_size": FOLLOWS}).fitted(day_events, warm).batch_size
    remedy = "raise training.window_days or training.epochs"
    if auto < batch:
        remedy = f"set training.batch_size to auto, here {auto}"
    kind = "warm" if warm else "cold"
    return f"{text}, too few to learn from (a {kind} start takes {least}): {remedy}"
