"""Figures 1, 3 to 6 and 8 of arXiv:2302.09178: `python -m experiments.figures --help`.

Figure 3 needs no data. The others train one of `table2`'s models (KuaiRand-Pure) and watch it.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.bench import FIXED, GRIDS, Bench
from experiments.replicas import CHUNKS, Setting
from experiments.table2 import CPU, MODELS
from trainer_module.metrics import auc
from trainer_module.optimizers import (
    AdaptiveGradientClipping,
    Clippy,
    GradientClipping,
    Rule,
    Step,
    l2_norm,
)

EIGENVALUES = np.array([20.0, 1.0])
ACCUMULATOR, EPSILON = 0.1, 1e-7
"""Adagrad's, as the trainings have them."""
WOULD_HAVE = {
    "GC 0.1": GradientClipping(),
    "AGC 0.01": AdaptiveGradientClipping(),
    "Clippy": Clippy(),
}
DELAYED = "Clippy, delayed"
"""Clippy on the direction that the accumulator of the step before gives."""
COLORS = {
    "none": "#d55e00",
    "GC 0.1": "#009e73",
    "AGC 0.01": "#e69f00",
    "Clippy": "#0072b2",
    DELAYED: "#56b4e9",
}
SHOWN_LAYERS = ("shared-0/kernel", "head-click/kernel", "head-play_time/kernel")
"""Of Figure 8: the bottom layer, the head of a binary task and that of a regression."""
DIVERGES = 9
"""Seed of Figure 1, whose training without treatment comes back at the lower rate."""
DAY = 13
"""The day that is evaluated on; the last."""


def quadratic(rates: Sequence[float] = (0.05, 0.099, 0.101, 0.12), steps: int = 60) -> Any:
    """Descends f(w) = sum_i eigenvalue_i w_i^2 / 2 from (1, 1), plainly and with Clippy (Fig. 3).

    Returns:
        f after each step, by rule and rate.
    """
    found: dict[str, dict[str, list[float]]] = {"none": {}, "Clippy": {}}
    for name, curves in found.items():
        for rate in rates:
            w, curve = np.ones(2), []
            for _ in range(steps):
                g = EIGENVALUES * w
                parts = (jnp.asarray(x, jnp.float32) for x in (w, g, g, np.ones(2), rate))
                sigma = 1.0 if name == "none" else float(Clippy().factor(Step(*parts)))
                w = w - rate * sigma * g
                curve.append(float(EIGENVALUES @ np.square(w) / 2))
            curves[str(rate)] = curve
    return found


def draw_quadratic(found: Any) -> Figure:
    """Draws `quadratic`."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for ax, (name, curves) in zip(figure.subplots(1, 2, sharey=True), found.items(), strict=True):
        for rate, curve in curves.items():
            ax.plot(1 + np.arange(len(curve)), curve, label=f"rate {rate}")
        ax.set(yscale="log", xlabel="step", title="gradient descent" if name == "none" else name)
    figure.axes[0].set(ylabel="f")
    figure.axes[0].legend(frameon=False)
    figure.suptitle("Eigenvalues 20 and 1: 2 / rate is under 20 from a rate of 0.1 on")
    return figure


class Watch:
    """What rules would have given at the steps of a training, whatever rule it has."""

    def __init__(self, layers: Sequence[str], rate: float) -> None:
        """Watches all layers but the embeddings; `rate` is the training's."""
        self.layers = [name for name in layers if "embedding" not in name]
        self._places = [n for n, name in enumerate(layers) if name in self.layers]
        self._totals: list[Any] | None = None
        self._look = jax.jit(functools.partial(_look, rate))
        self.seen: list[dict[str, Any]] = []

    def __call__(self, number: int, weights: Any, gradients: Any) -> None:
        """Looks at a step of the first replica before it is taken."""
        w = [weights[n][0] for n in self._places]
        g = [gradients[n][0] for n in self._places]
        if self._totals is None:
            self._totals = [jnp.full_like(x, ACCUMULATOR) for x in w]
        self._totals, seen = self._look(self._totals, w, g)
        self.seen.append(seen)

    def columns(self) -> dict[str, np.ndarray]:
        """Returns, by what was seen, float [steps, layers]."""
        return {
            name: np.asarray(jnp.stack([jnp.stack(step[name]) for step in self.seen]))
            for name in self.seen[0]
        }


def _look(rate: float, totals: Any, weights: Any, gradients: Any) -> Any:
    names = ("gradient norm", "weight norm", *WOULD_HAVE, DELAYED)
    after, seen = [], {name: [] for name in names}
    eta = jnp.float32(rate)
    for total, w, g in zip(totals, weights, gradients, strict=True):
        after.append(total + jnp.square(g))
        p = jax.lax.rsqrt(after[-1] + EPSILON)
        seen["gradient norm"].append(l2_norm(g))
        seen["weight norm"].append(l2_norm(w))
        for name, rule in WOULD_HAVE.items():
            seen[name].append(rule.factor(Step(w, g, g * p, p, eta)))
        before = jax.lax.rsqrt(total + EPSILON)
        seen[DELAYED].append(Clippy().factor(Step(w, g, g * before, before, eta)))
    return after, seen


