"""How strong the prior of history should be: `python -m benchmarks.prior --source DIR`.

On the events of KuaiRand-Pure of 2022-04-27 to 05-02, each history rate ranks a day's events by
itself. For each strength of the prior the table says what that loses against the best strength
of each pair of an id and a task: AUC, or correlation with the label of a regression.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from benchmarks.daily import metric
from benchmarks.quality import label_of
from examples import frames
from examples.kuairand import arrays, convert, source
from schemas.features import history_column
from schemas.loading import load_spec
from schemas.tasks import BinaryTask, Task

STRENGTHS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
DAYS = pd.date_range("2022-04-27", "2022-05-02")


def worth(task: Task, label: np.ndarray, rate: np.ndarray) -> float:
    """Returns how well a rate alone ranks: AUC, or correlation with a regression's label."""
    if isinstance(task, BinaryTask):
        return metric(task, label, rate)
    labelled = np.isfinite(label)
    return float(np.corrcoef(label[labelled], rate[labelled])[0, 1])


def measure(events: pd.DataFrame) -> pd.DataFrame:
    """Returns the mean worth over the days; a row for each pair, a column for each strength."""
    columns = {}
    for strength in STRENGTHS:
        plain = load_spec(arrays.SPEC)
        spec = load_spec(
            arrays.SPEC, [f"features.{name}.prior_strength={strength}" for name in plain.history]
        )
        joined = frames.with_history(events, spec)
        by_pair = {}
        for name in spec.history:
            for task_name, task in spec.history_tasks(name).items():
                by_day = []
                for day in DAYS:
                    today = joined[joined["date"] == day]
                    rate = today[history_column(name, task_name)].to_numpy(np.float64)
                    by_day.append(worth(task, label_of(today, task), rate))
                by_pair[name, task_name] = float(np.mean(by_day))
        columns[strength] = pd.Series(by_pair)
    return pd.DataFrame(columns)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", required=True, help="folder of the official CSV files")
    options = parser.parse_args()
    events = convert.events_of(source.read_impressions(options.source))
    found = measure(events[events["date"] <= DAYS[-1]])
    lost = found.rsub(found.max(axis=1), axis=0)
    tasks = load_spec(arrays.SPEC).tasks
    binary = [isinstance(tasks[task], BinaryTask) for _, task in lost.index]
    print("| strength | AUC lost, mean | most | correlation lost, mean | most |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for strength in STRENGTHS:
        of_auc, of_correlation = lost[strength][binary], lost[strength][np.logical_not(binary)]
        cells = [of_auc.mean(), of_auc.max(), of_correlation.mean(), of_correlation.max()]
        print(f"| {strength:g} | {' | '.join(f'{cell:.4f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
