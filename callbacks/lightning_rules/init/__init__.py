"""Rules about how a network starts."""
