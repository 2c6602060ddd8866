"""Rules about what must hold before training is worth its time."""
