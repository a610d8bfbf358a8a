"""Events per second and peak memory of the gate's evaluation, beside TFMA's own evaluation.

Both judge a candidate and a served model of the demo's spec (six tasks, one slice feature) on
the same simulated events, each in a process of its own, by the same EvalConfig: ours by whole
batches, TFMA's as TFX's Evaluator calls it. TFMA takes milliseconds for an event, so its
throughput comes from fewer events: from the difference of two runs, so that what a run costs
at its beginning does not count. Ours is given with it.

    python -m benchmarks.evaluate
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from schemas.loading import load_spec
from schemas.spec import RankingSpec

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "evaluate.json"
MODELS = ("candidate", "baseline")
_HISTORY_EVENTS = 20_000
"""Events of the day that the models' history tables are of."""


def export_models(spec: RankingSpec, examples: str, folder: str) -> None:
    """Exports two untrained models, which cost as much as trained ones, with TFT's graph."""
    import apache_beam as beam
    import keras
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tfx_bsl.public import tfxio

    from benchmarks.simulated import SHARDS, history_tables
    from schemas.tfdv_schema import tfdv_schema
    from trainer_module.export import export_model
    from trainer_module.model import build_model
    from trainer_module.preprocessing import preprocess

    graph = os.path.join(folder, "transform")
    reader = tfxio.TFExampleRecord(
        os.path.join(examples, f"data-00000-of-{SHARDS:05d}.gz"), schema=tfdv_schema(spec)
    )
    with (
        beam.Pipeline(argv=["--direct_running_mode=in_memory"]) as pipeline,
        tft_beam.Context(temp_dir=os.path.join(folder, "tmp")),
    ):
        raw = (pipeline | reader.BeamSource(), reader.TensorAdapterConfig())
        analyzed = raw | tft_beam.AnalyzeDataset(lambda inputs: preprocess(inputs, spec))
        analyzed | tft_beam.WriteTransformFn(graph)
    tables = history_tables(spec, _HISTORY_EVENTS)
    for seed, name in enumerate(MODELS):
        keras.utils.set_random_seed(seed)
        export_model(
            build_model(spec),
            tft.TFTransformOutput(graph),
            spec,
            os.path.join(folder, name),
            tables,
        )


def write_rates(spec: RankingSpec, examples: str, path: str) -> None:
    """Writes the rates that the models are to beat, of a few events."""
    from components.smoothed_rates import MAX_EVENTS, Counter, Rates

    files = [os.path.join(examples, name) for name in os.listdir(examples)]
    Rates.of(Counter(spec).count(files, MAX_EVENTS), spec).save(path)


def by_batches(spec: RankingSpec, models: dict[str, str], examples: str, output: str) -> None:
    """Evaluates as this project does."""
    import apache_beam as beam

    from components.evaluator.executor import evaluate

    with beam.Pipeline(argv=["--direct_running_mode=in_memory"]) as pipeline:
        evaluate(pipeline, spec, models, examples, output, os.path.join(examples, "..", "rates"))


def by_event(spec: RankingSpec, models: dict[str, str], examples: str, output: str) -> None:
    """Evaluates as TFX's Evaluator does."""
    import apache_beam as beam
    import tensorflow_model_analysis as tfma
    from tfx_bsl.tfxio import tensor_adapter, tf_example_record

    from components.evaluator.eval_config import eval_config
    from schemas.tfdv_schema import tfdv_schema

    config = tfma.utils.update_eval_config_with_defaults(
        eval_config(spec, compare=True), has_baseline=True
    )
    reader = tf_example_record.TFExampleRecord(
        os.path.join(examples, "*"),
        schema=tfdv_schema(spec),
        raw_record_column_name=tfma.constants.ARROW_INPUT_COLUMN,
    )
    with beam.Pipeline(argv=["--direct_running_mode=in_memory"]) as pipeline:
        _ = (
            pipeline
            | reader.BeamSource()
            | tfma.ExtractEvaluateAndWriteResults(
                eval_shared_model=[
                    tfma.default_eval_shared_model(path, model_name=name, eval_config=config)
                    for name, path in models.items()
                ],
                eval_config=config,
                tensor_adapter_config=tensor_adapter.TensorAdapterConfig(
                    arrow_schema=reader.ArrowSchema(),
                    tensor_representations=reader.TensorRepresentations(),
                ),
                output_path=output,
            )
        )


