"""A git repository as a run sees it: its code, the tags on it, and the checkpoints that they tell of."""