class Watched:
    """Trains one model of `table2`, one training at a time."""

    def __init__(self, data: str, model: str, seed: int) -> None:
        """Reads the data.

        Args:
            data: of `examples.kuairand.arrays`, with `SMALL_TABLES`.
            model: one of table2's.
            seed: of the initial weights and of the order.
        """
        self._bench = Bench(CPU, data, os.devnull, replicas=1)
        self._own = self._bench.trainings[model]
        self._seed = seed
        days = self._bench.day
        rows = np.flatnonzero(days == DAY)
        self._rows = rows[: len(rows) // CHUNKS * CHUNKS]
        labels = np.asarray(self._own.log.columns["labels"])[self._rows]
        self._click = labels[:, self._own.log.tasks.index("click")]

    def train(self, rule: Rule, rate: float, watch: Callable[[int, Any, Any], None]) -> list[float]:
        """Trains up to the last day; returns the loss of each step."""
        settings = [Setting(rule, rate, self._seed)]
        self._own.prepare(settings, self._bench.compiling)
        order = self._bench.order(DAY, self._seed)
        done = self._own.train(settings, {self._seed: order}, self._rows, watch=watch)
        return [float(x) for x in done["loss"][:, 0]]

    def factors(self, rule: Rule, rate: float) -> dict[str, Any]:
        """Trains; returns losses, layers and what `Watch` saw."""
        watch = Watch(self._own.layers, rate)
        loss = self.train(rule, rate, watch)
        return {"loss": loss, "layers": watch.layers, **watch.columns()}

    def auc_over_training(self, rule: Rule, rate: float, every: int) -> dict[str, list[float]]:
        """Trains; returns each step's loss, and the AUC of the click on the last day.

        The AUC is that before every so many steps.
        """
        found: dict[str, list[float]] = {"step": [], "auc": []}
        task = self._own.log.tasks.index("click")

        def watch(number: int, weights: Any, gradients: Any) -> None:
            if number % every == 0:
                output = self._own.predict(weights, self._rows)[0, :, task]
                found["step"].append(number)
                found["auc"].append(auc(self._click, output.astype(np.float64)))

        return {**found, "loss": self.train(rule, rate, watch)}


def draw_divergences(found: dict[str, dict[str, dict[str, list[float]]]], title: str) -> Figure:
    """Draws loss and next-day AUC over training, by rate and rule (Fig. 1)."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(2, len(found), sharex=True, sharey="row", squeeze=False)
    for column, (rate, curves) in enumerate(found.items()):
        for name, curve in curves.items():
            own = {"color": COLORS[name], "label": name}
            axes[0, column].plot(1 + np.arange(len(curve["loss"])), curve["loss"], **own)
            axes[1, column].plot(curve["step"], curve["auc"], **own)
        axes[0, column].set(yscale="log", title=f"rate {rate}")
        axes[1, column].axhline(0.5, color="#999999", lw=0.8, ls=":")
        axes[1, column].set(xlabel="step")
    axes[0, 0].set(ylabel="loss")
    axes[1, 0].set(ylabel="AUC of the click, last day")
    axes[1, 0].legend(frameon=False, loc="lower right")
    figure.suptitle(title)
    return figure


def draw_factors(seen: dict[str, Any], title: str) -> Figure:
    """Draws loss, gradient norm and the factors that rules would have given (Fig. 4)."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    steps = 1 + np.arange(len(seen["loss"]))
    axes[0].plot(steps, seen["loss"], color=COLORS["none"])
    axes[1].plot(steps, np.linalg.norm(seen["gradient norm"], axis=1), color=COLORS["none"])
    for name in (*WOULD_HAVE, DELAYED):
        axes[2].plot(steps, np.min(seen[name], axis=1), color=COLORS[name], label=name, lw=0.9)
    for ax, label in zip(axes, ("loss", "gradient norm", "smallest sigma of a layer"), strict=True):
        ax.set(xscale="log", yscale="log", ylabel=label)
    axes[2].legend(frameon=False)
    axes[2].set(xlabel="step")
    axes[0].set(title=title)
    return figure


def draw_layers(seen: dict[str, Any], title: str) -> Figure:
    """Draws the factors that rules would have given the bottom layer and two heads (Fig. 8)."""
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    steps = 1 + np.arange(len(seen["loss"]))
    axes = figure.subplots(1, len(SHOWN_LAYERS), sharey=True)
    for ax, layer in zip(axes, SHOWN_LAYERS, strict=True):
        number = seen["layers"].index(layer)
        for name in (*WOULD_HAVE, DELAYED):
            values = np.asarray(seen[name])[:, number]
            ax.plot(steps, values, color=COLORS[name], label=name, lw=0.9)
        ax.set(xscale="log", yscale="log", xlabel="step", title=layer.removesuffix("/kernel"))
    axes[0].set(ylabel="sigma")
    axes[-1].legend(frameon=False, fontsize="small")
    figure.suptitle(title)
    return figure


def draw_sigma(seen: dict[str, Any], title: str) -> Figure:
    """Draws Clippy's factor of the kernels over its training (Fig. 6)."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    ax = figure.subplots()
    for number, name in enumerate(seen["layers"]):
        if name.endswith("kernel") and (
            not name.startswith("head-") or name in ("head-click/kernel", "head-play_time/kernel")
        ):
            values = seen["Clippy"][:, number]
            smooth = np.convolve(values, np.ones(16) / 16, "valid")
            ax.plot(np.arange(len(smooth)) + 8, smooth, label=name.removesuffix("/kernel"))
    ax.set(yscale="log", ylabel="sigma, mean of 16 steps", xlabel="step", title=title)
    ax.legend(frameon=False, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    return figure


def draw_auc(found: dict[str, dict[str, dict[str, list[float]]]], title: str) -> Figure:
    """Draws AUC on the last day over training, by rate and rule (Fig. 5)."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True)
    for ax, (rate, curves) in zip(axes, found.items(), strict=True):
        for name, curve in curves.items():
            ax.plot(curve["step"], curve["auc"], color=COLORS[name], label=name, marker=".")
        ax.axhline(0.5, color="#999999", lw=0.8, ls=":")
        ax.set(xlabel="step", title=f"rate {rate}")
    axes[0].set(ylabel="AUC of the click, last day")
    axes[0].legend(frameon=False, loc="center right", bbox_to_anchor=(1.0, 0.65))
    figure.suptitle(title)
    return figure


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", required=True, help="folder for PNG and JSON files")
    parser.add_argument("--data", help="of examples.kuairand.arrays; without it Figure 3 only")
    parser.add_argument("--model", default="large_dcn", choices=list(CPU.models))
    parser.add_argument("--rate", type=float, default=CPU.rates["report"][-1])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=16, help="steps between AUCs of Figure 5")
    options = parser.parse_args()

    def keep(name: str, content: dict[str, Any], figure: Figure) -> None:
        path = os.path.join(options.output, name)
        figure.savefig(f"{path}.png", dpi=110)
        with open(f"{path}.json", "w", encoding="utf-8") as file:
            json.dump(_rounded(content), file)
            file.write("\n")
        print(name, flush=True)

    descents = quadratic()
    keep("figure-3", descents, draw_quadratic(descents))
    if not options.data:
        return
    small = Watched(options.data, "small", DIVERGES)
    pair = {"none": FIXED["none"], "Clippy": FIXED["clippy_paper"]}
    curves = {
        str(rate): {n: small.auc_over_training(rule, rate, every=4) for n, rule in pair.items()}
        for rate in CPU.rates["report"]
    }
    keep("figure-1", curves, draw_divergences(curves, f"{MODELS['small']}, seed {DIVERGES}"))
    watched = Watched(options.data, options.model, options.seed)
    seeded = f"{MODELS[options.model]}, seed {options.seed}"
    title = f"{seeded}, rate {options.rate}"
    seen = watched.factors(FIXED["none"], options.rate)
    keep("figure-4", seen, draw_factors(seen, f"No treatment: {title}"))
    figure = draw_layers(seen, f"No treatment: {title}")
    figure.savefig(os.path.join(options.output, "figure-8.png"), dpi=110)
    seen = watched.factors(FIXED["clippy_paper"], options.rate)
    drawn = {name: seen[name] for name in ("layers", "Clippy")}
    keep("figure-6", drawn, draw_sigma(seen, f"Clippy's sigma by layer: {title}"))
    rules = {
        "none": FIXED["none"],
        "GC 0.1": GRIDS["gc"][1],
        "AGC 0.01": GRIDS["agc"][1],
        "Clippy": FIXED["clippy_paper"],
    }
    curves = {
        str(rate): {
            name: watched.auc_over_training(rule, rate, options.every)
            for name, rule in rules.items()
        }
        for rate in CPU.rates["report"]
    }
    keep("figure-5", curves, draw_auc(curves, seeded))


def _rounded(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _rounded(value) for name, value in content.items()}
    if isinstance(content, np.ndarray):
        return _rounded(content.tolist())
    if isinstance(content, list):
        return [_rounded(value) for value in content]
    if isinstance(content, float):
        return float(f"{content:.3g}") if np.isfinite(content) else None
    return content


if __name__ == "__main__":
    main()
