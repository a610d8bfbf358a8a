"""Events per second and peak memory of ingestion, beside TFX's CsvExampleGen.

Run as `python -m benchmarks.ingest`. Each contender reads the same rows in a process of
its own; its time starts after the imports.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

STRINGS, INTEGERS, NUMBERS = 10, 4, 6
DAY = datetime.date(2026, 1, 1)
RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results", "ingest.json")
IN_MEMORY = ["--runner=DirectRunner", "--direct_running_mode=in_memory"]
TWO_WORKERS = [
    "--runner=DirectRunner",
    "--direct_running_mode=multi_processing",
    "--direct_num_workers=2",
]


def make_fields():
    from components.daily_example_gen.fields import Field

    return (
        Field("event_id", "id", required=True),
        *(Field(f"text_{i}", "string") for i in range(STRINGS)),
        *(Field(f"int_{i}", "int") for i in range(INTEGERS)),
        *(Field(f"number_{i}", "number") for i in range(NUMBERS)),
        Field("clicked", "binary", required=True),
        Field("watched", "number", required=True),
    )


def write_logs(directory: str, rows: int) -> None:
    """Writes the rows once as CSV and once as gzipped JSON lines, a file each."""
    import numpy as np
    import pandas as pd

    csv_dir, json_dir = (os.path.join(directory, kind, str(DAY)) for kind in ("csv", "jsonl"))
    os.makedirs(csv_dir)
    os.makedirs(json_dir)
    rng = np.random.default_rng(0)
    with (
        open(os.path.join(csv_dir, "events.csv"), "w") as csv_file,
        gzip.open(os.path.join(json_dir, "events.jsonl.gz"), "wt", compresslevel=1) as json_file,
    ):
        for start in range(0, rows, 50_000):
            n = min(50_000, rows - start)
            frame = pd.DataFrame({"event_id": [f"event-{start + i:010d}" for i in range(n)]})
            for i in range(STRINGS):
                frame[f"text_{i}"] = [f"v{v}" for v in rng.zipf(1.3, n) % 100_000]
            for i in range(INTEGERS):
                frame[f"int_{i}"] = rng.integers(0, 1000, n)
            for i in range(NUMBERS):
                frame[f"number_{i}"] = rng.gamma(2.0, 20.0, n).round(4)
            frame["clicked"] = rng.integers(0, 2, n)
            frame["watched"] = rng.gamma(1.0, 30.0, n).round(2)
            frame.to_csv(csv_file, index=False, header=start == 0)
            json_file.write(frame.to_json(orient="records", lines=True))


def run_ours(directory: str, kind: str, options: list[str]) -> int:
    import apache_beam as beam

    from components.daily_example_gen.day_store import DayStore
    from components.daily_example_gen.ingest import ingest_days

    with tempfile.TemporaryDirectory(dir=directory) as store:
        started = time.perf_counter()
        days = ingest_days(
            os.path.join(directory, kind),
            [DAY],
            make_fields(),
            DayStore(store, "benchmark"),
            lambda: beam.Pipeline(argv=options),
        )
        report(started, days[DAY].manifest.events)
    return 0


def make_spec():
    """The fields of `make_fields`, and history of two ids and of their cross for both tasks."""
    from schemas.spec import RankingSpec

    table = {"type": "categorical", "buckets": 1000, "embedding": 4}
    features: dict[str, Any] = {f"text_{i}": table for i in range(STRINGS)}
    features |= {f"int_{i}": {**table, "dtype": "int"} for i in range(INTEGERS)}
    features |= {f"number_{i}": {"type": "dense"} for i in range(NUMBERS)}
    features |= {
        f"history_{i}": {"type": "history", "of": of}
        for i, of in enumerate((["text_0"], ["int_0"], ["text_0", "int_0"]))
    }
    return RankingSpec.model_validate(
        {
            "name": "benchmark",
            "features": features,
            "tasks": {
                "click": {"kind": "binary", "label": "clicked", "gate": {"min_auc": 0.5}},
                "watch": {"kind": "regression", "label": "watched", "gate": {"max_rmse": 99}},
            },
            "model": {"preset": "tiny"},
            "training": {"window_days": 1},
            "serving": {"score": "click"},
        }
    )


def run_history(directory: str) -> int:
    """Ingests two days of the same rows, then the same with history: CPU time of both."""
    import apache_beam as beam

    from components.daily_example_gen.day_store import DayStore
    from components.daily_example_gen.fields import event_fields
    from components.daily_example_gen.history_join import days_of_run
    from components.daily_example_gen.ingest import ingest_days
    from components.run_plan import RunPlan

    spec = make_spec()
    day_before = DAY - datetime.timedelta(days=1)
    plan = RunPlan(spec, DAY, (day_before,))

    def pipeline() -> beam.Pipeline:
        return beam.Pipeline(argv=IN_MEMORY)

    with tempfile.TemporaryDirectory(dir=directory) as root:
        logs = os.path.join(root, "logs")
        for day in (day_before, DAY):
            os.makedirs(os.path.join(logs, str(day)))
            source = os.path.join(directory, "csv", str(DAY), "events.csv")
            os.link(source, os.path.join(logs, str(day), "events.csv"))
        encoded = DayStore(os.path.join(root, "plain"), spec.events_fingerprint())
        started, before = time.perf_counter(), time.process_time()
        ingest_days(logs, (*plan.window, DAY), event_fields(spec), encoded, pipeline)
        between = time.process_time()
        store, tables = os.path.join(root, "store"), os.path.join(root, "tables")
        days = days_of_run(plan, logs, store, pipeline, tables)
        after = time.process_time()
        cpu = {"without": round(between - before, 1), "with history": round(after - between, 1)}
        cpu["ratio"] = round((after - between) / (between - before), 3)
        report(started, sum(day.manifest.events for day in days.values()), cpu)
    return 0


def run_csv_example_gen(directory: str) -> int:
    from tfx.components.example_gen.csv_example_gen.executor import Executor
    from tfx.proto import example_gen_pb2
    from tfx.types import standard_artifacts
    from tfx.utils import proto_utils

    examples = standard_artifacts.Examples()
    split = example_gen_pb2.SplitConfig.Split(name="train", hash_buckets=1)
    read = example_gen_pb2.Input.Split(name="all", pattern="*.csv")
    with tempfile.TemporaryDirectory(dir=directory) as output:
        examples.uri = output
        started = time.perf_counter()
        executor = Executor(Executor.Context(beam_pipeline_args=list(IN_MEMORY), tmp_dir=output))
        executor.Do(
            {},
            {"examples": [examples]},
            {
                "input_base": os.path.join(directory, "csv", str(DAY)),
                "input_config": proto_utils.proto_to_json(example_gen_pb2.Input(splits=[read])),
                "output_config": proto_utils.proto_to_json(
                    example_gen_pb2.Output(split_config=example_gen_pb2.SplitConfig(splits=[split]))
                ),
                "output_data_format": example_gen_pb2.FORMAT_TF_EXAMPLE,
                "output_file_format": example_gen_pb2.FORMAT_TFRECORDS_GZIP,
            },
        )
        elapsed = time.perf_counter() - started
        import tensorflow as tf

        files = tf.io.gfile.glob(os.path.join(output, "Split-train", "*"))
        count = sum(1 for _ in tf.data.TFRecordDataset(files, compression_type="GZIP"))
        report(time.perf_counter() - elapsed, count)
    return 0


def report(started: float, events: int, cpu: dict[str, float] | None = None) -> None:
    seconds = time.perf_counter() - started
    own, children = (
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    times = os.times()
    result = {
        "events": events,
        "seconds": round(seconds, 2),
        # Of the process and its workers, imports included: other load does not show in it.
        "cpu_seconds": round(times.user + times.system + times.children_user, 1),
        "events_per_second": round(events / seconds),
        "peak_rss_mib": round(own),
        "peak_rss_of_a_worker_mib": round(children),
        **({"cpu_by_step": cpu} if cpu else {}),
    }
    print("RESULT " + json.dumps(result), flush=True)


CONTENDERS = {
    "ours_jsonl_gz": lambda directory: run_ours(directory, "jsonl", IN_MEMORY),
    "ours_csv": lambda directory: run_ours(directory, "csv", IN_MEMORY),
    "ours_csv_2_workers": lambda directory: run_ours(directory, "csv", TWO_WORKERS),
    "ours_csv_history": run_history,
    "tfx_csv_example_gen": run_csv_example_gen,
}


def measure(contender: str, directory: str) -> dict[str, Any]:
    """Runs a contender in a process of its own."""
    load = os.getloadavg()[0]
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.ingest", "--contender", contender, "--dir", directory],
        capture_output=True,
        text=True,
    )
    lines = [x for x in finished.stdout.splitlines() if x.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{contender} failed:\n{finished.stderr[-3000:]}")
    result = {**json.loads(lines[-1][len("RESULT ") :]), "load_before": round(load, 1)}
    print(f"{contender:22} {json.dumps(result)}", flush=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--results", default=RESULTS)
    parser.add_argument("--history", action="store_true", help="what history features add, alone")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--dir", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        return CONTENDERS[args.contender](args.dir)

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        whole, quarter = (os.path.join(directory, name) for name in ("whole", "quarter"))
        write_logs(whole, args.rows)
        results["ours_csv_history"] = measure("ours_csv_history", whole)
        if args.history:
            with open(args.results, encoding="utf-8") as file:
                known = json.load(file)
            known["results"] |= results
            write_results(args.results, known)
            return 0
        write_logs(quarter, args.rows // 4)
        for contender in ("ours_jsonl_gz", "ours_csv", "ours_csv_2_workers"):
            results[contender] = measure(contender, whole)
            results[f"{contender}_quarter_of_the_rows"] = measure(contender, quarter)
        results["tfx_csv_example_gen"] = measure("tfx_csv_example_gen", whole)
    theirs = results["tfx_csv_example_gen"]["events_per_second"]
    ratios = {
        name: round(result["events_per_second"] / theirs, 1)
        for name, result in results.items()
        if name.startswith("ours") and "quarter" not in name and "history" not in name
    }
    content = {
        "rows": args.rows,
        "features": STRINGS + INTEGERS + NUMBERS,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "results": results,
        "times_csv_example_gen": ratios,
    }
    print(json.dumps(ratios))
    write_results(args.results, content)
    return 0


def write_results(path: str, content: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