def inference_alone(spec: RankingSpec, models: dict[str, str], examples: str, output: str) -> None:
    """Reads and predicts as ours does, and sums nothing up."""
    import tensorflow_model_analysis as tfma

    from components.evaluator import inference

    predict = inference.Models(spec, models, os.path.join(examples, "..", "rates"))
    for file in sorted(os.listdir(examples)):
        for batch in inference.read_batches(os.path.join(examples, file)):
            assert predict(batch.column(0))[tfma.PREDICTIONS_KEY]


CONTENDERS = {"ours": by_batches, "tfma": by_event, "ours_inference_alone": inference_alone}


def run(contender: str, folder: str, events: int) -> None:
    """Runs a contender and prints what it took, imports not counted."""
    import tensorflow_model_analysis  # noqa: F401

    from components.evaluator import executor  # noqa: F401

    spec = load_spec(str(ROOT / "schemas" / "demo.yaml"))
    models = {name: os.path.join(folder, "models", name) for name in MODELS}
    examples = os.path.join(folder, f"examples-{events}")
    with tempfile.TemporaryDirectory(dir=folder) as output:
        wall, cpu = time.perf_counter(), time.process_time()
        CONTENDERS[contender](spec, models, examples, output)
        result = {
            "seconds": round(time.perf_counter() - wall, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "peak_rss_mib": peak_mib(),
        }
    print("RESULT " + json.dumps(result), flush=True)


def peak_mib() -> int:
    """Most memory that this process has held.

    Not `ru_maxrss`, which begins with what the process that started this one held.
    """
    status = Path("/proc/self/status").read_text()
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return round(int(peak) / 1024)


def measure(contender: str, folder: str, events: int) -> dict[str, Any]:
    """Runs a contender in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.evaluate", "--contender", contender]
    finished = subprocess.run(
        [*command, "--folder", folder, "--events", str(events)], capture_output=True, text=True
    )
    lines = [line for line in finished.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{contender} failed:\n{finished.stderr[-3000:]}")
    result = {"events": events, **json.loads(lines[-1].removeprefix("RESULT "))}
    print(f"{contender:22} {json.dumps(result)}", flush=True)
    return result


def per_second(few: dict[str, Any], many: dict[str, Any]) -> int:
    """Events a second of CPU time, by the difference of two runs."""
    return round((many["events"] - few["events"]) / (many["cpu_seconds"] - few["cpu_seconds"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        run(args.contender, args.folder, args.events)
        return 0

    from benchmarks.simulated import write_events

    spec = load_spec(str(ROOT / "schemas" / "demo.yaml"))
    sizes = (args.events // 100, args.events // 20, args.events, 10 * args.events)
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for events in sizes:
            write_events(spec, events, os.path.join(folder, f"examples-{events}"))
        examples = os.path.join(folder, f"examples-{sizes[0]}")
        export_models(spec, examples, os.path.join(folder, "models"))
        write_rates(spec, examples, os.path.join(folder, "rates"))
        for contender, measured in (
            ("tfma", sizes[:2]),
            ("ours", (sizes[0], *sizes[2:])),
            ("ours_inference_alone", (sizes[0], sizes[2])),
        ):
            results[contender] = [measure(contender, folder, events) for events in measured]
    theirs = per_second(*results["tfma"])
    few, whole, _ = results["ours"]
    ours = per_second(few, whole)
    predicting = per_second(*results["ours_inference_alone"])
    summary = {
        "events_per_cpu_second": {"ours": ours, "tfma": theirs},
        "ratio": round(ours / theirs, 1),
        "ratio_with_all_that_a_run_costs": round(
            whole["events"] / whole["cpu_seconds"] / theirs, 1
        ),
        "share_of_inference": round(ours / predicting, 2),
    }
    print(json.dumps(summary))
    RESULTS.write_text(
        json.dumps({"cores": os.cpu_count(), **summary, "runs": results}, indent=2) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
