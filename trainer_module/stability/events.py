"""The words of the divergence monitor: limits, events, verdicts."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

TrainingVerdict = Literal["healthy", "recovered", "diverged", "unjudged"]
"""Of a training: nothing happened; something did and passed; it ended, or was stopped, bad;
nothing happened, in fewer steps than it takes to tell."""

Kind = Literal["open", "micro", "shift", "full"]
"""Of an event: undecided yet; recovered; a new level that the ranking did not suffer from;
full divergence."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Thresholds of the divergence monitor; `docs/stability.md` has the rules that use them.

    A *series* is the logarithm of the total loss or of one task's loss. *Scores* are
    distances above the series' level in units of its scale.

    Attributes:
        window: healthy steps that levels and scales are taken from.
        min_window: fewest of them; with fewer, only the total loss is watched, against the
            loss of the first step.
        min_scale: smallest scale; .02 is 2 % of the loss.
        start_scale: scale while there are fewer than `min_window` steps.
        slack: score that is still taken for noise.
        cap: largest score that counts, so that no single batch raises an alarm.
        alarm: sum of scores in excess of the slack (CUSUM) that opens an event.
        recovery_steps: steps whose median must be back at the level for an event to end.
        recovered: score up to which that median counts as back.
        patience: steps after its start at which an event that has not recovered is decided.
        lost_ratio: factor over its level at which a loss, then, means full divergence.
        blown_up: factor over the first step's loss that no start comes back from, if AUCs are at
            chance then: what the layers had is gone.
        lost_auc: share of its excess over 0.5 below which an AUC has been lost.
        chance_margin: distance from 0.5 within which an AUC is that of chance.
        lost_steps: steps in a row with a lost AUC that open an event by themselves.
        dead_ratio: share of its usual norm below which a layer's gradient is dead.
        dead_layers: share of layers with a dead gradient at which the model counts as dead.
        dead_steps: steps in a row of a dead model, AUC at chance, that are full divergence.
        nonfinite_steps: steps with a non-finite loss or a skipped layer, each finite one
            taking one off, that are full divergence.
    """

    window: int = 200
    min_window: int = 50
    min_scale: float = 0.02
    start_scale: float = 0.25
    slack: float = 3.0
    cap: float = 10.0
    alarm: float = 15.0
    recovery_steps: int = 20
    recovered: float = 2.0
    patience: int = 200
    lost_ratio: float = 2.0
    blown_up: float = 100.0
    lost_auc: float = 0.5
    chance_margin: float = 0.02
    lost_steps: int = 20
    dead_ratio: float = 1e-3
    dead_layers: float = 0.3
    dead_steps: int = 50
    nonfinite_steps: int = 20


@dataclasses.dataclass(frozen=True)
class DivergenceEvent:
    """One departure from health; steps count from 0 at the training's start.

    Attributes:
        kind: what became of it.
        start: estimated first step that was not healthy. A snapshot of the weights is from
            before the event if it was taken after fewer than `start` steps.
        detected: step at which it was noticed.
        peak: step of the largest finite loss, of the series that rose most.
        depth: that loss, as a score.
        loss_rise: total loss at its own peak less its level.
        tasks: tasks whose loss rose or whose AUC was lost; empty if only the total shows it.
        ended: step of the recovery (micro), of the decision (shift, full); None while open.
        reason: of full divergence: why; otherwise empty.
    """

    kind: Kind
    start: int
    detected: int
    peak: int
    depth: float
    loss_rise: float
    tasks: tuple[str, ...]
    ended: int | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the event as JSON types."""
        return {**dataclasses.asdict(self), "tasks": list(self.tasks)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> DivergenceEvent:
        """Makes the event that `to_json` described."""
        return cls(**{**content, "tasks": tuple(content["tasks"])})

    def __str__(self) -> str:
        """A phrase for people."""
        names = {"open": "unrecovered", "micro": "micro-divergence", "shift": "level shift"}
        text = f"{names.get(self.kind, 'full divergence')} from step {self.start}"
        if self.ended is not None:
            text += f" to {self.ended}"
        text += f", depth {self.depth:.1f} scales"
        if self.tasks:
            text += f", tasks {', '.join(self.tasks)}"
        return f"{text} ({self.reason})" if self.reason else text
