"""How Flink spread a step's records over its workers."""

from __future__ import annotations

import base64
import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any

from apache_beam.coders import VarIntCoder

from benchmarks.flink.cluster import Cluster
from components.counters import RECORDS

_COUNTER = (RECORDS.metric_name.namespace, RECORDS.metric_name.name)


def spread(cluster: Cluster, start: float, end: float) -> dict[str, int]:
    """Counts the records that each worker read.

    Args:
        cluster: the cluster.
        start: of the step, seconds since 1970.
        end: of the step.

    Returns:
        `components.counters.RECORDS` by the worker's id, of all workers.
    """
    found = dict.fromkeys(cluster.workers(), 0)
    for job in cluster.rest("/jobs/overview")["jobs"]:
        if start * 1000 <= job["start-time"] <= end * 1000:
            for worker, records in records_of_job(cluster, job["jid"]).items():
                found[worker] = found.get(worker, 0) + records
    return found


def records_of_job(cluster: Cluster, job: str) -> Mapping[str, int]:
    """Counts a job's records by worker."""
    found: collections.Counter[str] = collections.Counter()
    for vertex in cluster.rest(f"/jobs/{job}")["vertices"]:
        of_vertex = f"/jobs/{job}/vertices/{vertex['id']}"
        workers = {
            item["subtask"]: item["taskmanager-id"] for item in cluster.rest(of_vertex)["subtasks"]
        }
        counted = cluster.rest(f"{of_vertex}/subtasks/accumulators")["subtasks"]
        for subtask in counted:
            found[workers[subtask["subtask"]]] += records_in(subtask["user-accumulators"])
    return found


def records_in(accumulators: Sequence[Mapping[str, Any]]) -> int:
    """Reads the counter out of a subtask's accumulators, where Beam's runner puts its metrics."""
    found = 0
    for accumulator in accumulators:
        if accumulator["name"] != "__metricscontainers":
            continue
        for metric in json.loads(accumulator["value"])["metrics"].get("attempted", ()):
            labels = metric["labels"]
            if (labels.get("NAMESPACE"), labels.get("NAME")) == _COUNTER:
                payload = base64.b64decode(metric["payload"])
                found += VarIntCoder().decode(payload)
    return found
