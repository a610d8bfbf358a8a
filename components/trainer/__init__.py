"""Trainer: TFX's, given the plan."""
