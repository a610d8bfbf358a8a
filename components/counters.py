"""What Beam's runners count, worker by worker."""

from __future__ import annotations

from apache_beam.metrics import Metrics

RECORDS = Metrics.counter("steadyrank", "records")
"""Lines of logs parsed, or events read. Where it is much the same on each worker, they share it."""
