"""Which rule at which width, at full width on a GPU: `python -m experiments.widths --help`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.bench import RIVALS, Bench, Protocol, chosen, report_cells, search_cells
from experiments.table2 import MODELS, cell_of, count, paired, task_means
from schemas.training import PRESETS, Training
from trainer_module.optimizers import Clippy, Rule

GRIDS = {
    "adagrad": (*RIVALS, "layer_clippy", "unit_clippy", "fan_in_move", "relative_move"),
    "product": RIVALS,
}
"""What is searched on a base optimizer; on the others nothing is."""
SHOWN = {
    "none": "none",
    "gc": "GC",
    "agc": "AGC",
    "lamb": "LAMB",
    "clippy_paper": "Clippy of the paper",
    "fan_in_move": "fan_in_move",
    "unit_0.3": "Clippy by unit, 0.3",
    "unit_clippy": "Clippy by unit, 1",
    "unit_3": "Clippy by unit, 3",
    "unit_10": "Clippy by unit, 10",
}
"""What the page calls the rules."""
DRAWN = {
    "none": "#d55e00",
    "gc": "#009e73",
    "agc": "#e69f00",
    "lamb": "#cc79a7",
    "clippy_paper": "#56b4e9",
    "unit_3": "#0072b2",
}
"""The rules in the picture, and their colours; the last is what the picture is about."""
COMPARED = {name: SHOWN[name] for name in (*DRAWN, "unit_clippy") if name != "none"}
"""Rules that are compared seed by seed."""
UNITS: Mapping[str, Rule] = {
    "unit_0.3": Clippy(unit_threshold=0.3),
    "unit_clippy": Clippy(unit_threshold=1.0),
    "unit_3": Clippy(unit_threshold=3.0),
    "unit_10": Clippy(unit_threshold=10.0),
}
"""Reported whatever the search says of them."""
ADAGRAD = {"search": (0.1, 0.5), "report": (0.05, 0.1, 0.2, 0.5)}
RATES: Mapping[str, Mapping[str, Sequence[float]]] = {
    "adagrad": ADAGRAD,
    "product": ADAGRAD,
    "delayed": ADAGRAD,
    "adam": {"search": (0.001, 0.01), "report": (0.001, 0.003, 0.01, 0.03)},
}
"""Of the base optimizers of `replicas.BASES`. `adagrad` has the paper's accumulators and no
warm-up, `product` what the product does."""


def table(rows: Sequence[dict[str, Any]], rates: Sequence[float]) -> str:
    """Returns, by model, rule and rate, the AUC of the click in percent, and who diverged.

    Mean, standard deviation and number of the trainings; a star for each diverged one.
    """
    lines = [
        f"| model | rule | {' | '.join(map(str, rates))} | diverged |",
        f"| --- | --- |{' ---: |' * (len(rates) + 1)}",
    ]
    for model, model_name in MODELS.items():
        for rule, rule_name in SHOWN.items():
            cells = [cell_of(rows, model, rule, rate) for rate in rates]
            if not all(cells):
                continue
            texts = []
            for cell in cells:
                auc = 100 * np.array([row["metrics"]["click"] for row in cell])
                lost = "\\*" * sum(row["diverged"] for row in cell)
                spread = f" ± {np.std(auc, ddof=1):.2f}" if len(auc) > 1 else ""
                texts.append(f"{np.mean(auc):.2f}{spread} ({len(auc)}){lost}")
            all_of = count([row for cell in cells for row in cell], "diverged")
            lines.append(f"| {model_name} | {rule_name} | {' | '.join(texts)} | {all_of} |")
    return "\n".join(lines)


def searched(rows: Sequence[dict[str, Any]], rates: Sequence[float]) -> str:
    """Returns the AUC of the click of each threshold that was searched, as Markdown."""
    places = [(model, rate) for model in MODELS for rate in rates]
    lines = [
        f"| rule | thresholds | {' | '.join(f'{MODELS[m]}, {rate}' for m, rate in places)} |",
        f"| --- | --- |{' ---: |' * len(places)}",
    ]
    found: dict[tuple[str, str], dict[tuple[str, float], str]] = {}
    for row in rows:
        if row["stage"] == "search":
            numbers = [v for v in row["rule"].values() if v is not None and not isinstance(v, bool)]
            text = f"{100 * row['metrics']['click']:.2f}{chr(92) + '*' if row['diverged'] else ''}"
            key = (row["name"], ", ".join(map(str, numbers)))
            found.setdefault(key, {})[row["model"], row["rate"]] = text
    for (name, thresholds), cells in found.items():
        texts = " | ".join(cells.get(place, "") for place in places)
        lines.append(f"| {name} | {thresholds} | {texts} |")
    return "\n".join(lines)


LOWEST = 0.725
"""Where the picture ends; trainings that diverge are far below."""


def picture(rows: Sequence[dict[str, Any]], rates: Sequence[float]) -> Figure:
    """Draws the mean AUC of the click against the rate by model and rule.

    The deviation is of the trainings; it is drawn for the rule that the claim is about.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for ax, (model, title) in zip(figure.subplots(1, 3, sharey=True), MODELS.items(), strict=True):
        for rule, color in DRAWN.items():
            cells = [cell_of(rows, model, rule, rate) for rate in rates]
            aucs = [np.array([row["metrics"]["click"] for row in cell]) for cell in cells]
            means = np.array([np.mean(a) for a in aucs])
            means[means < LOWEST - 0.1] = np.nan
            bold = rule == list(DRAWN)[-1]
            spread = [np.std(a, ddof=1) for a in aucs] if bold else None
            ax.errorbar(
                rates,
                means,
                spread,
                color=color,
                label=SHOWN[rule],
                capsize=2,
                lw=2.5 if bold else 1.2,
                zorder=3 if bold else 2,
            )
        lost = [r["metrics"]["click"] for r in rows if _lost(r, model)]
        text = f"none: {min(lost):.2f} to {max(lost):.2f} where diverged"
        ax.text(0.02, 0.02, text, color=DRAWN["none"], transform=ax.transAxes, fontsize=8)
        ax.set(xscale="log", title=title, xlabel="learning rate", ylim=(LOWEST, 0.742))
        ax.set_xticks(rates, [str(rate) for rate in rates])
        ax.minorticks_off()
    figure.axes[0].set(ylabel="AUC of the click on the next day")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    return figure


