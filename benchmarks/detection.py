"""How well the divergence monitor tells healthy from diverging trainings.

    python -m benchmarks.detection --cache DIR [--groups NAME ...] [--source DIR]

Planted curves (`benchmarks.planted`), and real trainings (`benchmarks.monitored`), whose statistics
are collected once into the cache and judged from there. The results of groups that are not asked
for stay as they are.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import scipy.stats

from benchmarks import planted
from benchmarks.monitored import GROUPS, UNSEEN_SCENARIOS, cached, collect
from trainer_module.stability.detection import Detector
from trainer_module.stability.events import DivergenceEvent, Limits
from trainer_module.stability.statistics import StepStatistics

RESULTS = pathlib.Path(__file__).parent / "results" / "detection.json"
_PATIENCES = (25, 50, 100, 200, 400)


def detect(statistics: StepStatistics, limits: Limits) -> Detector:
    """Runs the detector over a whole training."""
    names = (statistics.tasks, statistics.binary_tasks, statistics.layers)
    detector = Detector(*names, limits=limits)
    detector.update(statistics)
    return detector


def true_start(meta: dict[str, Any], statistics: StepStatistics) -> int:
    """First bad step of a diverged training, in hindsight.

    Where the learning rate was raised, the step after; else the first one whose loss is not
    finite, or at which half of the layers' gradients are zero, or the first of three in a row
    with twice the median loss of the steps before.
    """
    scenario = next(s for s in UNSEEN_SCENARIOS if s.name == meta["scenario"])
    if scenario.bump is not None:
        return scenario.bump[0] + 1
    loss = statistics.loss.astype(np.float64)
    high = np.array(
        [not loss[i] <= 2.0 * np.median(loss[: max(1, i)][-50:]) for i in range(len(loss))]
    )
    lasting = high & np.append(high[1:], True) & np.append(high[2:], [True, True])
    dead = np.mean(statistics.gradient_norm == 0, axis=1) >= 0.5
    bad = ~np.isfinite(loss) | lasting | dead
    return int(np.argmax(bad)) if bad.any() else 0


def delay(events: tuple[DivergenceEvent, ...], start: int) -> tuple[int, int] | None:
    """Steps from `start` to noticing, and to calling it full divergence (None: never)."""
    full = [event for event in events if event.kind in ("full", "open")]
    if not full or full[-1].ended is None:
        return None
    during = [event for event in events if event.ended is None or event.ended >= start]
    # Called before the start as hindsight has it, where it is called early.
    noticed = min(event.detected for event in during or full)
    return max(0, noticed - start), full[-1].ended - start


def summary(values: list[int]) -> dict[str, float]:
    if not values:
        return {}
    return {
        "median": float(np.median(values)),
        "90th percentile": float(np.quantile(values, 0.9)),
        "largest": max(values),
    }


def interval(failures: int, trials: int) -> list[float]:
    """Returns Wilson's 95 % interval of a share."""
    found = scipy.stats.binomtest(failures, trials).proportion_ci(method="wilson")
    return [round(found.low, 4), round(found.high, 4)]


def judge_real(group: str, cache: pathlib.Path, limits: Limits) -> dict[str, Any]:
    """Holds the detector's verdicts against what became of a group's trainings."""
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    runs, noticed, called = [], [], []
    healthy_steps = 0
    for meta, statistics in cached(group, cache):
        detector = detect(statistics, limits)
        label = meta["outcome"]["label"]
        counts[label][detector.verdict] += 1
        if label == "healthy":
            healthy_steps += len(statistics)
        found = {"run": f"{meta['scenario']} {meta['seed']}", "log": meta["log"], "label": label}
        if label == "diverged" and detector.verdict == "diverged":
            start = true_start(meta, statistics)
            delays = delay(detector.events, start)
            found["start"] = start
            if delays:
                noticed.append(delays[0])
                called.append(delays[1])
                found["noticed_after"], found["called_after"] = delays
        runs.append({**found, "monitor": detector.summary()})
    false_alarms = counts["healthy"]["diverged"]
    misses = counts["diverged"].total() - counts["diverged"]["diverged"]
    return {
        "trainings": {label: dict(count) for label, count in counts.items()},
        "false_alarms": false_alarms,
        "share_of_false_alarms": interval(false_alarms, counts["healthy"].total()),
        "misses": misses,
        "share_of_misses": interval(misses, counts["diverged"].total()),
        "healthy_steps": healthy_steps,
        "steps_until_noticed": summary(noticed),
        "steps_until_called_full": summary(called),
        "runs": runs,
    }


def without_runs(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "runs"}


def judge_planted(limits: Limits, seeds: range) -> dict[str, Any]:
    """Verdicts on planted curves, by what was planted and the noise."""
    steps, start = 1000, 400
    results: dict[str, Any] = {}
    for noise in planted.NOISES:
        row: dict[str, Any] = {}
        verdicts = collections.Counter(
            detect(planted.healthy(noise, steps, seed).statistics(), limits).verdict
            for seed in seeds
        )
        row["healthy"] = dict(verdicts)
        for width, height in (
            (1, 5.0),
            (3, 0.2),
            (3, 2.0),
            (10, 0.2),
            (10, 1.0),
            (50, 0.2),
            (50, 5.0),
        ):
            outcomes: collections.Counter = collections.Counter()
            for seed in seeds:
                curves = planted.healthy(noise, steps, seed)
                detector = detect(
                    planted.with_spike(curves, start, width, height).statistics(), limits
                )
                hit = any(abs(e.start - start) <= width for e in detector.events)
                outcomes["diverged" if detector.diverged else "seen" if hit else "not seen"] += 1
            row[f"spike of {width} steps, +{100 * height:.0f} %"] = dict(outcomes)
        for shape in planted.FULL:
            delays, missed = [], 0
            for seed in seeds:
                curves = planted.with_full(planted.healthy(noise, steps, seed), start, shape)
                detector = detect(curves.statistics(), limits)
                found = delay(detector.events, start)
                if found is None:
                    missed += 1
                else:
                    delays.append(found[1])
            row[f"full, {shape}"] = {"misses": missed, "steps_until_called_full": summary(delays)}
        results[noise] = row
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=pathlib.Path, required=True, help="folder for statistics")
    parser.add_argument("--groups", nargs="*", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--source", help="folder of KuaiRand-Pure's official CSV files")
    parser.add_argument("--planted-seeds", type=int, default=20, help="0: no planted curves")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    limits = Limits()
    results["limits"] = dataclasses.asdict(limits)
    for group in options.groups:
        if any(log.world is None for log in GROUPS[group].logs) and not options.source:
            print(f"{group}: left out, it takes --source")
            continue
        collect(group, options.cache, options.source)
        results[group] = judge_real(group, options.cache, limits)
        results[group]["by patience"] = {
            patience: without_runs(
                judge_real(group, options.cache, dataclasses.replace(limits, patience=patience))
            )
            for patience in _PATIENCES
        }
        print(f"{group}: {json.dumps(without_runs(results[group]))}")
    if options.planted_seeds:
        results["planted"] = judge_planted(limits, range(100, 100 + options.planted_seeds))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
