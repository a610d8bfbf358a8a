"""How far a drafted spec is from a tuned one: `python -m benchmarks.tuned LOGS`.

What `steadyrank init` drafts is held against the best of `--tries` random settings around it. The
best is chosen by one training of each on the `--chosen-on` days before the last ones, and held
against the draft on the last `--reported` days, by models of `--seeds` seeds. Trained as in
`benchmarks.first_model`. Results go to `results/tuned.json`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.first_model import COLD, constant, read_events, scores, spec_text
from benchmarks.quality import ours
from examples import frames
from schemas.errors import BadDataError, RankerError
from schemas.loading import parse_spec
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask

RESULTS = pathlib.Path(__file__).parent / "results" / "tuned.json"
_KEPT = 0.4
"""Chance of each setting to stay as drafted, so that a try is not wrong in all at once."""


def assignments(spec: RankingSpec, day_events: float, rng: np.random.Generator) -> list[str]:
    """Draws settings around a spec.

    Args:
        spec: as drafted.
        day_events: of a usual day, which the drafted batch follows.
        rng: of the draw.

    Returns:
        Assignments, as `--set` takes them.
    """
    batch = spec.fitted(day_events, spec.training.warm_start).training.batch_size
    rate = float(rng.choice([0.025, 0.05, 0.1, 0.2, 0.4]))
    choices: Mapping[str, Sequence[Any]] = {
        "training.learning_rate": [rate],
        "training.embedding_learning_rate": [2 * rate, 5 * rate, 10 * rate],
        "training.batch_size": [batch // 2, batch * 2, batch * 4],
        "training.epochs": [1, 2, 3],
        "training.averaging": [0, 1, 6],
        "training.warm_start": ["true", "false"],
        "model.shared": ["[64]", "[512, 256]", "[512, 512, 512]"],
        "model.tower": ["[]", "[64]"],
        "model.curves": [0, 12],
        "model.wide": ["true", "false"],
        "model.dropout": [0.1, 0.2],
        "model.interactions": [0, 16],
    }
    drawn = [
        f"{name}={values[rng.integers(len(values))]}"
        for name, values in choices.items()
        if rng.random() > _KEPT
    ]
    if rng.random() > _KEPT:
        width = rng.choice([4, 8, 32])
        tables = [n for n, f in spec.categorical.items() if f.embedding]
        drawn += [f"features.{name}.embedding={width}" for name in tables]
    return drawn


def worth(spec: RankingSpec, found: Mapping[str, float], plain: Mapping[str, float]) -> float:
    """Returns the mean over tasks of the AUC, or of the share that RMSE is below a constant's."""
    return float(
        np.mean(
            [
                found[name] if isinstance(task, BinaryTask) else 1.0 - found[name] / plain[name]
                for name, task in spec.tasks.items()
                if name in found
            ]
        )
    )


def search(logs: str, name: str, text: str, options: argparse.Namespace) -> dict[str, Any]:
    """Tunes a spec on logs; returns what `RESULTS` has of it."""
    started = time.process_time()
    spec = parse_spec(text, "the spec", options.overrides)
    events = read_events(logs, spec)
    every = [pd.Timestamp(day) for day in sorted(events["date"].unique())]
    least = COLD + options.chosen_on + options.reported
    if len(every) < least:
        raise BadDataError(f"{logs}: has {len(every)} days; {least} are needed")
    numbered = list(enumerate(every))
    chosen_on = dict(numbered[-options.reported - options.chosen_on : -options.reported])
    reported = dict(numbered[-options.reported :])
    columns = frames.transformed(events, spec)
    plain = scores(events, spec, constant(events, spec, chosen_on))

    def reach(settings: Sequence[str], days: Mapping[int, pd.Timestamp], seed: int) -> Any:
        trained = parse_spec(text, "the spec", [*options.overrides, *settings])
        return scores(events, trained, ours(columns, trained, days, seed))

    rng = np.random.default_rng(0)
    tried: list[tuple[float, list[str]]] = []
    for number in range(options.tries + 1):
        settings = assignments(spec, len(events) / len(every), rng) if number else []
        tried.append((worth(spec, reach(settings, chosen_on, 0), plain), settings))
        print(f"{tried[-1][0]:.4f} {' '.join(settings)}", file=sys.stderr, flush=True)
    best = max(tried, key=lambda one: one[0])
    seeds = [
        {"drafted": reach([], reported, seed), "tuned": reach(best[1], reported, seed)}
        for seed in range(1, options.seeds + 1)
    ]
    return {
        "log": name,
        "events a day": round(len(events) / len(every)),
        "tries": options.tries,
        "worth": {"drafted": tried[0][0], "tuned": best[0]},
        "settings": best[1],
        "days": [len(chosen_on), len(reported)],
        "seeds": seeds,
        "cpu_seconds": round(time.process_time() - started),
    }


def table(result: Mapping[str, Any]) -> str:
    """Returns a log's Markdown table: a row a task, its means over seeds and their difference."""
    lines = [
        "| task | drafted | tuned | drafted less tuned, by seed |",
        "| --- | ---: | ---: | --- |",
    ]
    for task in result["seeds"][0]["drafted"]:
        drafted, tuned = (
            [seed[kind][task] for seed in result["seeds"]] for kind in ("drafted", "tuned")
        )
        apart = ", ".join(f"{a - b:+.4f}" for a, b in zip(drafted, tuned, strict=True))
        lines.append(f"| {task} | {np.mean(drafted):.4f} | {np.mean(tuned):.4f} | {apart} |")
    return "\n".join(lines)


def main(arguments: Iterable[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuned", description=__doc__)
    parser.add_argument("logs", help="folder with a folder of logs a day")
    parser.add_argument("--name", help="of the log in the results; the folder's, if not given")
    parser.add_argument("--spec", help="a spec in place of the one that init drafts")
    parser.add_argument("--label", action="append", default=[], help="as of init")
    parser.add_argument("--tries", type=int, default=16)
    parser.add_argument("--chosen-on", type=int, default=2, help="days that settings are chosen on")
    parser.add_argument("--reported", type=int, default=4, help="days after them")
    parser.add_argument("--seeds", type=int, default=2, help="trainings on the reported days")
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], help="of the spec")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(None if arguments is None else list(arguments))
    if not pathlib.Path(options.logs).is_dir():
        print(f"skipped: no folder {options.logs}")
        return 0
    try:
        name = options.name or pathlib.Path(options.logs).name
        result = search(options.logs, name, spec_text(options), options)
    except RankerError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    known = json.loads(options.results.read_text("utf-8")) if options.results.exists() else []
    known = [old for old in known if old["log"] != name]
    options.results.write_text(json.dumps([*known, result], indent=1) + "\n", "utf-8")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
