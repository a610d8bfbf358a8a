"""A stranger's first model: `python -m benchmarks.first_model LOGS`.

`steadyrank init` drafts a spec from the logs, and its model with default settings is held on the
same events against what one would try instead, each next day by models of the days before it:

* `constant`: the mean of the labels.
* `rates`: the smoothed rates of the drafted history features, summed as logits; for each task the
  best of all of them and of each two.
* `lightgbm`: one model a task, trained anew each day on all days that have a past, with the same
  numbers, history and categories, but for lists and for ids of many values. The settings of each
  task are the best of `TREES`.
* `ours`: as a backfill trains the draft: where days are small, anew for each day; else a cold
  start on the first days, then a warm start on each day.

The alternatives are chosen with hindsight, on the days that they are reported on: the bar is
higher than it could be in use. Trains in memory, with the product's own reading, history,
preprocessing, model, optimizer and loop.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.daily import metric
from benchmarks.quality import Predictions, label_of, ours, rates, table
from components.daily_example_gen.day_store import list_logs
from components.daily_example_gen.fields import event_fields
from components.daily_example_gen.sampling import list_days, read_sample
from examples import frames
from pipeline.onboarding.draft import draft_spec
from schemas.errors import BadDataError, RankerError, SpecError
from schemas.loading import parse_spec
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask

COLD = 4
"""Days of the cold start."""
_FEW_VALUES = 500
"""Up to which a category's values mean something to trees."""
_WHOLE = 1 << 40

TREES: Sequence[Mapping[str, float]] = (
    {"learning_rate": 0.05, "num_leaves": 31, "num_trees": 150},
    {"learning_rate": 0.05, "num_leaves": 7, "num_trees": 150},
    {"learning_rate": 0.03, "num_leaves": 15, "num_trees": 150, "min_data_in_leaf": 100}
    | {"lambda_l2": 10},
    {"learning_rate": 0.05, "num_leaves": 7, "num_trees": 60, "min_data_in_leaf": 100}
    | {"feature_fraction": 0.5, "lambda_l2": 10},
)

Days = Mapping[int, pd.Timestamp]
Found = Mapping[pd.Timestamp, Predictions]


def read_events(logs: str, spec: RankingSpec) -> pd.DataFrame:
    """Returns all well-formed events with their day and their history."""
    parts = []
    for date in list_days(logs):
        events = read_sample(list_logs(logs, date), event_fields(spec), _WHOLE).events.to_pandas()
        parts.append(events.assign(date=pd.Timestamp(date)))
    events = pd.concat(parts, ignore_index=True)
    for name, feature in spec.categorical.items():
        if feature.multivalued:
            events[name] = events[name].map(list)
        elif feature.dtype == "int":
            # pandas makes a float of an integer that some events lack.
            events[name] = events[name].astype("Int64")
    return frames.with_history(events, spec)


def scores(events: pd.DataFrame, spec: RankingSpec, found: Found) -> dict[str, float]:
    """Returns each task's mean AUC or RMSE over the days on which it has one."""
    result = {}
    for name, task in spec.tasks.items():
        days = [
            metric(task, label_of(events[events["date"] == day], task), predictions[name])
            for day, predictions in found.items()
            if name in predictions
        ]
        if days:
            result[name] = float(np.nanmean(days))
    return result


def constant(events: pd.DataFrame, spec: RankingSpec, days: Days) -> Found:
    """Predicts the mean label of the days before."""
    found = {}
    for day in days.values():
        past, size = events[events["date"] < day], (events["date"] == day).sum()
        found[day] = {
            name: np.full(size, np.nanmean(label_of(past, task)))
            for name, task in spec.tasks.items()
        }
    return found


