"""How near we come to LightGBM on real data: `python -m benchmarks.quality --source DIR`.

Rankers of KuaiRand-Pure are held against each other on the same events by their predictions of
the next day, over 2022-05-03 to 2022-05-08 or other days (`--days`): AUC (or RMSE), and the
AUC within each user's events of a day.

* `ours`: the product's preprocessing, model, optimizer and loop, day after day in memory: a cold
  start for each day on the days of its window, as the example's spec says; with `--set
  training.warm_start=true`, one on 04-25 to 04-28, then a warm start on each day.
* `lightgbm`: one model a task, trained anew for each day on all days from 04-26 on, with the same
  features and their history but for raw ids and lists. `--search N` chooses each task's settings
  out of N, and its number of trees, on 05-01 and 05-02.
* `rates`: smoothed rates of the ids, summed as logits.
* `backfill`: the pipeline's own results, from `--status` (a file of `steadyrank status --json`).

Results go to `results/quality.json`, which the printed table is made of. `--short` instead trains
on a small simulated world with fixed seeds, and fails where the AUC has fallen.
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
import scipy.stats

from benchmarks.daily import Columns, Ranker, metric
from benchmarks.learning import default_spec, measure
from examples import frames
from examples.kuairand import arrays, convert, source
from schemas.errors import BadDataError, RankerError
from schemas.features import history_column
from schemas.loading import load_spec
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask, Task

SPEC = pathlib.Path(arrays.SPEC)
RESULTS = pathlib.Path(__file__).parent / "results" / "quality.json"
RANKERS = ("rates", "lightgbm", "ours", "backfill")
# The first day's events have no history.
FIRST_TRAINED = pd.Timestamp("2022-04-26")
CHOSEN_ON = (pd.Timestamp("2022-05-01"), pd.Timestamp("2022-05-02"))
"""Days that LightGBM's settings are chosen on, by models of the days before them."""
EVALUATED = (pd.Timestamp("2022-05-03"), pd.Timestamp("2022-05-08"))
COLD = 4
"""Days of a cold start, from the first."""
RATES = ("user_history", "video_history", "author_history", "tab_history")

TREES: Mapping[str, Any] = {"learning_rate": 0.05, "num_leaves": 31, "num_trees": 150}
"""LightGBM's settings where none are searched."""
_MOST_TREES, _PATIENCE = 400, 30
"""A search adds trees until so many of them have gained nothing."""
_SEARCHED: Mapping[str, Sequence[float]] = {
    "learning_rate": (0.02, 0.03, 0.05, 0.1),
    "num_leaves": (7, 15, 31, 63),
    "min_data_in_leaf": (20, 100, 300),
    "feature_fraction": (0.5, 0.8, 1.0),
    "lambda_l2": (0.0, 10.0),
}
# Ids mean nothing to trees that split by value; their rates and counts stand for them.
_NOT_FOR_TREES = {"user_id", "video_id", "author_id", "music_id"}

Predictions = Mapping[str, np.ndarray]
"""Of one day, by task, in the order of the events."""

HELD = 0.002
"""By how much AUC may fall short of what was recorded."""
SHORT_WORLD = "4 thousand a day"
SHORT_SEEDS = 3


def label_of(events: pd.DataFrame, task: Task) -> np.ndarray:
    """Returns the task's labels in the space of its loss, [events]; NaN where masked."""
    label = events[task.label].to_numpy(np.float64)
    return np.log1p(label) if getattr(task, "transform", "none") == "log1p" else label


