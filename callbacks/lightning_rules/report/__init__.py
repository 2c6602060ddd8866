"""The report card: one page that tells a person whether to trust a run, and what to do next."""
