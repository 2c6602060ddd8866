"""Rules about the optimiser, its step and its schedule."""