def auc_within(groups: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> float:
    """Returns the mean AUC within groups, by their number of events; NaN if there is none.

    Args:
        groups: number of each event's group, such as its user's, [events].
        label: 0 or 1, [events]. Groups that lack one of them do not count.
        prediction: [events].
    """
    frame = pd.DataFrame({"group": groups, "label": label, "prediction": prediction})
    frame["rank"] = frame.groupby("group")["prediction"].rank()
    frame["positive_rank"] = frame["rank"] * frame["label"]
    sums = frame.groupby("group").agg(
        n=("label", "size"), positives=("label", "sum"), ranks=("positive_rank", "sum")
    )
    pairs = sums["positives"] * (sums["n"] - sums["positives"])
    sums, pairs = sums[pairs > 0], pairs[pairs > 0]
    if sums.empty:
        return float("nan")
    auc = (sums["ranks"] - sums["positives"] * (sums["positives"] + 1) / 2) / pairs
    return float(np.average(auc, weights=sums["n"]))


def scores(
    events: pd.DataFrame, spec: RankingSpec, found: Mapping[pd.Timestamp, Predictions]
) -> dict[str, dict[str, float]]:
    """Returns each task's means over days: `mean` of AUC or RMSE, and `per user` of AUC."""
    result: dict[str, dict[str, float]] = {"mean": {}, "per user": {}}
    for name, task in spec.tasks.items():
        by_day, by_user = [], []
        for day, predictions in found.items():
            if name not in predictions:
                continue
            today = events[events["date"] == day]
            label, prediction = label_of(today, task), predictions[name]
            by_day.append(metric(task, label, prediction))
            if isinstance(task, BinaryTask):
                by_user.append(auc_within(today["user_id"].to_numpy(), label, prediction))
        for kind, values in (("mean", by_day), ("per user", by_user)):
            if values:
                result[kind][name] = float(np.mean(values))
    return result


def ours(
    columns: Columns, spec: RankingSpec, days: Mapping[int, pd.Timestamp], seed: int
) -> dict[pd.Timestamp, Predictions]:
    """Trains from day to day, as a backfill does; or anew for each day, where nothing starts warm.

    Args:
        columns: of `frames.transformed`.
        spec: the ranking spec.
        days: the days to predict, by number.
        seed: of weights and order.

    Returns:
        Predictions of those days, each by the model that was trained through the day before.
    """
    found = {}
    if not spec.training.warm_start:
        for number, day in days.items():
            ranker = Ranker(spec, columns, seed)
            ranker.train(range(max(0, number - spec.training.window_days), number))
            found[day] = ranker.predict(number)
        return found
    ranker = Ranker(spec, columns, seed)
    window = list(range(COLD))
    ranker.train(window)
    for number in range(COLD, max(days) + 1):
        if number in days:
            found[days[number]] = ranker.predict(number)
        if number < max(days):
            window = [*window, number][-spec.training.window_days :]
            ranker.train([number], window[:-1])
    return found


def tree_inputs(events: pd.DataFrame, spec: RankingSpec) -> pd.DataFrame:
    """Returns what trees can use of the spec's features: single values, ids left out.

    Strings and the tab become categories; numbers and ordered codes stay numbers.
    """
    columns: dict[str, pd.Series] = {}
    for name in spec.inputs:
        feature = spec.categorical.get(name)
        if name in _NOT_FOR_TREES or (feature is not None and feature.multivalued):
            continue
        text = feature is not None and feature.dtype == "string"
        as_category = text or name == "tab"
        columns[name] = events[name].astype("category" if as_category else "float64")
    return pd.DataFrame(columns)


class Trees:
    """LightGBM on the example's events, one model a task and day."""

    def __init__(self, events: pd.DataFrame, spec: RankingSpec, threads: int) -> None:
        """Makes its inputs."""
        self._events, self._spec, self._threads = events, spec, threads
        self._inputs = tree_inputs(events, spec)

    def train(
        self,
        name: str,
        day: pd.Timestamp,
        settings: Mapping[str, Any],
        judged: Sequence[pd.Timestamp] = (),
    ) -> Any:
        """Trains a task's model on the days before one.

        Args:
            name: the task.
            day: the first day that it does not see.
            settings: LightGBM's.
            judged: stop where more trees gain nothing on these days.
        """
        import lightgbm

        task, date = self._spec.tasks[name], self._events["date"]
        label = label_of(self._events, task)
        known = np.isfinite(label)
        past = known & ((date >= FIRST_TRAINED) & (date < day)).to_numpy()
        data = lightgbm.Dataset(self._inputs[past], label[past])
        given: dict[str, Any] = {"num_threads": self._threads, "verbose": -1, **settings}
        later: dict[str, Any] = {}
        if judged:
            rows = known & date.isin(judged).to_numpy()
            later = {
                "valid_sets": [data.create_valid(self._inputs[rows], label[rows])],
                "callbacks": [lightgbm.early_stopping(_PATIENCE, verbose=False)],
            }
        if isinstance(task, BinaryTask):
            given |= {"objective": "binary", "metric": "auc"}
        else:
            given |= {"objective": "regression", "metric": "rmse"}
        return lightgbm.train(given, data, **later)

    def predict(self, name: str, day: pd.Timestamp, settings: Mapping[str, Any]) -> np.ndarray:
        """Trains a task's model on the days before one; returns that day's predictions."""
        today = (self._events["date"] == day).to_numpy()
        return np.asarray(self.train(name, day, settings).predict(self._inputs[today]))

    def search(self, days: Sequence[pd.Timestamp], tries: int) -> dict[str, dict[str, Any]]:
        """Chooses each task's settings by AUC or RMSE on these days, and its number of trees.

        The settings that are used without a search are the first of them.
        """
        rng = np.random.default_rng(0)
        candidates: list[dict[str, Any]] = [dict(TREES)]
        for _ in range(tries - 1):
            candidates.append({k: v[rng.integers(len(v))] for k, v in _SEARCHED.items()})
        chosen = {}
        for name, task in self._spec.tasks.items():
            sign = 1.0 if isinstance(task, BinaryTask) else -1.0
            best = -np.inf
            for settings in candidates:
                most = {**settings, "num_trees": _MOST_TREES}
                model = self.train(name, days[0], most, days)
                ((reached,),) = (found.values() for found in model.best_score.values())
                if sign * reached > best:
                    best = sign * reached
                    chosen[name] = {**settings, "num_trees": model.best_iteration}
            text = f"{chosen[name]} reach {abs(best):.4f}"
            print(f"  LightGBM {name}: {text}", file=sys.stderr, flush=True)
        return chosen


def rates(
    events: pd.DataFrame, spec: RankingSpec, days: Sequence[pd.Timestamp], of: Sequence[str] = RATES
) -> dict[pd.Timestamp, Predictions]:
    """Sums the smoothed rates of some history features, as logits; of no regression."""
    found: dict[pd.Timestamp, Predictions] = {}
    for day in days:
        today = events[events["date"] == day]
        found[day] = {
            name: today[[history_column(feature, name) for feature in of]].sum(axis=1).to_numpy()
            for name, task in spec.tasks.items()
            if isinstance(task, BinaryTask)
        }
    return found


def backfill(
    path: str, spec: RankingSpec, days: Sequence[pd.Timestamp]
) -> dict[str, dict[str, float]]:
    """Reads the pipeline's own results; a day's last run counts.

    Returns:
        As `scores`, but for the AUC within users.

    Raises:
        BadDataError: the file cannot be read, or lacks one of the days or tasks.
    """
    try:
        runs = json.loads(pathlib.Path(path).read_text("utf-8"))
        content = {run["run_date"]: run["metrics"].get("candidate", {}) for run in runs}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadDataError(f"{path}: not what `status --json` prints: {error!r}") from error
    means = {}
    for name, task in spec.tasks.items():
        key = "auc" if isinstance(task, BinaryTask) else "rmse"
        found = []
        for day in days:
            try:
                found.append(float(content[f"{day:%Y-%m-%d}"][name][key]))
            except (KeyError, TypeError, ValueError) as error:
                raise BadDataError(f"{path}: no {key} of {name!r} on {day:%Y-%m-%d}") from error
        means[name] = float(np.mean(found))
    return {"mean": means, "per user": {}}


def interval(values: Sequence[float]) -> float:
    """Returns half the width of the 95 % interval (Student's t) of a mean; NaN of one value."""
    if len(values) < 2:
        return float("nan")
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return float(scipy.stats.t.ppf(0.975, len(values) - 1) * error)


def table(spec: RankingSpec, entries: Sequence[Mapping[str, Any]], kind: str) -> str:
    """Returns a Markdown table with a row an entry: mean over seeds, and its 95 % interval."""
    heads = [
        f"{name} ({'AUC' if isinstance(task, BinaryTask) else 'RMSE'})"
        for name, task in spec.tasks.items()
    ]
    lines = [f"| {kind} | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for entry in entries:
        cells = []
        for name in spec.tasks:
            values = [seed[kind][name] for seed in entry["seeds"] if name in seed[kind]]
            cell = f"{np.mean(values):.4f}" if values else ""
            cells.append(f"{cell} ± {interval(values):.4f}" if len(values) > 1 else cell)
        title = " ".join([entry["ranker"], *entry["settings"]])
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _key(entry: Mapping[str, Any]) -> list[Any]:
    return [entry["ranker"], entry["settings"], entry["days"]]


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text("utf-8"))) if path.exists() else []
    except ValueError as error:
        raise BadDataError(f"{path}: not what this benchmark writes: {error}") from error


