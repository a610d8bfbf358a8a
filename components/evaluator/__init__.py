"""Evaluator: TFX's, with the gates of the plan's spec."""
