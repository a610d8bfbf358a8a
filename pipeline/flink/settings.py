"""What a Flink cluster has to be set to for these pipelines, and why."""

from __future__ import annotations

from collections.abc import Mapping

CLUSTER: Mapping[str, str] = {
    # A lost worker is noticed after heartbeat.timeout (50 s), and until then each new try is put on
    # it again: the tries have to last longer. They are few, since a step whose data is bad fails
    # each time. A shorter timeout would take a busy worker for a lost one.
    "restart-strategy.type": "fixed-delay",
    "restart-strategy.fixed-delay.attempts": "5",
    "restart-strategy.fixed-delay.delay": "20 s",
    # A worker that starts TensorFlow answers late; after 10 s Flink would count that as a failure.
    "pekko.ask.timeout": "60 s",
    # Beam's jars are in Flink's own class path. Were they loaded anew for each job, a worker of
    # Beam would not outlive a stage, and would import TensorFlow again in the next.
    "classloader.resolve-order": "parent-first",
    # Each shuffle takes buffers for each of its sources and targets, and a job has dozens.
    "taskmanager.network.sort-shuffle.min-buffers": "64",
    "taskmanager.memory.network.min": "128m",
    "taskmanager.memory.network.max": "128m",
}
"""Settings of a cluster, by Flink's names."""