def _record(path: pathlib.Path, entry: Mapping[str, Any]) -> None:
    """Puts an entry in the place of the one of the same ranker, settings and days."""
    entries = [old for old in _read(path) if _key(old) != _key(entry)]
    path.write_text(json.dumps([*entries, entry], indent=1) + "\n", "utf-8")


def run(options: argparse.Namespace) -> str:
    """Measures what is asked for, records it, and returns the tables of these days."""
    spec = load_spec(str(SPEC), options.overrides)
    plain = load_spec(str(SPEC))
    events = frames.with_history(convert.events_of(source.read_impressions(options.source)), plain)
    every = [pd.Timestamp(day) for day in sorted(events["date"].unique())]
    first, last = options.days
    numbers = {number: day for number, day in enumerate(every) if first <= day <= last}
    days = list(numbers.values())
    if not days:
        raise BadDataError(f"{options.source}: no impressions of {_period(options.days)}")
    columns = frames.transformed(events, spec) if "ours" in options.rankers else {}
    for ranker in options.rankers:
        started = time.process_time()
        settings: list[str] = []
        chosen: dict[str, Any] = {}
        trainings: Iterable[Mapping[pd.Timestamp, Predictions]] = ()
        if ranker == "rates":
            trainings = [rates(events, spec, days)]
        elif ranker == "ours":
            settings = list(options.overrides)
            trainings = (ours(columns, spec, numbers, seed) for seed in range(options.seeds))
        elif ranker == "lightgbm":
            trees = Trees(events, spec, options.threads)
            chosen = dict.fromkeys(spec.tasks, TREES)
            if options.search:
                settings = [f"best of {options.search}"]
                chosen = trees.search(list(pd.date_range(*CHOSEN_ON)), options.search)
            trainings = [{d: {n: trees.predict(n, d, chosen[n]) for n in spec.tasks} for d in days}]
        found = (scores(events, spec, predictions) for predictions in trainings)
        seeds: list[Any] = []
        # What a stopped benchmark has measured is not lost.
        for seed in [backfill(options.status, spec, days)] if ranker == "backfill" else found:
            seeds.append(seed)
            entry = {
                "ranker": ranker,
                "settings": settings,
                "days": _period(options.days),
                "seeds": seeds,
                "cpu_seconds": round(time.process_time() - started, 1),
                **({"chosen": chosen} if chosen else {}),
            }
            _record(options.results, entry)
            text = f"{ranker}, {len(seeds)}: {entry['cpu_seconds']} s of CPU"
            print(text, file=sys.stderr, flush=True)
    entries = [e for e in _read(options.results) if e["days"] == _period(options.days)]
    return "\n\n".join(table(plain, entries, kind) for kind in ("mean", "per user"))


