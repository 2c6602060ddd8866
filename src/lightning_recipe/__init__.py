"""The training application: models, data and the command line, built on lightning_rules."""
