"""Daily event logs in, the run's `train` and `eval` examples out."""
