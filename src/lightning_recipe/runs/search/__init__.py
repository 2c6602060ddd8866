"""Random and other searches for good options of `fit`, on one machine or many: the subcommand `search`."""
