"""How near training is to divergence: sharpness against 2 / eta, and the stable learning rate."""
