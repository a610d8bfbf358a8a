"""A Flink cluster on this machine: what the pipeline does there, beside Beam's Direct runner."""
