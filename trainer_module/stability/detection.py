"""Tells healthy steps from divergence while training goes on; NumPy alone.

Losses are compared, as logarithms, with the median of the last healthy steps; what exceeds
their scatter is summed up over steps (the one-sided CUSUM of E. S. Page, Continuous
inspection schemes, Biometrika 41, 1954), so that a batch that happens to be hard raises no
alarm and a rise that lasts does. `docs/stability.md` states the rules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer_module.stability.events import DivergenceEvent, Kind, Limits, TrainingVerdict
from trainer_module.stability.levels import TOTAL, Array, Levels
from trainer_module.stability.statistics import StepStatistics


class Detector:
    """Classifies training steps, in order, as they come.

    What it says depends on the steps alone, not on the chunks they come in, and it can be
    stopped and restored between any two: `Detector.from_state(detector.to_state())`.

    Attributes:
        limits: the thresholds.
        step: number of steps seen; the next chunk must begin there.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        binary_tasks: Sequence[str],
        layers: Sequence[str],
        limits: Limits = Limits(),  # noqa: B008
    ) -> None:
        """Starts at step 0; the names are those of the `StepStatistics` to come."""
        self.limits = limits
        self.step = 0
        self._tasks = tuple(tasks)
        self._binary = tuple(binary_tasks)
        self._layers = tuple(layers)
        self._levels = Levels(limits, len(self._tasks), len(self._binary), len(self._layers))
        self._past: list[DivergenceEvent] = []
        self._event: _Open | None = None
        series = 1 + len(self._tasks)
        # The CUSUM: the sum, the step that it left 0 at, and the highest since.
        self._sum = np.zeros(series)
        self._since = np.zeros(series, int)
        self._peak = np.full(series, -np.inf)
        self._peak_step = np.zeros(series, int)
        self._lost_for = np.zeros(len(self._binary), int)
        self._dead_for = 0
        self._dead_since = 0
        self._nonfinite = 0
        self._nonfinite_since = 0

    @property
    def diverged(self) -> bool:
        """Full divergence was called: training should stop; later steps are not looked at."""
        return bool(self._past) and self._past[-1].kind == "full"

    @property
    def healthy(self) -> bool:
        """Nothing is going on: no event is open or building up; a snapshot may be taken."""
        quiet = not self._sum[TOTAL] and not self._lost_for.any() and not self._nonfinite
        alive = self._dead_since == self.step
        return self._event is None and not self.diverged and quiet and alive

    @property
    def events(self) -> tuple[DivergenceEvent, ...]:
        """What happened so far, in order; the last one may be open."""
        return (*self._past, *([] if self._event is None else [self._describe("open")]))

    @property
    def verdict(self) -> TrainingVerdict:
        """The verdict if training ended now: an event that is still open counts as diverged."""
        events = self.events
        if events and events[-1].kind in ("open", "full"):
            return "diverged"
        if events:
            return "recovered"
        return "healthy" if self.step >= self.limits.min_window else "unjudged"

    def summary(self) -> str:
        """One line on the training so far."""
        events = self.events
        text = f"{self.verdict} after {self.step} steps"
        if self.verdict == "unjudged":
            return f"{text}, fewer than the {self.limits.min_window} that a verdict takes"
        if not events:
            return text
        kinds: list[tuple[Kind, str]] = [("micro", "micro-divergence"), ("shift", "level shift")]
        counts = [(sum(e.kind == kind for e in events), name) for kind, name in kinds]
        parts = [f"{n} {name}{'s' if n > 1 else ''}" for n, name in counts if n]
        worst = max(events, key=lambda e: (e.kind in ("open", "full"), e.depth))
        return f"{text}: {', '.join([*parts, f'worst: {worst}'])}"

    def update(self, statistics: StepStatistics) -> None:
        """Takes in the next steps.

        Args:
            statistics: the steps that follow those seen so far; any number.

        Raises:
            ValueError: they do not follow, or are of other tasks or layers.
        """
        self._check(statistics)
        losses = np.column_stack([statistics.loss, statistics.task_loss]).astype(np.float64)
        finite = np.logical_and(
            np.isfinite(losses).all(axis=1), ~statistics.skipped.any(axis=1)
        ).tolist()
        with np.errstate(divide="ignore", invalid="ignore"):
            series = np.log(losses)
            log_norms = np.log(statistics.gradient_norm.astype(np.float64))
        series[np.isnan(losses)] = np.inf
        series[losses <= 0.0] = np.nan  # no labels in the batch
        aucs = statistics.auc.astype(np.float64)
        with np.errstate(invalid="ignore"):
            for row in zip(series, aucs, log_norms, finite, strict=True):
                if not self.diverged:
                    self._take(*row)
                self.step += 1

    def _check(self, statistics: StepStatistics) -> None:
        if statistics.first_step != self.step:
            raise ValueError(
                f"steps from {statistics.first_step} on were given, {self.step} comes next"
            )
        names = (statistics.tasks, statistics.binary_tasks, statistics.layers)
        if names != (self._tasks, self._binary, self._layers):
            raise ValueError("the statistics are of other tasks or layers than the detector")

    def _take(self, series: Array, auc: Array, log_norms: Array, finite: bool) -> None:
        """Takes in a step: counts what is bad about it, then opens, follows or ends an event."""
        self._levels.begin(series[TOTAL])
        lost = self._levels.lost(auc)
        dead = self._levels.dead(log_norms)
        blown_up = not self._levels.known and series[TOTAL] > self._blown_up
        at_chance = (dead or blown_up or self._event is not None) and self._at_chance(auc, lost)
        self._count(lost, dead, at_chance, finite)
        if self._event is None:
            self._look_for_event(series, bool(blown_up and at_chance and self._binary))
        else:
            self._note_peaks(series)
        limits = self.limits
        if self._nonfinite >= limits.nonfinite_steps:
            self._call_full("loss or gradients not finite", self._nonfinite_since)
        elif self._dead_for >= limits.dead_steps:
            self._call_full("gradients dead, AUC at chance", self._dead_since)
        elif self._event is not None:
            self._follow_event(self._event, series, lost, at_chance)
        elif not dead and finite:
            self._levels.learn(self.step, series, auc, log_norms)

    @property
    def _blown_up(self) -> float:
        """The logarithm of a total loss that no start comes back from; NaN before the first."""
        return float(self._levels.level[TOTAL] + np.log(self.limits.blown_up))

    def _at_chance(self, auc: Array, lost: Array) -> bool:
        """Whether most AUCs that can be measured are lost or near 0.5; none can: True."""
        chance = lost | (auc < 0.5 + self.limits.chance_margin)
        return bool(2 * np.count_nonzero(chance) >= np.count_nonzero(np.isfinite(auc)))

    def _count(self, lost: Array, dead: bool, at_chance: bool, finite: bool) -> None:
        """Counts the steps in a row that are bad; a finite one takes one off."""
        self._lost_for = (self._lost_for + 1) * lost
        if not dead:
            self._dead_since = self.step + 1
        self._dead_for = self._dead_for + 1 if dead and at_chance else 0
        if not finite and self._nonfinite == 0:
            self._nonfinite_since = self.step
        self._nonfinite = max(0, self._nonfinite + (-1 if finite else 1))

    def _look_for_event(self, series: Array, blown_up: bool) -> None:
        limits = self.limits
        scores = self._levels.scores(series)
        gain = np.where(np.isnan(scores), 0.0, np.minimum(scores, limits.cap) - limits.slack)
        before, self._sum = self._sum, np.maximum(0.0, self._sum + gain)
        if blown_up:
            # One such step is enough: there is no AUC yet that would be lost later.
            self._sum[TOTAL] += limits.alarm
        lost = self._lost_for >= limits.lost_steps
        crept = self._levels.crept
        bad = self._sum.any() or lost.any() or crept.any() or self._nonfinite or self._dead_for
        if not bad:
            return
        began = (before == 0.0) & (self._sum > 0.0)
        self._since[began] = self.step
        self._peak[began | (self._sum == 0.0)] = -np.inf
        self._note_peaks(series)
        alarmed = self._sum >= limits.alarm
        if alarmed.any() or lost.any():
            starts = [*self._since[alarmed], *(self.step - self._lost_for[lost] + 1)]
            self._open(int(min(starts)))
        elif crept.any():
            event = self._open(int(min(self._levels.lowest_step[crept])))
            event.affected |= crept
            # No step from before the rise is among the last healthy ones any more.
            self._levels.fall_back()

    def _note_peaks(self, series: Array) -> None:
        higher = np.isfinite(series) & (series > self._peak)
        self._peak[higher] = series[higher]
        self._peak_step[higher] = self.step

    def _open(self, start: int) -> _Open:
        """Opens an event; what it may have taught the levels is forgotten."""
        self._levels.forget(start, self.step)
        recent = np.empty((0, len(self._sum)))
        self._event = _Open(start, self.step, self._sum >= self.limits.alarm, recent)
        return self._event

    def _follow_event(self, event: _Open, series: Array, lost: Array, at_chance: bool) -> None:
        limits, levels = self.limits, self._levels
        names = np.array(self._binary)[lost]
        event.affected[[1 + self._tasks.index(name) for name in names]] = True
        event.recent = np.vstack([event.recent, series])[-limits.recovery_steps :]
        smooth = _medians(event.recent)
        scores = levels.scores(smooth)
        event.affected |= scores > limits.slack
        back = not np.any(scores > limits.recovered) and not lost.any() and self._nonfinite == 0
        if not levels.known:
            back = back and not at_chance
        if back and len(event.recent) == limits.recovery_steps:
            self._close("micro", self._returned(event))
        # What crept in long ago is noticed only now.
        elif (
            self.step + 1 - max(event.start, event.detected - limits.min_window) >= limits.patience
        ):
            reason = self._reason(smooth, scores, lost, at_chance)
            if reason:
                self._call_full(reason, event.start)
            else:
                self._close("shift", self.step)
                levels.restart(float(smooth[TOTAL]), self.step)

    def _returned(self, event: _Open) -> int:
        """First step of the last ones from which on no affected series scores high."""
        high = [
            bool(np.any((self._levels.scores(series) > self.limits.slack) & event.affected))
            for series in event.recent
        ]
        return self.step + 1 - [*reversed(high), True].index(True)

    def _reason(self, smooth: Array, scores: Array, lost: Array, at_chance: bool) -> str:
        """Why an event whose patience has run out is full divergence; empty if it is not."""
        limits, level = self.limits, self._levels.level
        steps = limits.patience
        if lost.any():
            names = ", ".join(np.array(self._binary)[lost])
            return f"AUC of {names} lost for {steps} steps"
        if not self._levels.known and self._binary and at_chance:
            if scores[TOTAL] > limits.recovered:
                return f"loss above its start, AUC at chance for {steps} steps"
            if self._peak[TOTAL] > self._blown_up:
                return f"loss blew up at the start, AUC at chance for {steps} steps"
        high = smooth - level > np.log(limits.lost_ratio)
        if high.any():
            names = ", ".join(np.array(["the total", *self._tasks])[high])
            return f"loss of {names} above its level for {steps} steps"
        return ""

    def _describe(self, kind: Kind, ended: int | None = None, reason: str = "") -> DivergenceEvent:
        assert self._event is not None
        event, level = self._event, self._levels.level
        seen = np.isfinite(self._peak) & np.isfinite(level)
        scores = np.where(seen, (self._peak - level) / self._levels.scale, 0.0)
        worst = int(np.argmax(scores))
        rise = np.exp(self._peak[TOTAL]) - np.exp(level[TOTAL]) if seen[TOTAL] else 0.0
        return DivergenceEvent(
            kind=kind,
            start=event.start,
            detected=event.detected,
            peak=int(self._peak_step[worst]) if seen[worst] else event.start,
            depth=float(scores[worst]),
            loss_rise=float(rise),
            tasks=tuple(np.array(self._tasks)[event.affected[1:]].tolist()),
            ended=ended,
            reason=reason,
        )

    def _close(self, kind: Kind, ended: int, reason: str = "") -> None:
        self._past.append(self._describe(kind, ended, reason))
        self._event = None
        self._sum[:] = 0.0
        self._peak[:] = -np.inf
        self._lost_for[:] = 0

    def _call_full(self, reason: str, start: int) -> None:
        if self._event is None:
            self._open(start)
        self._close("full", self.step, reason)

    def to_state(self) -> dict[str, Any]:
        """Returns everything it remembers as JSON types, to be kept with a snapshot."""
        return {
            "tasks": list(self._tasks),
            "binary_tasks": list(self._binary),
            "layers": list(self._layers),
            "limits": dataclasses.asdict(self.limits),
            "events": [event.to_json() for event in self._past],
            "open": None if self._event is None else _numbers(self._event),
            "counts": _numbers(self),
            "levels": _numbers(self._levels),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Detector:
        """Makes the detector that `to_state` described.

        Raises:
            KeyError, TypeError, ValueError: `state` is not such a description.
        """
        names = (state["tasks"], state["binary_tasks"], state["layers"])
        detector = cls(*names, limits=Limits(**state["limits"]))
        detector._past = [DivergenceEvent.from_json(event) for event in state["events"]]
        if state["open"] is not None:
            _restore(detector._open(0), state["open"])
        _restore(detector, state["counts"])
        _restore(detector._levels, state["levels"])
        return detector


@dataclasses.dataclass
class _Open:
    """An event that is not decided yet.

    Attributes:
        start: as in `DivergenceEvent`.
        detected: as in `DivergenceEvent`.
        affected: bool [series].
        recent: the last steps of the event, [steps, series].
    """

    start: int
    detected: int
    affected: Array
    recent: Array


def _medians(rows: Array) -> Array:
    """Medians by column, NaN left out; NaN for a column of nothing else."""
    ordered = np.sort(rows, axis=0)
    count = np.sum(~np.isnan(ordered), axis=0)
    return np.take_along_axis(ordered, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]


def _numbers(owner: object) -> dict[str, Any]:
    """An object's attributes that are numbers, or arrays of them, as JSON types."""
    return {
        name: _to_json(value.tolist() if isinstance(value, np.ndarray) else value)
        for name, value in vars(owner).items()
        if isinstance(value, (int, float, np.ndarray))
    }


def _restore(owner: object, numbers: Mapping[str, Any]) -> None:
    """Sets the attributes that `_numbers` returned."""
    for name, value in numbers.items():
        like = getattr(owner, name)
        if isinstance(like, np.ndarray):
            setattr(owner, name, np.array(value, like.dtype).reshape(-1, *like.shape[1:]))
        else:
            setattr(owner, name, type(like)(value))


def _to_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    # JSON has no word for what is not finite; float() reads these.
    return value if np.isfinite(value) else str(value)
