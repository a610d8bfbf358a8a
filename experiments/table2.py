"""Table 2 of arXiv 2302.09178 on real logs, small enough for a CPU.

    python -m examples.kuairand.arrays --source DIR --output FILE.npz --set ...
    python -m experiments.table2 --data FILE.npz --output ROWS.jsonl

Protocol, logs and metric are `experiments.bench`'s; `--set` takes `experiments.SMALL_TABLES`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments import SMALL_TABLES
from experiments.bench import (
    GRIDS,
    SMOOTHED,
    Bench,
    Protocol,
    chosen,
    report_cells,
    search_cells,
    spec_of,
)
from schemas.tasks import BinaryTask
from schemas.training import Architecture
from trainer_module.optimizers import (
    AdaGC,
    AdaptiveGradientClipping,
    Clippy,
    GlobalClippy,
    GradientClipping,
    Lamb,
    Rule,
    ZClip,
)

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
DEFAULTS: dict[str, Rule] = {
    "gc_default": GradientClipping(),
    "agc_default": AdaptiveGradientClipping(),
    "lamb_default": Lamb(),
    "global_clippy": GlobalClippy(),
    "adagc": AdaGC(),
    "zclip": ZClip(),
    "unit_clippy": Clippy(unit_threshold=1.0),
    "unit_3": Clippy(unit_threshold=3.0),
}
"""Rules that had no search here, like Clippy: with the product's defaults, and Clippy by unit."""
SEARCH_SEED = 101
CLAIMED = ("none", "clippy_paper", "gc", "agc", "lamb", "fan_in_move", *DEFAULTS)
"""Rules of which a claim is made at the higher rate."""
SHOWN = {
    "none": "none",
    "gc": "GC",
    "agc": "AGC",
    "lamb": "LAMB",
    "clippy_paper": "Clippy",
    "layer_clippy": "layer_clippy",
    "fan_in_move": "fan_in_move",
    "gc_default": "GC 0.1",
    "agc_default": "AGC 0.01",
    "lamb_default": "LAMB 0.01",
    "global_clippy": "one Clippy factor for all layers",
    "adagc": "AdaGC",
    "zclip": "ZClip",
    "unit_clippy": "Clippy by unit, 1",
    "unit_3": "Clippy by unit, 3",
}
"""What the page calls the rules."""
MODELS = {"small": "Small", "large": "Large", "large_dcn": "Large+DCN"}
HIGHER = CPU.rates["report"][-1]
"""The rate that most of the claims are about."""


def cell_of(
    rows: Sequence[dict[str, Any]], model: str, rule: str, rate: float
) -> list[dict[str, Any]]:
    """Returns the reported trainings of a model, a rule and a rate, in order of the seeds."""
    wanted = ("report", model, rule, rate)
    found = [r for r in rows if (r["stage"], r["model"], r["name"], r["rate"]) == wanted]
    return sorted(found, key=lambda row: row["seed"])


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
                cell = cell_of(rows, model, rule, rate)
                if not cell:
                    continue
                auc = 100 * np.array([row["metrics"]["click"] for row in cell])
                spread = f" ± {np.std(auc, ddof=1):.2f}" if len(cell) > 1 else ""
                lines.append(
                    f"| {model_name} | {rule_name} | {rate} | {len(cell)}"
                    f" | {np.mean(auc):.2f}{spread} | {np.min(auc):.2f}"
                    f" | {count(cell, 'diverged')} | {count(cell, 'jumped')} |"
                )
    return "\n".join(lines)


def count(cell: Sequence[dict[str, Any]], what: str) -> str:
    """Returns how many of the trainings diverged or jumped, with the Wilson interval in percent."""
    found = sum(row[what] for row in cell)
    low, high = 100 * np.array(stats.binomtest(found, len(cell)).proportion_ci(method="wilson"))
    return f"{found} ({low:.0f} to {high:.0f})"


def task_means(
    rows: Sequence[dict[str, Any]], shown: Mapping[str, str] = SHOWN, rate: float = HIGHER
) -> str:
    """Returns each task's mean AUC, in percent, or RMSE at a rate, as Markdown; `shown` by rule."""
    tasks = spec_of(CPU, "small").tasks
    lines = [
        f"| model | rule | {' | '.join(tasks)} |",
        f"| --- | --- |{' ---: |' * len(tasks)}",
    ]
    for model, model_name in MODELS.items():
        for rule, rule_name in shown.items():
            cell = cell_of(rows, model, rule, rate)
            if not cell:
                continue
            means = [
                f"{100 * mean:.2f}" if isinstance(task, BinaryTask) else f"{mean:.4g}"
                for name, task in tasks.items()
                for mean in [np.mean([row["metrics"][name] for row in cell])]
            ]
            lines.append(f"| {model_name} | {rule_name} | {' | '.join(means)} |")
    return "\n".join(lines)


