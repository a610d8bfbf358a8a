"""How near we come to LightGBM on real data: `python -m benchmarks.quality --source DIR`.

Three rankers of KuaiRand-Pure are held against each other by their mean next-day AUC (or
RMSE) over 2022-05-03 to 2022-05-08, or other days (`--days`): smoothed rates over all past
days, LightGBM (one model a task, retrained for each day on all earlier days from 2022-04-26
on), and the pipeline's models, whose results a backfill of `examples/kuairand` left in a
file. All three see the events that the example's converter writes, and no other.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from examples.kuairand import arrays, convert, source
from schemas.errors import BadDataError
from schemas.features import history_column
from schemas.loading import load_spec
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask, Task

SPEC = pathlib.Path(convert.__file__).with_name("spec.yaml")
FIRST_TRAINED = pd.Timestamp("2022-04-26")
# Settings were chosen on the days before.
EVALUATED = (pd.Timestamp("2022-05-03"), pd.Timestamp("2022-05-08"))
RATES = ("user_history", "video_history", "author_history", "tab_history")

_LIGHTGBM = {"learning_rate": 0.05, "num_leaves": 31, "verbose": -1, "seed": 0}
_TREES = 150
# Ids mean nothing to trees that split by value; their rates and counts stand for them.
_NOT_FOR_TREES = {"user_id", "video_id", "author_id", "music_id"}


def label_of(events: pd.DataFrame, task: Task) -> np.ndarray:
    """Returns the task's labels in the space of its loss, [events]; NaN where masked."""
    label = events[task.label].to_numpy(np.float64)
    return np.log1p(label) if getattr(task, "transform", "none") == "log1p" else label


def metric(task: Task, label: np.ndarray, prediction: np.ndarray) -> float:
    """Returns the AUC of a binary task or the RMSE of a regression over labelled events."""
    labelled = np.isfinite(label)
    label, prediction = label[labelled], prediction[labelled]
    if not isinstance(task, BinaryTask):
        return float(np.sqrt(np.mean(np.square(label - prediction))))
    ranks = pd.Series(prediction).rank().to_numpy()
    positives = label.sum()
    negatives = len(label) - positives
    if not positives or not negatives:
        return float("nan")
    excess = ranks[label == 1].sum() - positives * (positives + 1) / 2
    return float(excess / (positives * negatives))


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


def lightgbm_results(
    events: pd.DataFrame, spec: RankingSpec, days: Sequence[pd.Timestamp], threads: int
) -> dict[str, float]:
    """Trains LightGBM for each task and day; returns each task's mean over the days."""
    import lightgbm

    inputs = tree_inputs(events, spec)
    results = {}
    for name, task in spec.tasks.items():
        label = label_of(events, task)
        kind = "binary" if isinstance(task, BinaryTask) else "regression"
        settings = {**_LIGHTGBM, "objective": kind, "num_threads": threads}
        usable = np.isfinite(label) & (events["date"] >= FIRST_TRAINED).to_numpy()
        found = []
        for day in days:
            past = usable & (events["date"] < day).to_numpy()
            today = (events["date"] == day).to_numpy()
            data = lightgbm.Dataset(inputs[past], label[past])
            model = lightgbm.train(settings, data, num_boost_round=_TREES)
            found.append(metric(task, label[today], np.asarray(model.predict(inputs[today]))))
        results[name] = float(np.mean(found))
        print(f"  LightGBM {name}: {results[name]:.4f}", file=sys.stderr, flush=True)
    return results


def rates_results(
    events: pd.DataFrame, spec: RankingSpec, days: Sequence[pd.Timestamp]
) -> dict[str, float]:
    """Ranks by the sum of the smoothed rates of user, video, author and tab, as logits.

    A regression is not predicted by rates; its tasks are left out.
    """
    results = {}
    for name, task in spec.tasks.items():
        if not isinstance(task, BinaryTask):
            continue
        label = label_of(events, task)
        score = sum(events[history_column(entity, name)].to_numpy(np.float64) for entity in RATES)
        chosen = [(events["date"] == day).to_numpy() for day in days]
        results[name] = float(np.mean([metric(task, label[day], score[day]) for day in chosen]))
    return results


