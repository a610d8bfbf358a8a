"""Plots of a training in the manner of Fig. 1, 4 and 6 of arXiv:2302.09178."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer_module.stability.events import DivergenceEvent

_BEFORE, _AFTER = 60, 120
"""Steps around an event's start that its plot shows."""
_MEDIAN_OF = 21
"""Steps that a running median is of."""
_LAYERS = 8
"""Layers shown in one plot of clipping factors: those that were clipped most."""
_COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#7f7f7f",
    "#000000",
)
"""Okabe and Ito's palette, which the colour-blind can tell apart."""

Floats = npt.NDArray[np.float64]


def draw(table: pa.Table, events: Sequence[Sequence[DivergenceEvent]]) -> dict[str, bytes]:
    """Draws a training.

    Args:
        table: as of `StatisticsRecorder.read`.
        events: of each attempt.

    Returns:
        PNG images by file name: `loss_and_auc.png`, `sigma.png` and, if there was an event,
        `event.png` of the worst.
    """
    if not len(table):
        return {}
    attempts = table["attempt"].to_numpy()
    last = _Rows(table.filter(pa.array(attempts == attempts[-1])))
    earlier = [_Rows(table.filter(pa.array(attempts == n))) for n in np.unique(attempts)[:-1]]
    images = {
        "loss_and_auc.png": _png(_loss_and_auc(last, earlier, events[-1])),
        "sigma.png": _png(_sigma(last)),
    }
    found = [(event, number) for number, group in enumerate(events) for event in group]
    if found:
        worst, number = max(found, key=lambda e: (e[0].kind in ("open", "full"), e[0].depth))
        rows = _Rows(table.filter(pa.array(attempts == number)))
        if np.any(rows.around(worst)):
            images["event.png"] = _png(_event(rows, worst))
    return images


def draw_evaluations(
    evaluations: Sequence[tuple[int, Mapping[str, float | None]]],
) -> dict[str, bytes]:
    """Draws metrics on the run date over training.

    Args:
        evaluations: step, and metric by task; None where there is none.

    Returns:
        A PNG image by its file name, `run_date.png`; nothing for fewer than two evaluations.
    """
    if len(evaluations) < 2:
        return {}
    tasks = list(evaluations[0][1])
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    ax = figure.subplots()
    steps = np.array([step for step, _ in evaluations], np.float64)
    for color, task in zip(_cycle(tasks), tasks, strict=True):
        values = np.array([metrics[task] for _, metrics in evaluations], np.float64)
        ax.plot(steps, values, marker=".", color=color, label=task)
    ax.set(xlabel="step", ylabel="AUC or RMSE", title="A sample of the run date over training")
    _legend(ax)
    return {"run_date.png": _png(figure)}


