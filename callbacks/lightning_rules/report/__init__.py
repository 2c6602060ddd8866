"""Rules about showing a person what came of it."""
