"""Beam pipelines on Flink: options, workers, and what a cluster has to be set to."""