def pipeline_results(
    path: str, spec: RankingSpec, days: Sequence[pd.Timestamp]
) -> dict[str, float]:
    """Reads what `steadyrank status --json` printed.

    Args:
        path: the file; a day's last run counts.
        spec: the example's spec.
        days: the days that count.

    Returns:
        Each task's mean over the days.

    Raises:
        BadDataError: the file cannot be read, or lacks one of the days or tasks.
    """
    try:
        runs = json.loads(pathlib.Path(path).read_text("utf-8"))
        content = {run["run_date"]: run["metrics"].get("candidate", {}) for run in runs}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadDataError(f"{path}: not what `status --json` prints: {error!r}") from error
    results = {}
    for name, task in spec.tasks.items():
        key = "auc" if isinstance(task, BinaryTask) else "root_mean_squared_error"
        found = []
        for day in days:
            try:
                found.append(float(content[f"{day:%Y-%m-%d}"][name][key]))
            except (KeyError, TypeError, ValueError) as error:
                raise BadDataError(f"{path}: no {key} of {name!r} on {day:%Y-%m-%d}") from error
        results[name] = float(np.mean(found))
    return results


def table(spec: RankingSpec, rows: Mapping[str, Mapping[str, float]]) -> str:
    """Returns a Markdown table with a row for each ranker and a column for each task."""
    heads = [
        f"{name} ({'AUC' if isinstance(task, BinaryTask) else 'RMSE'})"
        for name, task in spec.tasks.items()
    ]
    lines = [f"| | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for ranker, values in rows.items():
        cells = [f"{values[name]:.4f}" if name in values else "" for name in spec.tasks]
        lines.append(f"| {ranker} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
    """Returns by how much ours is larger, by task: good for an AUC, bad for an RMSE."""
    return {name: ours[name] - theirs[name] for name in ours if name in theirs}


def _period(days: Sequence[pd.Timestamp]) -> str:
    return f"{days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}"


def run(options: argparse.Namespace) -> str:
    """Measures, and returns the table."""
    spec = load_spec(str(SPEC))
    events = arrays.with_history(convert.events_of(source.read_impressions(options.source)), spec)
    days = [day for day in pd.date_range(*options.days) if (events["date"] == day).any()]
    if not days:
        raise BadDataError(f"{options.source}: no impressions of {_period(options.days)}")
    rows = {"smoothed rates": rates_results(events, spec, days)}
    if not options.no_lightgbm:
        rows["LightGBM"] = lightgbm_results(events, spec, days, options.threads)
    if options.results:
        rows["ours"] = pipeline_results(options.results, spec, days)
        for other in [name for name in rows if name != "ours"]:
            rows[f"ours - {other}"] = difference(rows["ours"], rows[other])
    return table(spec, rows)


def main(arguments: Iterable[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description="Compares LightGBM, smoothed rates and the pipeline on KuaiRand-Pure.",
    )
    parser.add_argument("--source", help="folder of the official CSV files")
    parser.add_argument("--results", help="JSON file of the pipeline's metrics by day and task")
    parser.add_argument(
        "--days",
        nargs=2,
        type=pd.Timestamp,
        default=EVALUATED,
        metavar=("FIRST", "LAST"),
        help=f"days that count (default: {_period(EVALUATED)})",
    )
    parser.add_argument("--threads", type=int, default=2, help="LightGBM's threads")
    parser.add_argument("--no-lightgbm", action="store_true", help="leave LightGBM out")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if not options.source or not pathlib.Path(options.source).is_dir():
        where = f"no folder {options.source}" if options.source else "no --source given"
        print(f"skipped: {where}; it takes the official CSV files of KuaiRand-Pure")
        return 0
    start = time.monotonic()
    try:
        print(run(options))
    except BadDataError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    print(f"\nmean over the days {_period(options.days)}; {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
