"""Transform: TFX's, given the plan's spec."""
