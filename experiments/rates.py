"""Next-day AUC against the learning rate, without treatment and with a rule, on real logs.

    python -m experiments.rates --data FILE.npz --output ROWS.jsonl --picture FILE.png

Protocol, logs and metric are `experiments.bench`'s, the models `experiments.table2`'s.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.bench import AGC, FIXED, GC, Bench, Protocol, cells_of
from experiments.table2 import CPU, MODELS
from trainer_module.optimizers import Lamb, Rule

ADAGRAD = (0.05, 0.1, 0.2, 0.5, 1.0)
RATES = {
    "adagrad": ADAGRAD,
    "delayed": ADAGRAD,
    "adam": (0.001, 0.003, 0.01, 0.03, 0.1),
}
"""By base optimizer."""
TITLES = {"adagrad": "Adagrad", "delayed": "Adagrad, delayed", "adam": "Adam"}
RULES: dict[str, tuple[str, str, Rule]] = {
    "none": ("no treatment", "#d55e00", FIXED["none"]),
    "gc": ("GC 0.1", "#009e73", GC(0.1)),
    "agc": ("AGC 0.01", "#e69f00", AGC(0.01)),
    "lamb": ("LAMB 0.01", "#cc79a7", Lamb(0.01)),
    "clippy_paper": ("Clippy", "#0072b2", FIXED["clippy_paper"]),
}
"""Title, colour and the rule; Clippy is the paper's, the others have the product's defaults."""


def protocol_of(base: str, rates: Sequence[float]) -> Protocol:
    """Returns what is trained with a base optimizer."""
    return Protocol(
        models=CPU.models, rates={"search": rates}, batch=256, steps_a_day=32, base=base
    )


def chosen(rows: Sequence[dict[str, Any]], model: str, rule: str, rate: float) -> list[Any]:
    """Returns the trainings of a model, rule and rate, in order of the seeds."""
    found = [r for r in rows if (r["model"], r["name"], r["rate"]) == (model, rule, rate)]
    return sorted(found, key=lambda row: row["seed"])


def table(rows: Sequence[dict[str, Any]], rates: Sequence[float]) -> str:
    """Returns each training's AUC of the click as Markdown; a star marks a diverged one."""
    lines = [
        "| model | rule | " + " | ".join(f"rate {rate}" for rate in rates) + " |",
        "| --- | --- |" + " ---: |" * len(rates),
    ]
    for model, model_name in MODELS.items():
        for rule, (rule_name, *_) in RULES.items():
            cells = [
                " / ".join(
                    f"{row['metrics']['click']:.4f}{'*' * row['diverged']}"
                    for row in chosen(rows, model, rule, rate)
                )
                for rate in rates
            ]
            if any(cells):
                lines.append(f"| {model_name} | {rule_name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(rows: Sequence[dict[str, Any]], rates: Sequence[float], base: str) -> Figure:
    """Draws AUC against the rate, a point for each training and a line through the means."""
    shown = {m: title for m, title in MODELS.items() if any(r["model"] == m for r in rows)}
    figure = Figure(figsize=(3.6 * len(shown) + 1, 3.6), layout="constrained")
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for ax, (model, title) in zip(axes, shown.items(), strict=True):
        for rule, (label, color, _) in RULES.items():
            cells = {rate: chosen(rows, model, rule, rate) for rate in rates}
            points = [(x, r["metrics"]["click"]) for x, cell in cells.items() for r in cell]
            if not points:
                continue
            ax.plot(*zip(*points, strict=True), "o", color=color, markersize=4, alpha=0.6)
            means = [
                (x, np.mean([r["metrics"]["click"] for r in cell]))
                for x, cell in cells.items()
                if cell
            ]
            ax.plot(*zip(*means, strict=True), color=color, label=label)
        ax.axhline(0.5, color="#999999", lw=0.8, ls=":")
        ax.set(xscale="log", title=title, xlabel="learning rate")
        ax.set_xticks(rates, [f"{rate:g}" for rate in rates], fontsize=8)
        ax.minorticks_off()
    axes[0].set(ylabel="AUC of the click, next day")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.suptitle(f"KuaiRand-Pure, {TITLES[base]}")
    return figure


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", required=True, help="JSON lines; added to")
    parser.add_argument("--data", help="of examples.kuairand.arrays; without it nothing is trained")
    parser.add_argument("--picture", help="PNG file to write")
    parser.add_argument("--base", default="adagrad", choices=RATES)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rules", nargs="+", default=["none", "clippy_paper"], choices=RULES)
    parser.add_argument("--rates", nargs="+", type=float, help="in place of the base's")
    parser.add_argument("--seeds", nargs="+", type=int, default=[101, 102])
    options = parser.parse_args()
    rates = options.rates or RATES[options.base]
    if options.data:
        protocol = protocol_of(options.base, rates)
        bench = Bench(protocol, options.data, options.output, replicas=len(rates))
        bench.do(
            [
                cell
                for seed in options.seeds
                for model in options.models
                for rule in options.rules
                for cell in cells_of(
                    model, rule, [RULES[rule][-1]], "search", rates, [seed], len(rates)
                )
            ]
        )
    with open(options.output, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows = [row for row in rows if row.get("base", "adagrad") == options.base]
    print(table(rows, rates))
    if options.picture:
        picture(rows, rates, options.base).savefig(options.picture, dpi=110)


if __name__ == "__main__":
    main()
