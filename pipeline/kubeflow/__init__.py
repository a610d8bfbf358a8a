"""Kubeflow Pipelines: the package, what runs in its containers, and what runs it here."""