def trees(
    events: pd.DataFrame, spec: RankingSpec, days: Days, settings: Mapping[str, float]
) -> Found:
    """Trains LightGBM for each task and day."""
    import lightgbm

    columns: dict[str, pd.Series] = {}
    for name in spec.inputs:
        feature = spec.categorical.get(name)
        if feature is None:
            columns[name] = events[name].astype("float64")
        elif not feature.multivalued and events[name].nunique() <= _FEW_VALUES:
            columns[name] = events[name].astype("category")
    inputs, date = pd.DataFrame(columns), events["date"]
    found: dict[pd.Timestamp, dict[str, np.ndarray]] = {}
    for day in days.values():
        found[day] = {}
        for name, task in spec.tasks.items():
            label = label_of(events, task)
            past = np.isfinite(label) & ((date < day) & (date > date.min())).to_numpy()
            objective = "binary" if isinstance(task, BinaryTask) else "regression"
            model = lightgbm.train(
                {"objective": objective, "num_threads": 1, "verbose": -1, **settings},
                lightgbm.Dataset(inputs[past], label[past]),
            )
            found[day][name] = np.asarray(model.predict(inputs[(date == day).to_numpy()]))
    return found


def best(spec: RankingSpec, tried: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Returns each task's best of several results."""
    result: dict[str, float] = {}
    for one in tried:
        for name, value in one.items():
            better: Callable[[float, float], float] = (
                max if isinstance(spec.tasks[name], BinaryTask) else min
            )
            result[name] = better(value, result.get(name, value))
    return result


def compare(logs: str, spec: RankingSpec, overrides: Sequence[str], seeds: int) -> str:
    """Trains all; returns a Markdown table, a row a ranker, ours with its 95 % interval."""
    events = read_events(logs, spec)
    every = [pd.Timestamp(day) for day in sorted(events["date"].unique())]
    days = {number: day for number, day in enumerate(every) if number >= COLD}
    if not days:
        raise BadDataError(f"{logs}: has {len(every)} days; {COLD + 1} are needed")
    entries: list[dict[str, Any]] = []
    kind = f"{len(days)} next days"

    def add(title: str, results: Sequence[Mapping[str, float]]) -> None:
        seeds = [{kind: result} for result in results]
        entries.append({"ranker": title, "settings": [], "seeds": seeds})
        print(table(spec, entries[-1:], kind).splitlines()[-1], file=sys.stderr, flush=True)

    add("constant", [scores(events, spec, constant(events, spec, days))])
    features = list(spec.history)
    some = [features, *itertools.combinations(features, 2)] if features else []
    tried = [scores(events, spec, rates(events, spec, list(days.values()), of)) for of in some]
    add("rates", [best(spec, tried)])
    if importlib.util.find_spec("lightgbm"):
        tried = [scores(events, spec, trees(events, spec, days, settings)) for settings in TREES]
        add("lightgbm", [best(spec, tried)])
    else:
        print("LightGBM is left out: pip install .[bench]", file=sys.stderr)
    columns = frames.transformed(events, spec)
    trainings = [scores(events, spec, ours(columns, spec, days, seed)) for seed in range(seeds)]
    add(" ".join(["ours", *overrides]), trainings)
    return table(spec, entries, kind)


def spec_text(options: argparse.Namespace) -> str:
    """Returns the spec that `--spec` names, or the draft of the logs with `--label`s.

    Raises:
        RankerError: it cannot be read, or nothing can be drafted.
    """
    if not options.spec:
        return draft_spec(options.logs, "first", labels=options.label).text
    try:
        return pathlib.Path(options.spec).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise SpecError(f"{options.spec}: {error}") from error


def main(arguments: Iterable[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_model", description=__doc__)
    parser.add_argument("logs", help="folder with a folder of logs a day")
    parser.add_argument("--spec", help="a spec in place of the one that init drafts")
    parser.add_argument("--label", action="append", default=[], help="as of init")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of ours")
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], help="of the spec")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if not pathlib.Path(options.logs).is_dir():
        print(f"skipped: no folder {options.logs}")
        return 0
    try:
        spec = parse_spec(spec_text(options), "the spec", options.overrides)
        print(compare(options.logs, spec, options.overrides, options.seeds))
    except RankerError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
