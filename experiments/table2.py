"""Table 2 of arXiv 2302.09178 on real logs, small enough for a CPU.

    python -m examples.kuairand.arrays --source DIR --output FILE.npz --set ...
    python -m experiments.table2 --data FILE.npz --output ROWS.jsonl

Protocol, logs and metric are `experiments.bench`'s; `--set` takes `experiments.SMALL_TABLES`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import SMALL_TABLES
from experiments.bench import (
    FIXED,
    SMOOTHED,
    Bench,
    Protocol,
    chosen,
    report_cells,
    search_cells,
)
from experiments.rules import FanInMove, LayerClippy
from schemas.training import Architecture
from trainer_module.optimizers import AdaptiveGradientClipping, GradientClipping, Lamb, Rule
from trainer_module.risk.stable_rate import wilson_interval

CPU = Protocol(
    models={
        "small": Architecture(shared=(64, 64)),
        "large": Architecture(shared=(256,) * 4),
        "large_dcn": Architecture(shared=(256,) * 4, cross_layers=1),
    },
    rates={"search": (0.25, 0.5), "report": (0.25, 0.5)},
    batch=128,
    steps_a_day=16,
    grids=("gc", "agc", "lamb", "layer_clippy", "fan_in_move"),
    unsearched=("small", "large_dcn"),
    overrides=SMALL_TABLES,
)
"""The paper's three models at an eighth and a sixteenth of its widths."""
UNSEARCHED: dict[str, Rule] = {
    "none": FIXED["none"],
    "clippy_paper": FIXED["clippy_paper"],
    "gc": GradientClipping(),
    "agc": AdaptiveGradientClipping(),
    "lamb": Lamb(),
    "layer_clippy": LayerClippy(),
    "fan_in_move": FanInMove(),
}
"""Every rule as it is by default: nobody has a search."""
SEARCH_SEED = 101
CLAIMED = ("none", "clippy_paper")


SHOWN = {
    "none": "none",
    "gc": "GC",
    "agc": "AGC",
    "lamb": "LAMB",
    "clippy_paper": "Clippy",
    "layer_clippy": "layer_clippy",
    "fan_in_move": "fan_in_move",
}
"""What the page calls the rules."""
MODELS = {"small": "Small", "large": "Large", "large_dcn": "Large+DCN"}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the reported trainings as Markdown, a line for each model, rule and rate.

    AUC in percent with its standard deviation over the seeds; with each count its 95 % Wilson
    interval in percent.
    """
    lines = [
        "| model | rule | rate | seeds | AUC of the click | lowest | diverged | jumped |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model, model_name in MODELS.items():
        for rule, rule_name in SHOWN.items():
            for rate in CPU.rates["report"]:
                cell = [
                    row
                    for row in rows
                    if (row["stage"], row["model"], row["name"], row["rate"])
                    == ("report", model, rule, rate)
                ]
                if not cell:
                    continue
                auc = 100 * np.array([row["metrics"]["click"] for row in cell])
                spread = f" ± {np.std(auc, ddof=1):.2f}" if len(cell) > 1 else ""
                lines.append(
                    f"| {model_name} | {rule_name} | {rate} | {len(cell)}"
                    f" | {np.mean(auc):.2f}{spread} | {np.min(auc):.2f}"
                    f" | {_count(cell, 'diverged')} | {_count(cell, 'jumped')} |"
                )
    return "\n".join(lines)


def _count(cell: Sequence[dict[str, Any]], what: str) -> str:
    found = sum(row[what] for row in cell)
    low, high = wilson_interval(found, len(cell))
    return f"{found} ({100 * low:.0f} to {100 * high:.0f})"


def picture(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draws each seed's loss and next-day AUC, of no treatment and of Clippy at the higher rate."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    rate = CPU.rates["report"][-1]
    axes = figure.subplots(2, len(MODELS), sharey="row")
    colors = {"none": "#d55e00", "clippy_paper": "#0072b2"}
    for (model, title), (top, bottom) in zip(MODELS.items(), axes.T, strict=True):
        for place, (rule, color) in enumerate(colors.items()):
            cell = [
                row
                for row in rows
                if (row["stage"], row["model"], row["name"], row["rate"])
                == ("report", model, rule, rate)
            ]
            for number, row in enumerate(cell):
                steps = SMOOTHED * (1 + np.arange(len(row["curve"])))
                label = {"none": "no treatment", "clippy_paper": "Clippy"}[rule]
                top.plot(steps, row["curve"], color=color, lw=0.7, label=None if number else label)
            auc = [row["metrics"]["click"] for row in cell]
            x = place + np.linspace(-0.25, 0.25, len(auc))
            bottom.plot(x, auc, "o", color=color, markersize=4, alpha=0.7)
        top.set(title=title, yscale="log", xlabel="step")
        bottom.set_xticks([0, 1], ["no treatment", "Clippy"])
        bottom.axhline(0.5, color="#999999", lw=0.8, ls=":")
    axes[0, 0].set(ylabel=f"loss, largest of {SMOOTHED} steps")
    axes[1, 0].set(ylabel="AUC of the click, next day")
    axes[0, 0].legend(frameon=False)
    seeds = len({row["seed"] for row in rows if row["stage"] == "report"})
    figure.suptitle(
        f"KuaiRand-Pure, Adagrad at learning rate {rate}: one line or dot a training, {seeds} seeds"
    )
    return figure


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="of examples.kuairand.arrays; without it nothing is trained")
    parser.add_argument("--output", required=True, help="JSON lines; added to")
    parser.add_argument("--search", action="store_true", help="search thresholds first")
    parser.add_argument("--seeds", type=int, default=12, help="of every cell")
    parser.add_argument(
        "--claimed-seeds", type=int, default=32, help=f"of {', '.join(CLAIMED)} at the higher rate"
    )
    parser.add_argument("--replicas", type=int, default=8, help="trained together")
    parser.add_argument("--picture", help="PNG file of the trainings without treatment and Clippy")
    options = parser.parse_args()
    if options.data:
        train(options)
    with open(options.output, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    print(table(rows))
    if options.picture:
        picture(rows).savefig(options.picture, dpi=110)


def train(options: argparse.Namespace) -> None:
    """Does the trainings that the output lacks."""
    bench = Bench(CPU, options.data, options.output, options.replicas)
    if options.search:
        bench.do(search_cells(CPU, [SEARCH_SEED], bench.n))

    def rules_of(model: str) -> Mapping[str, Rule]:
        return chosen(bench.rows, model) if options.search else UNSEARCHED

    def claimed(model: str) -> Mapping[str, Rule]:
        return {name: rules_of(model)[name] for name in CLAIMED}

    seeds = range(1, options.claimed_seeds + 1)
    bench.do(report_cells(CPU, rules_of, seeds[: options.seeds], bench.n))
    more = seeds[options.seeds :]
    bench.do(report_cells(CPU, claimed, more, bench.n, CPU.rates["report"][1:]))


if __name__ == "__main__":
    main()
