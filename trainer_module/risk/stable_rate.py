"""The largest learning rate at which no training diverges, by bracketing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_module.inputs import Batch
from trainer_module.model import label_deviations
from trainer_module.risk.batches import best_constant_loss, pick
from trainer_module.risk.trainee import Trainee

_TAIL = 0.25
"""Share of the steps, the last ones, whose loss is compared with the start's."""

_JUMP = 2.0
"""Factor over the start's loss from which on a loss has jumped."""

_EXPANSION = 4.0
_Z = 1.959963984540054
"""Of the normal distribution: 95 % lie within."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training at one learning rate.

    Attributes:
        seed: of start and order of batches.
        start_loss: of the weights it started from: median over the batches of the last
            quarter of the steps.
        largest_loss: of all steps; infinity if one was not finite.
        tail_loss: median over the last quarter of the steps.
        diverged: why the training counts as diverged; empty if it does not.
    """

    seed: int
    start_loss: float
    largest_loss: float
    tail_loss: float
    diverged: str


def train_once(
    trainee: Trainee, probe: Batch, seed: int, steps: int, *, jumps: bool = False
) -> Trial:
    """Trains and says whether it diverged: as `why_diverged`, or by a dead network.

    A network counts as dead if a task's prediction is the same for all probe events in the
    end.

    Args:
        trainee: what is trained; started anew.
        probe: at least two events that are not trained on.
        seed: of start and order of batches.
        steps: how many.
        jumps: whether jumps are counted in place of divergence.

    Returns:
        How it went.
    """
    trainee.start(seed)
    tail_steps = _tail(steps)
    tail_batches = trainee.batches_of(range(steps - tail_steps, steps))
    start = float(
        np.median([trainee.evaluate(pick(tail_batches, step)) for step in range(tail_steps)])
    )
    losses = trainee.train(steps)
    constant = best_constant_loss(
        tail_batches, trainee.spec, label_deviations(trainee.model, trainee.spec)
    )
    why = why_diverged(losses, start, constant, jumps=jumps)
    if not why and not jumps and (dead := _constant_tasks(trainee, probe)):
        why = f"one prediction for all events: {', '.join(dead)}"
    largest = np.max(np.where(np.isfinite(losses), losses, np.inf))
    return Trial(seed, start, float(largest), float(np.median(losses[-tail_steps:])), why)


def why_diverged(
    losses: npt.NDArray[np.floating[Any]], start: float, constant: float, *, jumps: bool = False
) -> str:
    """Says why a training diverged.

    It did if

    - a step's loss was not finite; or
    - the median loss over the last quarter of the steps is above that of the weights it
      started from: it never came back; or
    - the loss jumped to over twice that of the start and in the last quarter is above that of
      the best constant prediction: it came back to no more than base rates.

    A jump that is recovered from (micro-divergence) does not count. With `jumps` it is the
    other way round: whether a loss jumped, or was not finite, is all that counts, which a
    few steps show. The divergence monitor's rules are not used: they compare with a level
    that a training this short has not reached yet.

    Args:
        losses: of the steps.
        start: loss of the weights it started from on the batches of the last quarter.
        constant: loss there of the best prediction that is the same for all events.
        jumps: whether jumps are counted in place of divergence.

    Returns:
        The reason, or nothing.
    """
    if not np.isfinite(losses).all():
        return f"the loss of step {int(np.argmin(np.isfinite(losses)))} is not finite"
    largest, tail = float(np.max(losses)), float(np.median(losses[-_tail(len(losses)) :]))
    jumped = largest > _JUMP * start
    if jumps:
        return f"the loss jumped from {start:.4g} to {largest:.4g}" if jumped else ""
    if tail > start:
        return f"the loss ends at {tail:.4g}, above the {start:.4g} of the start"
    if jumped and tail > constant:
        return f"after a jump the loss ends at {tail:.4g}, above the {constant:.4g} of base rates"
    return ""


def _tail(steps: int) -> int:
    return max(1, round(_TAIL * steps))


def _constant_tasks(trainee: Trainee, probe: Batch) -> list[str]:
    outputs = trainee.model(probe[0], training=False)
    return [name for name, values in outputs.items() if not float(np.ptp(values)) > 0.0]


@dataclasses.dataclass(frozen=True)
class RateOutcome:
    """The trainings at one learning rate."""

    learning_rate: float
    trials: tuple[Trial, ...]

    @property
    def diverged(self) -> int:
        """How many diverged."""
        return sum(bool(trial.diverged) for trial in self.trials)

    @property
    def stable(self) -> bool:
        """Whether none did."""
        return not self.diverged

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the probability of divergence; see `wilson_interval`."""
        return wilson_interval(self.diverged, len(self.trials))


@dataclasses.dataclass(frozen=True)
class StableRate:
    """What a search found.

    Attributes:
        outcomes: by learning rate, ascending.
        complete: whether the bracket is as narrow as wanted; else the budget ended it.
    """

    outcomes: tuple[RateOutcome, ...]
    complete: bool

    @property
    def highest_stable(self) -> float | None:
        """Highest rate tried that is stable, as are all tried below it; None if none is."""
        rates = [o.learning_rate for o in self.outcomes if o.stable]
        limit = self.lowest_unstable
        return max((r for r in rates if limit is None or r < limit), default=None)

    @property
    def lowest_unstable(self) -> float | None:
        """Lowest rate tried at which a training diverged; None if there is none."""
        return min((o.learning_rate for o in self.outcomes if not o.stable), default=None)


def search(
    attempt: Callable[[float], RateOutcome], start: float, *, attempts: int, resolution: float = 1.3
) -> StableRate:
    """Brackets the largest stable learning rate, in factors.

    From `start` the rate goes up or down by a factor of 4 until stable and unstable rates
    are both known, and then to the geometric mean of the two.

    Args:
        attempt: trains at a learning rate.
        start: the first rate.
        attempts: rates tried at most.
        resolution: ratio of lowest unstable to highest stable rate at which to stop.

    Returns:
        What was found.
    """
    found = StableRate((), False)
    rate = start
    for _ in range(attempts):
        outcomes = sorted((*found.outcomes, attempt(rate)), key=lambda o: o.learning_rate)
        found = StableRate(tuple(outcomes), False)
        low, high = found.highest_stable, found.lowest_unstable
        if low is None and high is not None:
            rate = high / _EXPANSION
        elif high is None and low is not None:
            rate = low * _EXPANSION
        elif low is not None and high is not None:
            if high / low <= resolution:
                return dataclasses.replace(found, complete=True)
            rate = math.sqrt(low * high)
    return found


def wilson_interval(events: int, trials: int) -> tuple[float, float]:
    """Returns the 95 % score interval of a probability (Wilson, 1927).

    Args:
        events: how many of the trials had the event.
        trials: at least 1.

    Returns:
        Lower and upper bound.
    """
    share = events / trials
    scale = 1.0 + _Z**2 / trials
    centre = (share + _Z**2 / (2 * trials)) / scale
    half = _Z * math.sqrt(share * (1.0 - share) / trials + _Z**2 / (4 * trials**2)) / scale
    # Rounding is not to move an end off 0 or 1.
    lower = 0.0 if events == 0 else centre - half
    upper = 1.0 if events == trials else centre + half
    return lower, upper
