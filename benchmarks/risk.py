"""Does measured risk rank models and optimizers as practice does: `python -m benchmarks.risk`.

On simulated logs, taken in by the project's own ingestion, for the paper's Small, Large and
Large+DCN (arXiv 2302.09178, Section 5) and the same three at a quarter of the width: sharpness
under Adagrad's preconditioner over trainings with Clippy, and the largest stable learning rate
with Clippy and without. No warm-up, and the embeddings, which no rule clips, at a fixed rate,
so that the learning rate searched is that of the layers that are clipped.

Results are written after each part; a part that is there already is not measured again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.risk_cli import training_data
from pipeline.simulate import write_logs
from pipeline.workspace import Workspace
from schemas.spec import RankingSpec, load_spec
from trainer_module.inputs import Batch
from trainer_module.risk.assess import find_stable_rate, measure_sharpness
from trainer_module.risk.data import event_batches
from trainer_module.risk.over_run import SharpnessPoint
from trainer_module.risk.stable_rate import StableRate

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "risk.json"
START = datetime.date(2026, 1, 1)
EVENTS = 20_000
BATCH = 128
RATE = 0.1
MODELS = {
    "quarter": {
        "Small": "{shared: [128, 128]}",
        "Large": "{shared: [1024, 1024, 1024, 1024]}",
        "Large+DCN": "{shared: [1024, 1024, 1024, 1024], cross_layers: 1}",
    },
    "full": {
        "Small": "{preset: small}",
        "Large": "{preset: large}",
        "Large+DCN": "{preset: large_dcn}",
    },
}
EFFORT = {
    # steps and seeds of the sharpness, then steps, seeds and trainings of each search
    "quarter": (32, 5, 80, 5, 45),
    "full": (8, 3, 30, 3, 18),
}
OPTIMIZERS = ("adagrad", "clippy_adagrad")


def spec_of(model: str) -> RankingSpec:
    """The demo's spec with another model, no warm-up and a fixed rate of the embeddings."""
    return load_spec(
        str(ROOT / "schemas" / "demo.yaml"),
        [
            f"model={model}",
            f"training.batch_size={BATCH}",
            f"training.learning_rate={RATE}",
            f"training.embedding_learning_rate={RATE}",
            "training.warmup_steps=0",
        ],
    )


def training_events(folder: str) -> tuple[str, ...]:
    """Simulates logs and ingests what a cold start of the fourth day trains on."""
    logs = os.path.join(folder, "logs")
    write_logs(logs, START, 4, EVENTS, seed=0)
    date = START + datetime.timedelta(days=3)
    workspace = Workspace(os.path.join(folder, "work"))
    return training_data(spec_of(MODELS["full"]["Small"]), date, logs, workspace).files


def sharpness_summary(points: Sequence[SharpnessPoint]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, by step."""
    rows = []
    for step in sorted({point.step for point in points}):
        own = [point for point in points if point.step == step]
        values = [point.sharpness for point in own]
        rows.append(
            {
                "step": step,
                "seeds": len(own),
                "mean": statistics.mean(values),
                "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
                "mean_ratio": statistics.mean(point.ratio for point in own),
                "largest_relative_residual": max(p.residual / abs(p.sharpness) for p in own),
                "mean_loss": statistics.mean(point.loss for point in own),
            }
        )
    return rows


def rate_summary(found: StableRate) -> dict[str, Any]:
    """The bracket, and of each rate how many trainings diverged."""
    return {
        "highest_stable": found.highest_stable,
        "lowest_unstable": found.lowest_unstable,
        "complete": found.complete,
        "rates": [
            {
                "learning_rate": outcome.learning_rate,
                "diverged": outcome.diverged,
                "trainings": len(outcome.trials),
                "interval": outcome.interval,
                "reasons": sorted({t.diverged for t in outcome.trials if t.diverged}),
            }
            for outcome in found.outcomes
        ],
    }


def measure(part: str, spec: RankingSpec, batches: Sequence[Batch], effort: tuple[int, ...]) -> Any:
    """Measures one part: `sharpness`, or the stable rate of the optimizer it names."""
    sharp_steps, sharp_seeds, steps, seeds, budget = effort
    if part == "sharpness":
        return sharpness_summary(
            measure_sharpness(
                spec, batches[: sharp_steps + 1], steps=sharp_steps, seeds=sharp_seeds
            )
        )
    found = find_stable_rate(
        spec, part, batches[: steps + 1], steps=steps, seeds=seeds, budget=budget
    )
    return rate_summary(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", action="append", choices=sorted(MODELS), help="default: both")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"batch_size": BATCH, "learning_rate": RATE, "sizes": {}}
    if arguments.results.exists():
        results = json.loads(arguments.results.read_text())
    with tempfile.TemporaryDirectory() as folder:
        files = training_events(folder)
        for size in arguments.size or list(MODELS):
            effort = EFFORT[size]
            of_size = results["sizes"].setdefault(size, {"effort": effort, "models": {}})
            for part in ("sharpness", *OPTIMIZERS):
                for name, model in MODELS[size].items():
                    of_model = of_size["models"].setdefault(name, {})
                    if part in of_model:
                        continue
                    spec = spec_of(model)
                    batches = event_batches(files, spec, max(effort[0], effort[2]) + 1)
                    began = time.perf_counter()
                    of_model[part] = measure(part, spec, batches, effort)
                    seconds = time.perf_counter() - began
                    print(size, name, part, f"{seconds:.0f} s", json.dumps(of_model[part]))
                    arguments.results.parent.mkdir(exist_ok=True)
                    arguments.results.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
