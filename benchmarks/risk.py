"""Does measured risk rank models and optimizers as practice does: `python -m benchmarks.risk`.

On simulated logs, taken in by the project's own ingestion, for the paper's Small, Large and
Large+DCN (arXiv 2302.09178, Section 5) and the same three at a quarter of the width: sharpness
under Adagrad's preconditioner over trainings with Clippy, and, with Clippy and without, the
largest learning rate at which no loss jumps and that at which no training diverges. No
warm-up, and the embeddings, which no rule clips, at a fixed rate, so that the learning rate
searched is that of the layers that are clipped.

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

from pipeline.cli.risk import training_data
from pipeline.simulate import write_logs
from pipeline.workspace import Workspace
from schemas.loading import load_spec
from schemas.spec import RankingSpec
from trainer_module.risk.assess import find_stable_rate, measure_sharpness
from trainer_module.risk.batches import event_batches
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
    "quarter": {
        "sharpness": {"steps": 32, "seeds": 5},
        "jump": {"steps": 16, "seeds": 5, "budget": 50},
        "divergence": {"steps": 60, "seeds": 3, "budget": 30},
    },
    "full": {
        "sharpness": {"steps": 1, "seeds": 3},
        "jump": {"steps": 12, "seeds": 3, "budget": 30},
    },
}
"""Steps and seeds of the trainings, and how many a search may take."""
PARTS = [
    ("quarter", "sharpness", "clippy_adagrad"),
    ("quarter", "jump", "adagrad"),
    ("quarter", "jump", "clippy_adagrad"),
    ("full", "sharpness", "clippy_adagrad"),
    ("full", "jump", "adagrad"),
    ("quarter", "divergence", "adagrad"),
    ("quarter", "divergence", "clippy_adagrad"),
]


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
    ).fitted(EVENTS, warm=False)


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


def measure(part: str, optimizer: str, spec: RankingSpec, files: Sequence[str], size: str) -> Any:
    """Measures one part of one size: sharpness, or an optimizer's rate without `part`."""
    effort = EFFORT[size][part]
    batches = event_batches(files, spec, effort["steps"] + 1)
    if part == "sharpness":
        return sharpness_summary(measure_sharpness(spec, batches, **effort))
    found = find_stable_rate(spec, optimizer, batches, **effort, jumps=part == "jump")
    return rate_summary(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"batch_size": BATCH, "learning_rate": RATE, "sizes": {}}
    if arguments.results.exists():
        results = json.loads(arguments.results.read_text())
    with tempfile.TemporaryDirectory() as folder:
        files = training_events(folder)
        for size, part, optimizer in PARTS:
            of_size = results["sizes"].setdefault(size, {"effort": EFFORT[size], "models": {}})
            for name, model in MODELS[size].items():
                key = part if part == "sharpness" else f"{part}, {optimizer}"
                of_model = of_size["models"].setdefault(name, {})
                if key in of_model:
                    continue
                began = time.perf_counter()
                of_model[key] = measure(part, optimizer, spec_of(model), files, size)
                seconds = time.perf_counter() - began
                print(size, name, key, f"{seconds:.0f} s", json.dumps(of_model[key]), flush=True)
                arguments.results.parent.mkdir(exist_ok=True)
                arguments.results.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
