"""What was measured, as JSON, as a plot and as tables."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainer_module.risk.over_run import SharpnessPoint
from trainer_module.risk.stable_rate import RateOutcome, StableRate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

JSON_FILE = "risk.json"
PLOT_FILE = "risk.png"

_SEARCHED = {
    False: "largest learning rate without divergence",
    True: "largest learning rate without a jump of the loss",
}


@dataclasses.dataclass(frozen=True)
class RiskReport:
    """What was measured for one spec and one day.

    Attributes:
        spec: the spec's name.
        run_date: the day, YYYY-MM-DD.
        start: whether trainings start cold or warm, and why.
        optimizer: the spec's optimizer, whose sharpness was measured.
        learning_rate: the spec's.
        batch_size: events a step, and in the probe.
        steps: of each training.
        seeds: how many trainings each figure comes from.
        jumps: whether jumps of the loss are counted in place of divergence.
        sharpness: the measurements, by seed and step.
        stable_rates: by optimizer.
    """

    spec: str
    run_date: str
    start: str
    optimizer: str
    learning_rate: float
    batch_size: int
    steps: int
    seeds: int
    jumps: bool
    sharpness: tuple[SharpnessPoint, ...]
    stable_rates: Mapping[str, StableRate]

    def peak_ratio(self) -> float:
        """Largest eta * sharpness / 2 of any seed and step; NaN if nothing was measured."""
        ratios = [point.ratio for point in self.sharpness if math.isfinite(point.ratio)]
        return max(ratios, default=math.nan)


def as_json(report: RiskReport) -> dict[str, Any]:
    """Returns the report as plain data; what is not finite becomes null."""
    content = dataclasses.asdict(report)
    content["peak_ratio"] = report.peak_ratio()
    for point, plain in zip(report.sharpness, content["sharpness"], strict=True):
        plain["ratio"] = point.ratio
    for name, found in report.stable_rates.items():
        content["stable_rates"][name] = {
            "highest_stable": found.highest_stable,
            "lowest_unstable": found.lowest_unstable,
            "complete": found.complete,
            "outcomes": [
                {
                    **dataclasses.asdict(outcome),
                    "diverged": outcome.diverged,
                    "interval": outcome.interval,
                }
                for outcome in found.outcomes
            ],
        }
    finite: dict[str, Any] = _finite(content)
    return finite


def save(report: RiskReport, directory: str) -> None:
    """Writes `risk.json` and `risk.png` into a local folder, made if absent."""
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, JSON_FILE), "w", encoding="utf-8") as file:
        json.dump(as_json(report), file, indent=2, allow_nan=False)
        file.write("\n")
    plot(report, os.path.join(directory, PLOT_FILE))


def plot(report: RiskReport, path: str) -> None:
    """Draws sharpness against 2 / eta over the steps, and divergence over learning rates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{report.spec}, {report.run_date}", fontsize=11)
    _plot_sharpness(left, report)
    _plot_divergence(right, report)
    figure.savefig(path, dpi=120)


def _plot_sharpness(axes: Axes, report: RiskReport) -> None:
    points = [point for point in report.sharpness if point.sharpness > 0]
    for number, seed in enumerate(sorted({point.seed for point in points})):
        own = [point for point in points if point.seed == seed]
        # On a symmetrical logarithmic axis step 0 has a place.
        axes.plot(
            [point.step for point in own],
            [point.sharpness for point in own],
            "o-",
            color="tab:blue",
            alpha=0.6,
            label=None if number else f"sharpness, {report.seeds} seeds",
        )
    limits = {p.step: 2.0 / p.learning_rate for p in points if p.learning_rate > 0}
    axes.plot(sorted(limits), [limits[s] for s in sorted(limits)], "k--", label="2 / eta")
    axes.set_xscale("symlog", linthresh=1)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("largest eigenvalue of $G^{-1/4} H G^{-1/4}$")
    axes.set_title(f"{report.optimizer}, learning rate {report.learning_rate:g}", fontsize=10)
    axes.legend()


def _plot_divergence(axes: Axes, report: RiskReport) -> None:
    for number, (name, found) in enumerate(report.stable_rates.items()):
        rates = [outcome.learning_rate for outcome in found.outcomes]
        shares = [outcome.diverged / len(outcome.trials) for outcome in found.outcomes]
        low = [s - o.interval[0] for s, o in zip(shares, found.outcomes, strict=True)]
        high = [o.interval[1] - s for s, o in zip(shares, found.outcomes, strict=True)]
        axes.errorbar(
            rates, shares, yerr=(low, high), fmt="o-", capsize=3, color=f"C{number}", label=name
        )
    axes.axvline(report.learning_rate, color="k", linestyle=":", label="the spec's")
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("learning rate")
    what = "jumped" if report.jumps else "diverged"
    axes.set_ylabel(f"share of trainings that {what}, 95 % interval")
    axes.set_title(f"{report.steps} steps, {report.seeds} seeds a rate", fontsize=10)
    axes.legend()


def sharpness_table(report: RiskReport) -> Table:
    """Returns sharpness by step, over the seeds."""
    from rich.table import Table

    table = Table(title=f"{report.optimizer}: preconditioned sharpness", title_justify="left")
    for head in ("step", "2 / eta", "sharpness", "lowest", "highest", "ratio", "loss"):
        table.add_column(head, justify="right")
    for step in sorted({point.step for point in report.sharpness}):
        own = [point for point in report.sharpness if point.step == step]
        values = [point.sharpness for point in own]
        ratio = max(point.ratio for point in own)
        table.add_row(
            str(step),
            f"{2.0 / own[0].learning_rate:.4g}",
            f"{_mean(values):.4g}" + ("" if all(p.converged for p in own) else " *"),
            f"{min(values):.4g}",
            f"{max(values):.4g}",
            f"[red]{ratio:.3g}[/red]" if ratio > 1.0 else f"{ratio:.3g}",
            f"{_mean([point.loss for point in own]):.4g}",
        )
    if not all(point.converged for point in report.sharpness):
        table.caption = "* a lower bound: the eigenvalue had not converged"
    return table


def stable_rate_table(report: RiskReport) -> Table:
    """Returns each optimizer's bracket and how far the spec's learning rate is below it."""
    from rich.table import Table

    table = Table(title=_SEARCHED[report.jumps], title_justify="left")
    for head in ("optimizer", "stable", "unstable", "stable / spec's", "share at the lowest"):
        table.add_column(head, justify="left" if head == "optimizer" else "right")
    for name, found in report.stable_rates.items():
        stable, unstable = found.highest_stable, found.lowest_unstable
        at = next((o for o in found.outcomes if not o.stable), None)
        table.add_row(
            name + ("" if found.complete else " *"),
            "none found" if stable is None else f"{stable:.4g}",
            "none found" if unstable is None else f"{unstable:.4g}",
            "" if stable is None else f"{stable / report.learning_rate:.3g} x",
            "" if at is None else _share(at),
        )
    if not all(found.complete for found in report.stable_rates.values()):
        table.caption = "* the budget ended the search"
    return table


def _share(outcome: RateOutcome) -> str:
    low, high = outcome.interval
    return f"{outcome.diverged} of {len(outcome.trials)} ({low:.0%} to {high:.0%})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
