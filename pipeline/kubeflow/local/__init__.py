"""Runs a compiled package on this machine, as Kubeflow's driver and launcher would."""
