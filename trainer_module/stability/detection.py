"""Tells healthy steps from divergence while training goes on; NumPy alone.

Losses are compared, as logarithms, with the median of the last healthy steps; what exceeds
their scatter is summed up over steps (the one-sided CUSUM of E. S. Page, Continuous
inspection schemes, Biometrika 41, 1954), so that a batch that happens to be hard raises no
alarm and a rise that lasts does. `docs/stability.md` states the rules.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_module.stability.events import Event, Kind, Limits, Verdict
from trainer_module.stability.statistics import StepStatistics

Array = npt.NDArray[Any]

_REFRESH = 10
"""Healthy steps after which levels and scales are taken anew."""
_FORGETTING = 5
"""Windows after which a lower level of before is forgotten, all but 1/e."""
_MAD_TO_SIGMA = 1.4826
_RARE, _RARE_TO_SIGMA = 0.98, 2.0537
"""Quantile of the healthy steps, and how many standard deviations of a normal one it is up."""
_TOTAL = 0
"""Column of the total loss among the series; tasks follow."""


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
        self._auc_tasks = np.array([self._tasks.index(task) for task in self._binary], int)
        self._past: list[Event] = []
        series = 1 + len(self._tasks)
        self._window = _Window(limits.window, series + len(self._binary))
        self._level = np.full(series, np.nan)
        self._scale = np.full(series, np.nan)
        self._lowest = np.full(series, np.nan)
        self._lowest_scale = np.full(series, np.nan)
        self._lowest_step = np.zeros(series, int)
        self._start_level = np.nan
        self._usual_auc = np.full(len(self._binary), np.nan)
        self._auc_scatter = np.full(len(self._binary), np.nan)
        self._usual_log_gradient = np.full(len(self._layers), np.nan)
        self._healthy_steps = 0
        self._sum = np.zeros(series)
        self._since = np.zeros(series, int)
        self._peak = np.full(series, -np.inf)
        self._peak_step = np.zeros(series, int)
        self._lost_for = np.zeros(len(self._binary), int)
        self._dead_for = 0
        self._dead_since = 0
        self._nonfinite = 0
        self._nonfinite_since = 0
        self._event: _Open | None = None
        self._derive()

    @property
    def diverged(self) -> bool:
        """Full divergence was called: training should stop; later steps are not looked at."""
        return bool(self._past) and self._past[-1].kind == "full"

    @property
    def healthy(self) -> bool:
        """Nothing is going on: no event is open or building up; a snapshot may be taken."""
        quiet = not self._sum[_TOTAL] and not self._lost_for.any() and not self._nonfinite
        alive = self._dead_since == self.step
        return self._event is None and not self.diverged and quiet and alive

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened so far, in order; the last one may be open."""
        return (*self._past, *([] if self._event is None else [self._describe("open")]))

    @property
    def verdict(self) -> Verdict:
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
        if math.isnan(self._start_level) and np.isfinite(series[_TOTAL]):
            self._start_level = float(series[_TOTAL])
        scores = self._scores(series)
        self._watch_nonfinite(finite)
        lost = auc < self._lost_below
        self._lost_for = (self._lost_for + 1) * lost
        dead = self._is_dead(log_norms)
        if not dead:
            self._dead_since = self.step + 1
        at_chance = dead and self._at_chance(auc, lost)
        self._dead_for = self._dead_for + 1 if at_chance else 0
        if self._event is None:
            self._look_for_event(series, scores)
        else:
            self._note_peaks(series)
        limits = self.limits
        if self._nonfinite >= limits.nonfinite_steps:
            self._call_full("loss or gradients not finite", self._nonfinite_since)
        elif self._dead_for >= limits.dead_steps:
            self._call_full("gradients dead, AUC at chance", self._dead_since)
        elif self._event is not None:
            self._follow_event(series, scores, auc, lost)
        elif not dead and finite:
            self._learn(series, auc, log_norms)

    def _scores(self, series: Array) -> Array:
        """Distances above the levels in scales, NaN where there is no level, [series]."""
        if self._has_level:
            return (series - self._level) / self._scale
        scores = np.full(len(series), np.nan)
        scores[_TOTAL] = (series[_TOTAL] - self._start_level) / self.limits.start_scale
        if np.isposinf(series[_TOTAL]):
            scores[_TOTAL] = np.inf
        return scores

    def _watch_nonfinite(self, finite: bool) -> None:
        if not finite and self._nonfinite == 0:
            self._nonfinite_since = self.step
        self._nonfinite = max(0, self._nonfinite + (-1 if finite else 1))

    def _at_chance(self, auc: Array, lost: Array) -> bool:
        """Whether most AUCs that can be measured are lost or near 0.5; none can: True."""
        chance = lost | (auc < 0.5 + self.limits.chance_margin)
        known = np.isfinite(auc)
        return bool(2 * np.sum(chance & known) >= np.sum(known))

    def _is_dead(self, log_norms: Array) -> bool:
        limits = self.limits
        dead = np.count_nonzero(log_norms <= self._usual_log_gradient + math.log(limits.dead_ratio))
        if not dead:
            return False
        return bool(
            dead >= limits.dead_layers * np.count_nonzero(np.isfinite(self._usual_log_gradient))
        )

    def _look_for_event(self, series: Array, scores: Array) -> None:
        limits = self.limits
        gain = np.where(np.isnan(scores), 0.0, np.minimum(scores, limits.cap) - limits.slack)
        before = self._sum
        self._sum = np.maximum(0.0, before + gain)
        lost = self._lost_for >= limits.lost_steps
        crept = self._crept
        suspect = self._sum.any() or lost.any() or crept.any() or self._nonfinite or self._dead_for
        if not suspect:
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
            self._open(int(min(self._lowest_step[crept])))
            self._event.affected |= crept  # type: ignore[union-attr]
            # No step from before the rise is in the window any more.
            self._level, self._scale = self._lowest.copy(), self._lowest_scale.copy()
            self._derive()

    def _note_peaks(self, series: Array) -> None:
        higher = np.isfinite(series) & (series > self._peak)
        self._peak[higher] = series[higher]
        self._peak_step[higher] = self.step

    def _open(self, start: int) -> None:
        """Opens an event; what it may have taught the levels is forgotten."""
        self._window.forget(start)
        self._refresh()
        self._event = _Open(start, self.step, self._sum >= self.limits.alarm)

    def _follow_event(self, series: Array, scores: Array, auc: Array, lost: Array) -> None:
        assert self._event is not None
        limits, event = self.limits, self._event
        event.affected[1 + self._auc_tasks[lost]] = True
        event.recent.append(series.tolist())
        del event.recent[: -limits.recovery_steps]
        smooth = _median_columns(np.array(event.recent))
        scores = self._scores(smooth)
        event.affected |= scores > limits.slack
        back = not np.any(scores > limits.recovered) and not lost.any()
        if not self._has_level:
            back = back and not self._at_chance(auc, lost)
        if len(event.recent) == limits.recovery_steps and back and self._nonfinite == 0:
            self._close("micro", self._returned())
        elif self.step + 1 - event.waited_from(limits) >= limits.patience:
            reason = self._reason(smooth, auc, lost)
            if reason:
                self._call_full(reason, event.start)
            else:
                self._close("shift", self.step)
                self._start_level = float(smooth[_TOTAL])
                self._window.forget(0)
                self._lowest[:] = np.nan
                self._refresh()

    def _returned(self) -> int:
        """First step of the last ones from which on no affected series scores high."""
        assert self._event is not None
        recent = self._event.recent
        for back, series in enumerate(reversed(recent)):
            scores = self._scores(np.array(series))
            if np.any((scores > self.limits.slack) & self._event.affected):
                return self.step - back + 1
        return self.step - len(recent) + 1

    def _reason(self, smooth: Array, auc: Array, lost: Array) -> str:
        """Why an event whose patience has run out is full divergence; empty if it is not."""
        steps = self.limits.patience
        if lost.any():
            names = ", ".join(np.array(self._binary)[lost])
            return f"AUC of {names} lost for {steps} steps"
        level = self._level.copy()
        if np.isnan(level[_TOTAL]):
            level[_TOTAL] = self._start_level
            if len(auc) and self._at_chance(auc, lost):
                if self._scores(smooth)[_TOTAL] > self.limits.recovered:
                    return f"loss above its start, AUC at chance for {steps} steps"
                if self._peak[_TOTAL] - self._start_level > np.log(self.limits.blown_up):
                    return f"loss blew up at the start, AUC at chance for {steps} steps"
        high = smooth - level > np.log(self.limits.lost_ratio)
        if high.any():
            names = ", ".join(np.array(["the total", *self._tasks])[high])
            return f"loss of {names} above its level for {steps} steps"
        return ""

    def _describe(self, kind: Kind, ended: int | None = None, reason: str = "") -> Event:
        assert self._event is not None
        event = self._event
        names = tuple(np.array(self._tasks)[event.affected[1:]].tolist())
        level, scale = self._level.copy(), self._scale.copy()
        if np.isnan(level[_TOTAL]):
            level[_TOTAL], scale[_TOTAL] = self._start_level, self.limits.start_scale
        seen = np.isfinite(self._peak) & np.isfinite(level)
        scores = np.where(seen, (self._peak - level) / scale, 0.0)
        worst = int(np.argmax(scores))
        rise = 0.0
        if seen[_TOTAL]:
            rise = float(np.exp(self._peak[_TOTAL]) - np.exp(level[_TOTAL]))
        peak = int(self._peak_step[worst]) if seen[worst] else event.start
        return Event(
            kind,
            event.start,
            event.detected,
            peak,
            float(scores[worst]),
            rise,
            names,
            ended,
            reason,
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

    def _learn(self, series: Array, auc: Array, log_norms: Array) -> None:
        """Lets a healthy step into the levels."""
        self._window.add(self.step, series, auc)
        self._healthy_steps += 1
        # The running mean of the logarithm: one batch's outlier hardly moves it.
        usual = self._usual_log_gradient
        moved = usual + (log_norms - usual) / self.limits.window
        known = np.where(np.isnan(usual), log_norms, moved)
        self._usual_log_gradient = np.where(np.isfinite(log_norms), known, usual)
        if self._healthy_steps % _REFRESH == 0:
            self._refresh()

    def _refresh(self) -> None:
        low, middle, high, rare = self._window.quantiles(self.limits.min_window)
        series = len(self._level)
        self._level = middle[:series]
        spread = _MAD_TO_SIGMA * (high - middle)[:series]
        # The loss of a task with few positives is the same low number in most batches and
        # many times that in some: its scatter is not that of the batches in the middle.
        tail = (rare - middle)[:series] / _RARE_TO_SIGMA
        spread[_TOTAL + 1 :] = np.fmax(spread, tail)[_TOTAL + 1 :]
        self._scale = np.maximum(spread, self.limits.min_scale)
        self._note_lowest()
        self._usual_auc = middle[series:]
        self._auc_scatter = _MAD_TO_SIGMA * (middle - low)[series:]
        self._derive()

    def _derive(self) -> None:
        """Takes from the levels what every step is compared with."""
        limits = self.limits
        self._has_level = bool(np.isfinite(self._level[_TOTAL]))
        # The median of a task that half of the batches have a positive of is now that of the
        # one half, now of the other: a rise within the scatter would be over once noticed.
        least = np.maximum(np.log(limits.lost_ratio), limits.recovered * self._lowest_scale)
        self._crept = self._level - self._lowest > least
        excess = self._usual_auc - 0.5
        clear = (1.0 - limits.lost_auc) * excess > limits.chance_margin + 3.0 * self._auc_scatter
        # An AUC that has too little to lose cannot be lost.
        self._lost_below = np.where(clear, 0.5 + limits.lost_auc * excess, -np.inf)

    def _note_lowest(self) -> None:
        """Follows the levels down at once, and up over several windows."""
        pace = _REFRESH / (_FORGETTING * self.limits.window)
        risen = self._lowest + pace * (self._level - self._lowest)
        new = np.isnan(self._lowest) | (self._level <= self._lowest)
        kept = np.where(np.isnan(self._level), self._lowest, risen)
        self._lowest = np.where(new, self._level, kept)
        self._lowest_scale = np.where(new, self._scale, self._lowest_scale)
        self._lowest_step[new] = self.step

    def to_state(self) -> dict[str, Any]:
        """Returns everything it remembers as JSON types, to be kept with a snapshot."""
        return {
            "tasks": list(self._tasks),
            "binary_tasks": list(self._binary),
            "layers": list(self._layers),
            "limits": dataclasses.asdict(self.limits),
            "events": [event.to_json() for event in self._past],
            "open": None if self._event is None else self._event.to_json(),
            "memory": {name: _to_json(getattr(self, name)) for name in _MEMORY},
            "window": {name: _to_json(value) for name, value in vars(self._window).items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Detector:
        """Makes the detector that `to_state` described.

        Raises:
            KeyError, TypeError, ValueError: `state` is no such description.
        """
        names = (state["tasks"], state["binary_tasks"], state["layers"])
        detector = cls(*names, limits=Limits(**state["limits"]))
        detector._past = [Event.from_json(event) for event in state["events"]]
        if state["open"] is not None:
            detector._event = _Open.from_json(state["open"])
        for owner, values in ((detector, state["memory"]), (detector._window, state["window"])):
            for name, value in values.items():
                setattr(owner, name, _from_json(value, like=getattr(owner, name)))
        detector._derive()
        return detector


_MEMORY = (
    "step",
    "_level",
    "_scale",
    "_lowest",
    "_lowest_scale",
    "_lowest_step",
    "_start_level",
    "_usual_auc",
    "_auc_scatter",
    "_usual_log_gradient",
    "_healthy_steps",
    "_sum",
    "_since",
    "_peak",
    "_peak_step",
    "_lost_for",
    "_dead_for",
    "_dead_since",
    "_nonfinite",
    "_nonfinite_since",
)
"""A detector's attributes that are numbers and arrays of them, and change."""


@dataclasses.dataclass
class _Open:
    """An event that is not decided yet.

    Attributes:
        start: as in `Event`.
        detected: as in `Event`.
        affected: bool [series].
        recent: the event's last series, [steps][series].
    """

    start: int
    detected: int
    affected: Array
    recent: list[list[float]] = dataclasses.field(default_factory=list)

    def waited_from(self, limits: Limits) -> int:
        """The step from which patience counts: what crept in long ago is noticed only now."""
        return max(self.start, self.detected - limits.min_window)

    def to_json(self) -> dict[str, Any]:
        return {name: _to_json(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> _Open:
        recent = [[float(value) for value in row] for row in content["recent"]]
        return cls(content["start"], content["detected"], np.array(content["affected"]), recent)


class _Window:
    """The last healthy rows, and the steps that they are of."""

    def __init__(self, rows: int, columns: int) -> None:
        self.values = np.full((rows, columns), np.nan)
        self.steps = np.full(rows, -1)
        self.next = 0

    def add(self, step: int, series: Array, auc: Array) -> None:
        row = self.values[self.next]
        row[: len(series)] = series
        row[len(series) :] = auc
        self.steps[self.next] = step
        self.next = (self.next + 1) % len(self.steps)

    def forget(self, step: int) -> None:
        """Drops the rows of this step and of later ones."""
        late = self.steps >= step
        self.values[late] = np.nan
        self.steps[late] = -1

    def quantiles(self, at_least: int) -> Array:
        """Quartiles and the rare high of each column, [4, columns]; NaN for fewer values."""
        ordered = np.sort(self.values, axis=0)  # NaN goes last
        count = np.sum(np.isfinite(ordered), axis=0)
        rows = np.array([[0.25], [0.5], [0.75], [_RARE]]) * np.maximum(count - 1, 0)
        result = np.take_along_axis(ordered, np.rint(rows).astype(int), axis=0)
        result[:, count < at_least] = np.nan
        return result


def _median_columns(rows: Array) -> Array:
    """Medians by column, NaN left out; NaN for a column of nothing else."""
    ordered = np.sort(rows, axis=0)
    count = np.sum(~np.isnan(ordered), axis=0)
    return np.take_along_axis(ordered, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]


def _to_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    # JSON has no word for what is not finite; float() reads these.
    return value if np.isfinite(value) else str(value)


def _from_json(value: Any, like: Any) -> Any:
    if isinstance(like, np.ndarray):
        return np.array(value, like.dtype).reshape(like.shape)
    return type(like)(value)