def short(path: pathlib.Path, record: bool) -> str:
    """Trains on a small simulated world and holds the AUC against what was recorded.

    Args:
        path: of the results.
        record: record what is found instead.

    Returns:
        What was found.

    Raises:
        RankerError: the mean AUC of the binary tasks is lower by more than `HELD`.
    """
    found = measure(SHORT_WORLD, SHORT_SEEDS, [])["mean"]
    tasks = default_spec([]).tasks
    aucs = {name: found[name] for name, task in tasks.items() if isinstance(task, BinaryTask)}
    mean = float(np.mean(list(aucs.values())))
    entry = {"ranker": "short", "settings": [], "days": SHORT_WORLD, "seeds": [], "auc": mean}
    if record:
        _record(path, entry)
    before = [old["auc"] for old in _read(path) if _key(old) == _key(entry)]
    if not before:
        raise BadDataError(f"{path}: nothing is recorded of {SHORT_WORLD!r}; add --record")
    text = f"mean AUC {mean:.4f}, recorded {before[0]:.4f}; " + ", ".join(
        f"{name} {value:.4f}" for name, value in aucs.items()
    )
    if mean < before[0] - HELD:
        raise RankerError(f"{text}: more than {HELD} below. If this is meant, add --record")
    return text


def _period(days: Sequence[pd.Timestamp]) -> str:
    return f"{days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}"


def main(arguments: Iterable[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description="Compares the pipeline's models, LightGBM and smoothed rates on KuaiRand-Pure.",
    )
    parser.add_argument("--source", help="folder of the official CSV files")
    parser.add_argument("--rankers", nargs="+", choices=RANKERS, default=RANKERS[:3])
    parser.add_argument("--status", help="of `backfill`: what `steadyrank status --json` printed")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of ours")
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], help="of ours' spec")
    parser.add_argument("--search", type=int, default=0, help="settings of LightGBM to choose from")
    parser.add_argument(
        "--days",
        nargs=2,
        type=pd.Timestamp,
        default=EVALUATED,
        metavar=("FIRST", "LAST"),
        help=f"days that count (default: {_period(EVALUATED)})",
    )
    parser.add_argument("--threads", type=int, default=1, help="LightGBM's threads")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="file of the results")
    parser.add_argument("--short", action="store_true", help="a small simulated world, minutes")
    parser.add_argument("--record", action="store_true", help="with --short: record the figure")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if not options.short and not (options.source and pathlib.Path(options.source).is_dir()):
        where = f"no folder {options.source}" if options.source else "no --source given"
        print(f"skipped: {where}; it takes the official CSV files of KuaiRand-Pure")
        return 0
    try:
        print(short(options.results, options.record) if options.short else run(options))
    except RankerError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
