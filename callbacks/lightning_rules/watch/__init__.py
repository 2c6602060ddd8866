"""Rules about what to watch while a network trains."""