def paired(
    rows: Sequence[dict[str, Any]],
    tasks: Sequence[str],
    rates: Sequence[float],
    name: str = "clippy_paper",
    names: Mapping[str, str] = SHOWN,
) -> str:
    """Returns by how much a rule beats each other on the same seeds, as Markdown.

    A seed is the initial weights and the order of the data. Mean difference of the AUC in percent,
    or of the RMSE times -100, so that above zero the rule is better, with the half width of its
    95 % Student interval. A star: the interval leaves zero out. Two: so does that of 95 % over all
    comparisons of the table together (Bonferroni).
    """
    declared = spec_of(CPU, "small").tasks
    rules = [rule for rule in names if rule != name]
    lines = [
        f"| task | model | rate | {' | '.join(names[rule] for rule in rules)} |",
        f"| --- | --- | ---: |{' ---: |' * len(rules)}",
    ]
    at = [(task, model, rate) for task in tasks for model in MODELS for rate in rates]
    for task, model, rate in at:
        sign = 100.0 if isinstance(declared[task], BinaryTask) else -100.0
        own = {r["seed"]: r["metrics"][task] for r in cell_of(rows, model, name, rate)}
        texts = []
        for rule in rules:
            others = {r["seed"]: r["metrics"][task] for r in cell_of(rows, model, rule, rate)}
            gains = sign * np.array([own[seed] - x for seed, x in others.items() if seed in own])
            texts.append(_difference(gains, len(at) * len(rules)))
        if any(texts):
            lines.append(f"| {task} | {MODELS[model]} | {rate} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _difference(gains: np.ndarray, comparisons: int) -> str:
    if len(gains) < 2:
        return ""
    n, mean = len(gains), np.mean(gains)
    error = np.std(gains, ddof=1) / np.sqrt(n)
    half, wide = (error * stats.t.ppf(1 - 0.025 / k, n - 1) for k in (1, comparisons))
    stars = "\\*" * (int(abs(mean) > half) + int(abs(mean) > wide))
    return f"{mean:+.2f} ± {half:.2f}{stars}"


def after_jumps(rows: Sequence[dict[str, Any]], task: str) -> str:
    """Says how good trainings that jumped and did not diverge are, beside others of their cell.

    The task's AUC against whether the loss jumped, and against the power of ten that it rose to,
    by least squares with a mean for each model, rule and rate; 95 % Student intervals.
    """
    jumped, decades, aucs, cells = [], [], [], 0
    for model in MODELS:
        for rule in SHOWN.keys() - DEFAULTS:  # some of which a search chose, too
            for rate in CPU.rates["report"]:
                cell = [r for r in cell_of(rows, model, rule, rate) if not r["diverged"]]
                if len(cell) < 2:
                    continue
                cells += 1
                for values, found in (
                    (jumped, [float(r["jumped"]) for r in cell]),
                    (decades, [np.log10(r["loss_largest"] / r["loss_first"]) for r in cell]),
                    (aucs, [100 * r["metrics"][task] for r in cell]),
                ):
                    values += list(np.array(found) - np.mean(found))
    lines = [f"AUC of {task}, {len(aucs)} trainings that did not diverge, in {cells} cells:", ""]
    y = np.array(aucs)
    for name, values in (("having jumped", jumped), ("tenfold higher largest loss", decades)):
        x = np.array(values)
        slope = x @ y / (x @ x)
        freedom = len(y) - cells - 1
        error = np.sqrt(np.sum(np.square(y - slope * x)) / freedom / (x @ x))
        lines.append(f"- {name}: {slope:+.2f} ± {error * stats.t.ppf(0.975, freedom):.2f}")
    return "\n".join(lines)


def searched(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the AUC of the click of each threshold that was searched, as Markdown."""
    shown = list(CPU.rates["search"])
    lines = [
        "| rule | thresholds | " + " | ".join(f"{m}, {x}" for m in MODELS.values() for x in shown),
        "| --- | --- |" + " ---: |" * (len(MODELS) * len(shown)),
    ]
    lines[0] += " |"
    for name in CPU.grids:
        for rule in GRIDS[name]:
            described = dataclasses.asdict(rule)
            texts = []
            for model in MODELS:
                for rate in shown:
                    key = ("search", model, name, described, rate)
                    names = ("stage", "model", "name", "rule", "rate")
                    found = [r for r in rows if tuple(r[n] for n in names) == key]
                    text = " / ".join(f"{100 * r['metrics']['click']:.2f}" for r in found)
                    is_chosen = found and chosen(rows, model).get(name) == rule
                    texts.append(f"**{text}**" if is_chosen else text)
            numbers = [v for v in described.values() if not isinstance(v, bool)]
            lines.append(
                f"| {SHOWN[name]} | {', '.join(map(str, numbers))} | {' | '.join(texts)} |"
            )
    return "\n".join(lines)


COLORS = {"none": ("no treatment", "#d55e00"), "clippy_paper": ("Clippy", "#0072b2")}


def picture(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draws the next-day AUC of each training at the higher rate, by model, with and without."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    ax = figure.subplots()
    for side, (rule, (label, color)) in zip((-1, 1), COLORS.items(), strict=True):
        for place, model in enumerate(MODELS):
            cell = cell_of(rows, model, rule, HIGHER)
            aucs = np.sort([row["metrics"]["click"] for row in cell])
            x = place + side * 0.24 + np.linspace(-0.15, 0.15, len(aucs))
            ax.plot(x, aucs, "o", color=color, markersize=5, alpha=0.7, mec="none")
            lost = sum(row["diverged"] for row in cell)
            text = f"{label}\n{lost} of {len(cell)} diverged"
            ax.text(place + side * 0.24, 0.775, text, color=color, ha="center", va="center")
        ax.axvline(side / 2 + 1, color="#cccccc", lw=0.8)
    ax.axhline(0.5, color="#999999", lw=0.8, ls=":")
    ax.text(2.48, 0.497, "chance", color="#777777", ha="right", va="top")
    titles = [f"{name}, {_size(CPU.models[model])}" for model, name in MODELS.items()]
    ax.set_xticks(range(len(MODELS)), titles)
    ax.set(xlim=(-0.5, 2.5), ylim=(None, 0.81), ylabel="AUC of the click on the next day")
    ax.set_title(f"KuaiRand-Pure, Adagrad at a learning rate of {HIGHER}; each dot is a training")
    return figure


def _size(model: Architecture) -> str:
    cross = " + cross layer" if model.cross_layers else ""
    return f"{len(model.shared)} x {model.shared[0]}{cross}"


def losses(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draws each training's loss at the higher rate, by model, with and without."""
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    axes = figure.subplots(1, len(MODELS), sharey=True)
    for ax, (model, title) in zip(axes, MODELS.items(), strict=True):
        for rule, (label, color) in COLORS.items():
            for number, row in enumerate(cell_of(rows, model, rule, HIGHER)):
                steps = SMOOTHED * (1 + np.arange(len(row["curve"])))
                ax.plot(steps, row["curve"], color=color, lw=0.7, label="" if number else label)
        ax.set(title=title, yscale="log", xlabel="step")
    axes[0].set(ylabel=f"loss, largest of {SMOOTHED} steps")
    axes[0].legend(frameon=False)
    return figure


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="of examples.kuairand.arrays; without it nothing is trained")
    parser.add_argument("--output", required=True, help="JSON lines; added to")
    parser.add_argument("--search", action="store_true", help="search thresholds first")
    parser.add_argument("--seeds", type=int, default=12, help="of every cell")
    parser.add_argument(
        "--claimed-seeds", type=int, default=32, help="of most rules at the higher rate"
    )
    parser.add_argument("--replicas", type=int, default=8, help="trained together")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--picture", help="PNG file of AUCs without treatment and with Clippy")
    parser.add_argument("--losses", help="PNG file of their losses")
    options = parser.parse_args()
    if options.data:
        train(options)
    with open(options.output, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    others = [task for task in spec_of(CPU, "small").tasks if task != "click"]
    parts = {
        "Results": table(rows),
        "Clippy against each": paired(rows, ["click"], CPU.rates["report"]),
        "The other tasks": task_means(rows),
        "Clippy against each on the other tasks": paired(rows, others, [HIGHER]),
        "Search": searched(rows),
        "After a jump": "\n\n".join(after_jumps(rows, task) for task in ("click", "like")),
    }
    for title, text in parts.items():
        print(f"\n## {title}\n\n{text}")
    for path, draw in ((options.picture, picture), (options.losses, losses)):
        if path:
            draw(rows).savefig(path, dpi=110)


def train(options: argparse.Namespace) -> None:
    """Does the trainings that the output lacks."""
    models = {name: CPU.models[name] for name in options.models}
    protocol = dataclasses.replace(CPU, models=models)
    bench = Bench(protocol, options.data, options.output, options.replicas)
    if options.search:
        bench.do(search_cells(protocol, [SEARCH_SEED], bench.n))

    def rules_of(model: str) -> Mapping[str, Rule]:
        return chosen(bench.rows, model)

    def claimed(model: str) -> Mapping[str, Rule]:
        known = {**rules_of(model), **DEFAULTS}
        return {name: known[name] for name in CLAIMED if name in known}

    seeds = range(1, options.claimed_seeds + 1)
    bench.do(report_cells(protocol, rules_of, seeds[: options.seeds], bench.n))
    for part in (seeds[: options.seeds], seeds[options.seeds :]):
        bench.do(report_cells(protocol, claimed, part, bench.n, [HIGHER]))


if __name__ == "__main__":
    main()
