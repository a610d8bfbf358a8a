"""Which leads over LightGBM would other users show, too? `python -m benchmarks.leads --source DIR`.

`benchmarks.quality` tells how far seeds scatter on the same events. The events scatter as well: six
days have 1,500 positives of the rarest task. Here ours, warm and anew each day, and LightGBM
with the settings that its search has chosen predict the same events, and the difference of their
metrics gets a 95 % interval over users: the users are dealt into blocks, and one block at a time is
left out (the delete-a-group jackknife, Shao and Tu 1995). What both get wrong alike cancels out.
Results go to `results/leads.json`, which the printed table is made of.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import quality
from benchmarks.daily import metric
from benchmarks.quality import Predictions, label_of
from examples import frames
from examples.kuairand import convert, source
from schemas.errors import BadDataError
from schemas.loading import load_spec
from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask

RESULTS = pathlib.Path(__file__).parent / "results" / "leads.json"
BLOCKS = 64
_NORMAL = 1.959964
WAYS: Mapping[str, Sequence[str]] = {
    "anew each day": (),
    "warm each day": ("training.warm_start=true", "training.window_days=7"),
}
"""How ours is trained."""

Found = Mapping[pd.Timestamp, Predictions]


def lead(
    events: pd.DataFrame, spec: RankingSpec, ours: Sequence[Found], theirs: Found
) -> dict[str, tuple[float, float]]:
    """Returns how far ours is ahead in each task, and half of the 95 % interval over users.

    Args:
        events: with `date` and `user_id`.
        spec: of the tasks.
        ours: predictions by seed.
        theirs: predictions of the same days.

    Returns:
        By task: the mean over days and seeds of AUC minus theirs, or of their RMSE minus ours.
    """
    block = pd.util.hash_array(events["user_id"].to_numpy()) % BLOCKS
    leads = {}
    for name, task in spec.tasks.items():
        sign = 1.0 if isinstance(task, BinaryTask) else -1.0
        # The difference by day, with all blocks and then without one of them.
        differences = np.empty((len(theirs), BLOCKS + 1))
        for number, day in enumerate(theirs):
            today = (events["date"] == day).to_numpy()
            label, blocks = label_of(events[today], task), block[today]
            for left_out in range(-1, BLOCKS):
                kept = blocks != left_out
                own = [metric(task, label[kept], seed[day][name][kept]) for seed in ours]
                other = metric(task, label[kept], theirs[day][name][kept])
                differences[number, left_out + 1] = sign * (np.mean(own) - other)
        whole, *without = differences.mean(axis=0)
        variance = (BLOCKS - 1) / BLOCKS * np.sum(np.square(without - np.mean(without)))
        leads[name] = (float(whole), float(_NORMAL * np.sqrt(variance)))
    return leads


def settings_of_lightgbm() -> dict[str, dict[str, Any]]:
    """Returns what LightGBM's search has chosen for each task.

    Raises:
        BadDataError: no search is recorded.
    """
    for entry in json.loads(quality.RESULTS.read_text("utf-8")):
        if entry["ranker"] == "lightgbm" and entry.get("chosen"):
            return dict(entry["chosen"])
    raise BadDataError(f"{quality.RESULTS}: no search of LightGBM; run benchmarks.quality first")


def table(leads: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Returns a Markdown table: a row for each way of training, a column a task."""
    tasks = list(next(iter(leads.values())))
    lines = [f"| ours is ahead by | {' | '.join(tasks)} |", f"| --- |{' ---: |' * len(tasks)}"]
    for way, found in leads.items():
        cells = [f"{found[task][0]:+.4f} ± {found[task][1]:.4f}" for task in tasks]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def run(folder: str, seeds: int, threads: int) -> str:
    """Trains both on KuaiRand's days that are reported; records and returns the table."""
    spec = load_spec(str(quality.SPEC))
    events = frames.with_history(convert.events_of(source.read_impressions(folder)), spec)
    every = [pd.Timestamp(day) for day in sorted(events["date"].unique())]
    first, last = quality.EVALUATED
    days = {number: day for number, day in enumerate(every) if first <= day <= last}
    trees, chosen = quality.Trees(events, spec, threads), settings_of_lightgbm()
    theirs = {
        day: {name: trees.predict(name, day, chosen[name]) for name in spec.tasks}
        for day in days.values()
    }
    columns = frames.transformed(events, spec)
    leads = {}
    for way, overrides in WAYS.items():
        own = load_spec(str(quality.SPEC), overrides)
        found = [quality.ours(columns, own, days, seed) for seed in range(seeds)]
        leads[way] = lead(events, spec, found, theirs)
        print(f"{way}: {leads[way]}", file=sys.stderr, flush=True)
    RESULTS.write_text(json.dumps({"seeds": seeds, "leads": leads}, indent=1) + "\n", "utf-8")
    return table(leads)


def main(arguments: Iterable[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.leads",
        description="How far ours is ahead of LightGBM on KuaiRand-Pure, with intervals over users",
    )
    parser.add_argument("--source", help="folder of the official CSV files")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of ours")
    parser.add_argument("--threads", type=int, default=1, help="LightGBM's threads")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if not (options.source and pathlib.Path(options.source).is_dir()):
        print("skipped: no folder --source; it takes the official CSV files of KuaiRand-Pure")
        return 0
    print(run(options.source, options.seeds, options.threads))
    return 0


if __name__ == "__main__":
    sys.exit(main())
