"""What a first model reaches with default settings, on simulated worlds of different shape.

    python -m benchmarks.learning [--worlds NAME ...] [--seeds N] [--set FIELD=VALUE ...]

Each world is held against its own best possible prediction, which the simulator knows, and
against the same spec with settings given by `--set`. The model is `schemas/demo.yaml`'s, with
default training; a cold start on seven days, then warm starts, each judged by the next day.
Results are added to `results/learning.json` after each world. The largest takes 11 GB of memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.daily import run_days, simulated
from pipeline.simulate import Shape
from schemas.loading import parse_spec
from schemas.spec import RankingSpec

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "learning.json"
SHAPES: Mapping[str, Shape] = {
    "few users, many items": Shape(users=0.02, items=0.5),
    "rare likes and shares": Shape(rarity=3.0),
    "strong drift": Shape(drift=3.0),
}
"""Feeds that are unlike the demo's."""
WORLDS: Mapping[str, tuple[int, Shape]] = {
    "4 thousand a day": (4_000, Shape()),
    **{name: (8_000, shape) for name, shape in SHAPES.items()},
    "20 thousand a day": (20_000, Shape()),
    "200 thousand a day": (200_000, Shape()),
    **{
        f"{name}, {thousands} thousand a day": (1000 * thousands, shape)
        for name, shape in SHAPES.items()
        for thousands in (20, 200)
    },
    # New ones go last: a world's number is its place.
    "1 million a day": (1_000_000, Shape()),
    "5 million a day": (5_000_000, Shape()),
}
"""Events a day, and the shape. None of them, by seed, was looked at when defaults were chosen."""
COLD, LAST = 7, 9
_TABLES_FOR = 20_000
"""Events a day that the demo's tables of users and items are made for; they grow with the log."""
_WORLD_SEED = 1000


def default_spec(overrides: Sequence[str], rows: int = _TABLES_FOR) -> RankingSpec:
    """The demo's features and tasks with default training, or with what is given.

    Args:
        overrides: assignments.
        rows: events a day.
    """
    content = yaml.safe_load((ROOT / "schemas" / "demo.yaml").read_text("utf-8"))
    # Nobody joins history features to these events.
    features = content["features"].items()
    content["features"] = {n: f for n, f in features if f["type"] != "history"}
    content["training"] = {}
    for name in ("user_id", "item_id"):
        content["features"][name]["buckets"] *= max(1, rows // _TABLES_FOR)
    return parse_spec(yaml.safe_dump(content), "demo.yaml", overrides)


def measure(world: str, seeds: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Trains in one world; returns each task's mean over the days, by seed, and the best."""
    rows, shape = WORLDS[world]
    spec = default_spec(overrides, rows)
    number = _WORLD_SEED + list(WORLDS).index(world)
    columns, best = simulated(spec, shape, LAST + 1, rows, number)

    def mean(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {name: float(np.mean([each[name] for each in found])) for name in spec.tasks}

    reached = [mean(run_days(spec, columns, range(COLD), LAST, seed)) for seed in range(seeds)]
    return {
        "world": world,
        "settings": list(overrides),
        "mean": mean(reached),
        "seeds": reached,
        "best possible": mean(best[COLD:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--set", dest="overrides", nargs="+", default=[])
    options = parser.parse_args()
    for world in options.worlds:
        result = measure(world, options.seeds, options.overrides)
        known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else []
        same = ("world", "settings")
        known = [old for old in known if any(old[key] != result[key] for key in same)]
        RESULTS.write_text(json.dumps([*known, result], indent=1) + "\n", "utf-8")
        shown = {name: round(value, 4) for name, value in result["mean"].items()}
        print(f"{world} {' '.join(options.overrides)}: {shown}", flush=True)


if __name__ == "__main__":
    main()
