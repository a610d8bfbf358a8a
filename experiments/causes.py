"""What makes trainings diverge (RQ1 and Table 3 of arXiv:2302.09178), on real logs.

    python -m experiments.causes --data FILE.npz --output ROWS.jsonl

One thing at a time is changed about `table2`'s Large+DCN without treatment: its rate, tasks, size,
inputs, batches, days. The rate that all others share is where about half of the trainings
diverge, found on days and seeds of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.bench import FIXED, Bench, Protocol, cells_of, spec_of
from experiments.table2 import CPU, count
from schemas.features import CategoricalFeature, HistoryFeature
from schemas.training import Architecture

RATES = (0.05, 0.07, 0.1, 0.14, 0.2, 0.28)
SEARCH_SEEDS = range(201, 209)
_LOST = 55.0
"""AUC of the click, in percent, under which it is lost: a bar that no label's level moves."""
WHOLE = "7 tasks, 4 x 256, cross layer"
_CROSS = CPU.models["large_dcn"]


def _change(model: Architecture = _CROSS, overrides: Sequence[str] = (), **rest: Any) -> Protocol:
    """Returns the protocol of a change; its model is still to be named."""
    overrides = (*CPU.overrides, *overrides)
    return dataclasses.replace(CPU, models={"": model}, overrides=overrides, **rest)


def _without(*tasks: str) -> Protocol:
    # The tasks' histories stay inputs, so that nothing but the loss differs.
    return _change(overrides=[f"tasks.{task}.loss_weight=1.0e-30" for task in tasks])


def _shared(*units: int) -> Protocol:
    return _change(_CROSS.model_copy(update={"shared": units}))


def _inputs(kind: type) -> Sequence[str]:
    features = spec_of(CPU, "large_dcn").features
    return [name for name, feature in features.items() if isinstance(feature, kind)]


_REST = ("profile_enter", "open_comment", "watch_ratio")
CHANGES: Mapping[str, Protocol] = {
    WHOLE: _change(),
    "4 tasks": _without(*_REST),
    "2 tasks": _without(*_REST, "like", "long_view"),
    "5 tasks, no regression": _without("play_time", "watch_ratio"),
    "1 task": _without(*_REST, "like", "long_view", "play_time"),
    "4 x 128": _shared(128, 128, 128, 128),
    "4 x 64": _shared(64, 64, 64, 64),
    "2 x 256": _shared(256, 256),
    "2 x 64": _shared(64, 64),
    "no cross layer": _change(CPU.models["large"]),
    "no histories": _change(without=_inputs(HistoryFeature)),
    "no ids or categories": _change(without=_inputs(CategoricalFeature)),
    "warm-up of 16 steps": _change(warm_up=16),
    "warm-up of 64 steps": _change(warm_up=64),
    "window of 1 day": _change(window=1),
    "window of all days": _change(window=14),
    "batches of 32": _change(batch=32),
    "batches of 512": _change(batch=512),
    "play time x 2.7 from day 8 on": _change(shift=1.0),
    "play time x 20 from day 8 on": _change(shift=3.0),
    "the same, warm-up of 64 steps": _change(shift=3.0, warm_up=64),
    "play time x 20, a sixth of it a day": _change(shift=3.0, shift_days=6),
    "the same, gradual, warm-up of 64 steps": _change(shift=3.0, shift_days=6, warm_up=64),
    "1 task, batches of 2048": dataclasses.replace(
        _without(*_REST, "like", "long_view", "play_time"), batch=2048
    ),
}
"""Protocols by what is changed; the four tasks are the click, a long view, a like and the play
time, the two the click and the play time, the one the click. The days are numbered from 1."""


def shared_rate(rows: Sequence[dict[str, Any]]) -> float:
    """Returns the rate of the search at which the share of diverged trainings is nearest a half."""

    def distance(rate: float) -> float:
        found = [r["diverged"] for r in rows if (r["stage"], r["rate"]) == ("search", rate)]
        return abs(float(np.mean(found)) - 0.5)

    return min(sorted({r["rate"] for r in rows if r["stage"] == "search"}), key=distance)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns, by change and rate, how many diverged and how many lost the click, as Markdown.

    With the share goes its 95 % Wilson interval in percent; with the mean AUC its standard
    deviation. Each has the two-sided p against the whole model at the shared rate, by Fisher's
    exact test and by Mann and Whitney's.
    """
    shared = shared_rate(rows)

    def of(stage: str, change: str, rate: float) -> list[dict[str, Any]]:
        wanted = (stage, change, rate)
        return [row for row in rows if (row["stage"], row["model"], row["rate"]) == wanted]

    whole = of("report", WHOLE, shared)
    cells = {(f"search: {WHOLE}", rate): of("search", WHOLE, rate) for rate in RATES}
    cells |= {(change, shared): of("report", change, shared) for change in CHANGES}
    lines = [
        "| what is changed | rate | seeds | diverged | p | AUC of the click | p | lost |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (change, rate), cell in cells.items():
        if not cell:
            continue
        by_count = by_auc = ""
        auc = _aucs(cell)
        if change in CHANGES and change != WHOLE:
            both = [(sum(row["diverged"] for row in part), len(part)) for part in (cell, whole)]
            fisher = stats.fisher_exact([[lost, n - lost] for lost, n in both])
            by_count = f"{fisher.pvalue:.2g}"
            by_auc = f"{stats.mannwhitneyu(auc, _aucs(whole)).pvalue:.2g}"
        lines.append(
            f"| {change} | {rate} | {len(cell)} | {count(cell, 'diverged')} | {by_count}"
            f" | {np.mean(auc):.1f} ± {np.std(auc, ddof=1):.1f} | {by_auc}"
            f" | {count([{'lost': value < _LOST} for value in auc], 'lost')} |"
        )
    return "\n".join(lines)


def _aucs(cell: Sequence[dict[str, Any]]) -> np.ndarray:
    return 100 * np.array([row["metrics"]["click"] for row in cell])


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="of examples.kuairand.arrays; without it nothing is trained")
    parser.add_argument("--output", required=True, help="JSON lines; added to")
    parser.add_argument("--seeds", type=int, default=20, help="of every cell")
    parser.add_argument("--replicas", type=int, default=10, help="trained together")
    parser.add_argument("--changes", nargs="+", default=list(CHANGES), choices=CHANGES)
    options = parser.parse_args()

    def train(
        change: str, stage: str, rates: Sequence[float], seeds: Sequence[int]
    ) -> Sequence[dict[str, Any]]:
        own = CHANGES[change]
        protocol = dataclasses.replace(own, models={change: own.models[""]})
        bench = Bench(protocol, options.data, options.output, options.replicas)
        bench.do(cells_of(change, "none", [FIXED["none"]], stage, rates, seeds, bench.n))
        return bench.rows

    if options.data:
        rows = train(WHOLE, "search", RATES, SEARCH_SEEDS)
        shared = shared_rate(rows)
        seeds = range(1, options.seeds + 1)
        for change in options.changes:
            train(change, "report", [shared], seeds)
    with open(options.output, encoding="utf-8") as file:
        print(table([json.loads(line) for line in file]))


if __name__ == "__main__":
    main()