class _Rows:
    """Columns of one attempt's rows as arrays."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.step = table["step"].to_numpy()

    def __getitem__(self, column: str) -> Floats:
        return self._table[column].to_numpy().astype(np.float64)

    def names(self, field: str) -> list[str]:
        columns = self._table.column_names
        return [name.partition("/")[2] for name in columns if name.startswith(field + "/")]

    def norm(self, field: str) -> Floats:
        """L2 norm over all layers, [rows]."""
        total = np.zeros(len(self.step))
        with np.errstate(over="ignore", invalid="ignore"):
            for name in self.names(field):
                total += np.square(self[f"{field}/{name}"])
        return np.sqrt(total)

    def around(self, event: DivergenceEvent) -> npt.NDArray[np.bool_]:
        return (self.step >= event.start - _BEFORE) & (self.step <= event.start + _AFTER)


def _loss_and_auc(
    last: _Rows, earlier: Sequence[_Rows], events: Sequence[DivergenceEvent]
) -> Figure:
    tasks = last.names("auc")
    figure = Figure(figsize=(9, 6 if tasks else 3.5), layout="constrained")
    axes = figure.subplots(2 if tasks else 1, 1, sharex=True, squeeze=False)[:, 0]
    for number, rows in enumerate(earlier):
        label = "earlier attempts" if number == 0 else None
        _line(axes[0], rows.step, rows["loss"], color="#999999", label=label)
    _line(axes[0], last.step, last["loss"], color="#a6cbe3", linewidth=0.6, label="loss")
    median = f"median of {_MEDIAN_OF}"
    axes[0].plot(last.step, _running_median(last["loss"]), color=_COLORS[0], label=median)
    axes[0].set(ylabel="loss", yscale="log", title="Loss and AUC over training")
    if tasks:
        for color, task in zip(_cycle(tasks), tasks, strict=True):
            axes[1].plot(last.step, last[f"auc/{task}"], color=color, label=task)
        axes[1].axhline(0.5, color="#999999", linewidth=0.8, linestyle=":")
        axes[1].set(ylabel="AUC, fading window")
    for ax in axes:
        for event in events:
            _shade(ax, event, last.step[-1])
        _legend(ax)
    axes[-1].set(xlabel="step")
    return figure


def _event(rows: _Rows, event: DivergenceEvent) -> Figure:
    near = rows.around(event)
    step = rows.step[near]
    clipped = np.array([rows[f"sigma_min/{name}"] for name in rows.names("sigma_min")])
    panels: list[tuple[str, Floats]] = [
        ("loss", rows["loss"]),
        ("gradient norm", rows.norm("gradient_norm")),
        ("update norm", rows.norm("update_norm")),
    ]
    if clipped.size:
        panels.append(("smallest sigma", clipped.min(axis=0)))
    tasks = rows.names("auc")
    figure = Figure(figsize=(9, 1.9 * (len(panels) + bool(tasks))), layout="constrained")
    axes = figure.subplots(len(panels) + bool(tasks), 1, sharex=True)
    axes[0].set(title=str(event))
    for ax, (name, values) in zip(axes, panels, strict=False):
        _line(ax, step, values[near], color=_COLORS[0])
        ax.set(ylabel=name, yscale="symlog" if np.any(values[near] <= 0) else "log")
        if ax.get_yscale() == "symlog":
            positive = values[near][values[near] > 0]
            ax.set_yscale("symlog", linthresh=max(float(positive.min(initial=1.0)), 1e-6))
    if tasks:
        for color, task in zip(_cycle(tasks), tasks, strict=True):
            axes[-1].plot(step, rows[f"auc/{task}"][near], color=color, label=task)
        axes[-1].set(ylabel="AUC")
        _legend(axes[-1])
    for ax in axes:
        ax.axvline(event.start, color="#d55e00", linewidth=0.8)
        ax.axvline(event.detected, color="#d55e00", linewidth=0.8, linestyle="--")
        ax.margins(x=0.01)
    axes[-1].set(xlabel="step (solid: start of the event, dashed: noticed)")
    return figure


def _sigma(rows: _Rows) -> Figure:
    means = {name: rows[f"sigma_mean/{name}"] for name in rows.names("sigma_mean")}
    clipped = sorted(
        (n for n, s in means.items() if np.nanmin(s) < 1.0), key=lambda n: np.nanmean(means[n])
    )
    # In the order of the network, its input first.
    shown = [name for name in means if name in clipped[:_LAYERS]]
    figure = Figure(figsize=(9, 4), layout="constrained")
    ax = figure.subplots()
    for color, name in zip(_cycle(shown), shown, strict=True):
        values = _running_median(np.where(means[name] > 0.0, means[name], np.nan))
        ax.plot(rows.step, values, color=color, label=name)
    if not shown:
        ax.axhline(1.0, color=_COLORS[0], label="all layers")
    title = f"Clipping factor by layer, mean of the layer, median of {_MEDIAN_OF} steps"
    if len(clipped) > _LAYERS:
        title += f"; the {_LAYERS} most clipped of {len(clipped)}"
    ax.set(xlabel="step", ylabel="sigma", yscale="log", title=title)
    _legend(ax)
    return figure


def _running_median(values: Floats) -> Floats:
    """Median of the `_MEDIAN_OF` steps around each, without those that are not finite."""
    finite = np.where(np.isfinite(values), values, np.nan)
    padded = np.pad(finite, _MEDIAN_OF // 2, constant_values=np.nan)
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(padded, _MEDIAN_OF), axis=1)
    count = np.sum(~np.isnan(windows), axis=1)
    return windows[np.arange(len(values)), np.maximum(count - 1, 0) // 2]


def _line(ax: Axes, step: Floats, values: Floats, **kwargs: Any) -> None:
    ax.plot(step, np.where(np.isfinite(values), values, np.nan), **kwargs)
    broken = step[~np.isfinite(values)]
    if len(broken):
        ax.plot(
            broken,
            np.full(len(broken), 0.98),
            "x",
            color="#d55e00",
            transform=ax.get_xaxis_transform(),
            label="not finite",
        )


def _shade(ax: Axes, event: DivergenceEvent, last_step: int) -> None:
    end = last_step if event.ended is None else event.ended
    color = "#e69f00" if event.kind in ("micro", "shift") else "#d55e00"
    ax.axvspan(event.start, max(end, event.start + 1), color=color, alpha=0.2, linewidth=0)


def _cycle(names: Sequence[str]) -> list[str]:
    return [_COLORS[i % len(_COLORS)] for i in range(len(names))]


def _legend(ax: Axes) -> None:
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110)
    return sink.getvalue()
