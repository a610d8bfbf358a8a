"""Where a day's run, or another long command, is: in a terminal, or as lines in a log."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.lineage import Run

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

_LINE_SECONDS = 30.0
"""Without a terminal, seconds from a line of a part to the next."""

_STEADY_SECONDS = 5.0
"""Over as many seconds, at least, the speed of a training is measured."""


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run is.

    Attributes:
        component: the component that runs, or `starting`.
        seconds: since the run began.
        attempt: of a training, from 1; None where there is none under way.
        step: steps that it has done.
        steps: how many it takes; None if that is not known.
        loss: of the last step; None if it is not finite.
        steps_per_second: its speed; None in its first seconds.
        events_per_second: the same in events.
        seconds_left: of the day, as far as can be told.
    """

    component: str
    seconds: float = 0.0
    attempt: int | None = None
    step: int = 0
    steps: int | None = None
    loss: float | None = None
    steps_per_second: float | None = None
    events_per_second: float | None = None
    seconds_left: float | None = None

    def __str__(self) -> str:
        """One line for people."""
        parts = [f"{self.component}, {duration(self.seconds)}"]
        if self.attempt is not None:
            attempt = f"attempt {self.attempt}, " if self.attempt > 1 else ""
            of = f" of {self.steps:,}" if self.steps else ""
            parts.append(f"{attempt}step {self.step:,}{of}")
            parts.append("loss not finite" if self.loss is None else f"loss {self.loss:.4g}")
        if self.steps_per_second is not None:
            parts.append(f"{self.steps_per_second:,.1f} steps/s")
        if self.events_per_second is not None:
            parts.append(f"{self.events_per_second:,.0f} events/s")
        if self.seconds_left is not None:
            parts.append(f"about {duration(self.seconds_left)} left")
        return " · ".join(parts)


def duration(seconds: float) -> str:
    """Returns seconds as people say them."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Watch:
    """Follows a run by ML Metadata and by what its training says (`trainer_module.live_file`)."""

    def __init__(self, told_in: str, before: Run | None) -> None:
        """Takes the file that the training writes, and the run before, whose pace is known."""
        self._told_in = told_in
        self._pace: Mapping[str, float] = {}
        if before is not None and before.outcome == "pushed":
            self._pace = before.component_seconds
        self._began = time.monotonic()
        self._measured: tuple[float, int, int] | None = None

    def position(self, run: Run | None) -> Position:
        """Says where the run is; None is a run that has not come to its first component."""
        seconds = time.monotonic() - self._began
        if run is None:
            return Position("starting", seconds)
        component = list(run.components)[-1]
        told = self._told() if component == "Trainer" else None
        left = self._left_after(run, component)
        if told is None:
            return Position(component, seconds, seconds_left=left)
        steps = None
        if trained := run.events.get("trained"):
            steps = max(-(-trained * told["epochs"] // told["batch_size"]), told["step"])
        speed = self._speed(told)
        if speed and steps:
            rest = sum(self._pace.get(name, 0.0) for name in _after(self._pace, component))
            left = (steps - told["step"]) / speed + rest
        return Position(
            component=component,
            seconds=seconds,
            attempt=told["attempt"],
            step=told["step"],
            steps=steps,
            loss=told["loss"],
            steps_per_second=speed,
            events_per_second=speed * told["batch_size"] if speed else None,
            seconds_left=left,
        )

    def _told(self) -> dict[str, Any] | None:
        try:
            with open(self._told_in, encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError):
            return None

    def _speed(self, told: dict[str, Any]) -> float | None:
        now, attempt, step = time.monotonic(), told["attempt"], told["step"]
        if self._measured is None or self._measured[1] != attempt:
            self._measured = (now, attempt, step)
        since, _, first = self._measured
        return (step - first) / (now - since) if now - since >= _STEADY_SECONDS else None

    def _left_after(self, run: Run, component: str) -> float | None:
        """What the run before took for what is still to come."""
        if component not in self._pace:
            return None
        here = max(self._pace[component] - run.component_seconds.get(component, 0.0), 0.0)
        return here + sum(self._pace[name] for name in _after(self._pace, component))


def _after(pace: Mapping[str, float], component: str) -> list[str]:
    names = list(pace)
    return names[names.index(component) + 1 :] if component in names else []


class Display:
    """Shows what goes on: in place in a terminal, else a line now and then."""

    def __init__(self, console: Console, spinner: Status) -> None:
        """Makes it for a command."""
        self._console, self._spinner = console, spinner
        self._part, self._due = "", 0.0

    def show(self, part: str, line: str) -> None:
        """Shows a line; the first of each part is printed wherever there is no terminal."""
        if self._console.is_terminal:
            self._spinner.update(line)
            return
        now = time.monotonic()
        if part != self._part or now >= self._due:
            self._part, self._due = part, now + _LINE_SECONDS
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