def _lost(row: dict[str, Any], model: str) -> bool:
    own = (row["stage"], row["model"], row["name"]) == ("report", model, "none")
    return own and row["diverged"]


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="of examples.kuairand.arrays; without it nothing is trained")
    parser.add_argument("--output", required=True, help="JSON lines; added to")
    parser.add_argument("--base", default="adagrad", choices=RATES)
    parser.add_argument("--models", nargs="+", default=list(MODELS)[::-1], choices=MODELS)
    parser.add_argument("--rules", nargs="+", default=list(SHOWN), choices=SHOWN)
    parser.add_argument("--rates", nargs="+", type=float, help="of the report, in place of all")
    parser.add_argument("--seeds", type=int, default=10, help="of every cell")
    parser.add_argument("--search-seeds", nargs="+", type=int, default=[101])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps-a-day", type=int, default=64)
    parser.add_argument("--replicas", type=int, default=8, help="trained together")
    parser.add_argument("--until", type=float, default=float("inf"), help="seconds")
    parser.add_argument("--picture", help="PNG file to write")
    options = parser.parse_args()
    rates = options.rates or RATES[options.base]["report"]
    if options.data:
        train(options, rates)
    with open(options.output, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    print(f"## Search\n\n{searched(rows, RATES[options.base]['search'])}\n")
    print(f"## Report\n\n{table(rows, rates)}\n")
    rule = list(DRAWN)[-1]
    tasks = rows[0]["metrics"]
    for rate in rates:
        print(f"## All tasks at {rate}\n\n{task_means(rows, SHOWN, rate)}\n")
        print(f"{SHOWN[rule]}, against each:\n\n{paired(rows, tasks, [rate], rule, COMPARED)}\n")
    if options.picture:
        picture(rows, rates).savefig(options.picture, dpi=110)


def train(options: argparse.Namespace, rates: Sequence[float]) -> None:
    """Does the trainings that the output lacks, until there is no time left."""
    protocol = Protocol(
        models={name: PRESETS[name] for name in options.models},
        rates=RATES[options.base],
        batch=options.batch,
        steps_a_day=options.steps_a_day,
        grids=GRIDS.get(options.base, ()),
        unsearched=("small",),
        base=options.base,
        warm_up=Training().warmup_steps if options.base == "product" else 0,
    )
    bench = Bench(protocol, options.data, options.output, options.replicas)
    bench.do(search_cells(protocol, options.search_seeds, bench.n), options.until)

    def rules_of(model: str) -> Mapping[str, Rule]:
        known = {**chosen(bench.rows, model), **UNITS}
        return {name: known[name] for name in options.rules if name in known}

    for name in protocol.models:
        print(name, rules_of(name), flush=True)
    seeds = range(1, options.seeds + 1)
    bench.do(report_cells(protocol, rules_of, seeds, bench.n, rates), options.until)


if __name__ == "__main__":
    main()
